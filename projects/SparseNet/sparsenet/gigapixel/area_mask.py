"""Where to look in an image: polygons or a mask image from a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from sparsenet.errors import AnnotationError, ImageReadError, MissingDependencyError
from sparsenet.tiling import TileGrid, Window, open_image

# A mask is held in memory and needs no more detail than the tiles that it picks.
_MAX_MASK_PIXELS = 100_000_000
_BRIGHT = 128  # grey level from which a pixel of a mask image says "look here"


class AreaMask(Protocol):
    """A part of an image."""

    def touches(self, grid: TileGrid) -> np.ndarray:
        """(rows, columns) bool: the tiles that share some area with it."""
        ...


def read_area_mask(path: str | os.PathLike[str], image_size: tuple[int, int]) -> AreaMask:
    """Reads a mask.

    Args:
        path: ``.json`` or ``.geojson``: polygons in full-image pixels, as QuPath exports them;
            anything else: an image, bright where to look, of any size and the proportions of the
            frame.
        image_size: ``(h, w)`` of the frame.

    Raises:
        AnnotationError: If the file cannot be read, is malformed or a too large image, has other
            proportions, or nothing in it lies inside the frame.
    """
    if Path(path).suffix.lower() in (".json", ".geojson"):
        area = _read_polygons(Path(path))
        _check_meets_image(path, area, image_size)
        return PolygonMask(area)
    try:
        reader = open_image(path, max_pixels=_MAX_MASK_PIXELS)
        height, width = reader.size
        pixels = reader.read(Window(0, 0, width, height))
    except ImageReadError as error:  # the image itself is fine
        raise AnnotationError(
            f"A mask must be GeoJSON or an image of at most {_MAX_MASK_PIXELS:,} pixels; {error}"
        ) from error
    # Half a pixel of rounding on either side, in pixels of the mask.
    if abs(height * image_size[1] / image_size[0] - width) > 1 + image_size[1] / image_size[0]:
        raise AnnotationError(
            f"{path}: a mask must have the proportions of its image, {image_size[1]} × "
            f"{image_size[0]}, got {width} × {height} (w × h). Export it for this image."
        )
    is_inside = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) >= _BRIGHT
    if not is_inside.any():
        raise AnnotationError(
            f"{path}: a mask image must be bright where to look, got {width} × {height} pixels (w "
            f"× h) without one of grey level {_BRIGHT} or more. Draw the area in white."
        )
    return PixelMask(is_inside, image_size)


def _check_meets_image(
    path: str | os.PathLike[str], area: Any, image_size: tuple[int, int]
) -> None:
    import shapely

    height, width = image_size
    if not shapely.relate_pattern(area, shapely.box(0, 0, width, height), "T********"):
        x0, y0, x1, y1 = area.bounds
        raise AnnotationError(
            f"{path}: some polygon of a mask must lie inside the image, x 0 to {width} and y 0 to "
            f"{height}; got x {x0:g} to {x1:g} and y {y0:g} to {y1:g}. Export it for this image, "
            "in full-image pixels."
        )


class PolygonMask:
    """The area of a shapely geometry in full-image pixels."""

    def __init__(self, area: Any) -> None:
        self._area = area

    def touches(self, grid: TileGrid) -> np.ndarray:
        """See :class:`AreaMask`; a common edge is no area."""
        import shapely

        boxes = shapely.box(*np.array([tile.window.xyxy for tile in grid], float).T)
        touching: np.ndarray = shapely.relate_pattern(self._area, boxes, "T********")
        return touching.reshape(grid.shape)


class PixelMask:
    """The bright pixels of a mask image.

    Args:
        is_inside: (h, w) bool, stretched over the frame.
        image_size: ``(h, w)`` of the frame.
    """

    def __init__(self, is_inside: np.ndarray, image_size: tuple[int, int]) -> None:
        self._sums = cv2.integral(is_inside.view(np.uint8))  # (h + 1, w + 1) int32
        self._image_size = image_size

    def touches(self, grid: TileGrid) -> np.ndarray:
        """See :class:`AreaMask`."""
        sums, (height, width) = self._sums, self._image_size
        windows = np.array([tile.window.xyxy for tile in grid])
        h, w = sums.shape[0] - 1, sums.shape[1] - 1
        x0, x1 = windows[:, 0] * w // width, -(-windows[:, 2] * w // width)
        y0, y1 = windows[:, 1] * h // height, -(-windows[:, 3] * h // height)
        count = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
        return (count > 0).reshape(grid.shape)


def _read_polygons(path: Path) -> Any:
    """The union of all polygons of a GeoJSON file."""
    try:
        import shapely
        import shapely.geometry
    except ImportError as error:
        raise MissingDependencyError(
            f"Polygon masks need shapely, which is not installed ({error}). "
            "Install it with `pip install 'sparsenet[gigapixel]'`."
        ) from error
    try:
        geometries = _geometries(json.loads(path.read_text(encoding="utf-8")))
        # Valid ones first: the loops of a bow tie cancel each other's area.
        shapes = [shapely.make_valid(shapely.geometry.shape(g)) for g in geometries]
    except OSError as error:
        raise AnnotationError(f"{path}: the mask cannot be read ({error}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, shapely.GEOSException) as error:
        raise AnnotationError(
            f"{path}: a mask must be GeoJSON with polygons in full-image pixels, got something "
            f"else ({type(error).__name__}: {error}). Export it from QuPath, for example."
        ) from error
    parts = [part for shape in shapes for part in shapely.get_parts(shape)]
    area = shapely.union_all([part for part in parts if part.area > 0])
    if area.is_empty:
        raise AnnotationError(
            f"{path}: a mask must hold at least one polygon, got {len(shapes)} geometries without "
            "an area."
        )
    shapely.prepare(area)
    return area


def _geometries(content: Any) -> list[Any]:
    """The geometries of a FeatureCollection, a list of features, a feature, or a geometry."""
    if isinstance(content, list):
        return [geometry for item in content for geometry in _geometries(item)]
    if content["type"] == "FeatureCollection":
        return _geometries(content["features"])
    if content["type"] == "Feature":
        return [content["geometry"]] if content["geometry"] else []
    return [content]
