"""Where the pixels of an image lie on a map."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsenet.errors import ConfigError, MissingDependencyError

# GeoTIFF (OGC 19-008r4): the tag that holds the coordinate reference system.
_GEO_KEY_DIRECTORY = 34735
_MAX_TAGS = 4096  # a directory that claims more is damaged
_LONGITUDE_LATITUDE = "OGC:CRS84"


@dataclass(frozen=True)
class Georeference:
    """A coordinate reference system, and the affine map from full-image pixels into it.

    Args:
        crs: ``"EPSG:32633"`` where there is a code, WKT otherwise.
        transform: ``(a, b, c, d, e, f)`` with ``x_map = a * x + b * y + c`` and
            ``y_map = d * x + e * y + f``; (0, 0) is the upper left corner of the image.

    Raises:
        ConfigError: If the transform maps the image onto a line.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]

    def __post_init__(self) -> None:
        a, b, _, d, e, _ = self.transform
        if a * e - b * d == 0:
            raise ConfigError(
                f"A map transform must be invertible, got {self.transform}. "
                "Repair the georeference of the file, for example with gdal_edit."
            )

    def pixel_to_map(self, points_xy: np.ndarray) -> np.ndarray:
        """Moves points from the image onto the map.

        Args:
            points_xy: (N, 2), continuous full-image pixels.

        Returns:
            (N, 2) float64, in the units of the reference system.
        """
        linear, offset = self._matrix()
        return np.asarray(points_xy, dtype=np.float64) @ linear.T + offset

    def map_to_pixel(self, points_xy: np.ndarray) -> np.ndarray:
        """Moves points from the map onto the image: undoes :meth:`pixel_to_map`."""
        linear, offset = self._matrix()
        return (np.asarray(points_xy, dtype=np.float64) - offset) @ np.linalg.inv(linear).T

    def pixel_to_lonlat(self, points_xy: np.ndarray) -> np.ndarray:
        """Longitude and latitude of points, as GeoJSON (RFC 7946) wants them.

        Args:
            points_xy: (N, 2), continuous full-image pixels.

        Returns:
            (N, 2) float64, degrees on WGS 84.

        Raises:
            MissingDependencyError: If rasterio is not installed.
        """
        warp = import_rasterio().warp
        x, y = self.pixel_to_map(points_xy).T
        return np.stack(warp.transform(self.crs, _LONGITUDE_LATITUDE, x, y), axis=1)

    def _matrix(self) -> tuple[np.ndarray, np.ndarray]:
        a, b, c, d, e, f = self.transform
        return np.array([[a, b], [d, e]], dtype=np.float64), np.array([c, f], dtype=np.float64)


def import_rasterio() -> Any:
    """The rasterio module, with ``rasterio.warp`` and ``rasterio.windows``.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        import rasterio
        import rasterio.warp
        import rasterio.windows
    except ImportError as error:
        raise MissingDependencyError(
            "GeoTIFF, COG, JPEG 2000 and map coordinates need rasterio, which is not installed "
            f"({error}). Install it with `pip install 'sparsenet[geo]'`."
        ) from error
    return rasterio


def is_geotiff(path: Path) -> bool:
    """Whether a file is a TIFF or BigTIFF whose first directory names a reference system."""
    with path.open("rb") as stream:
        head = stream.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 16:
            return False
        is_big = struct.unpack_from(f"{order}H", head, 2)[0] == 43
        place, count, entry_size = ("Q", "Q", 20) if is_big else ("I", "H", 12)
        stream.seek(struct.unpack_from(f"{order}{place}", head, 8 if is_big else 4)[0])
        field = stream.read(struct.calcsize(f"{order}{count}"))
        if len(field) < struct.calcsize(f"{order}{count}"):
            return False
        num_entries = min(struct.unpack(f"{order}{count}", field)[0], _MAX_TAGS)
        entries = stream.read(num_entries * entry_size)
    starts = range(0, len(entries) - 1, entry_size)
    return any(struct.unpack_from(f"{order}H", entries, i)[0] == _GEO_KEY_DIRECTORY for i in starts)
