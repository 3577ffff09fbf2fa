"""A folder that shows an image with its detections in a browser, from disk or from a web server.

``index.html`` needs no server and no network: the tile source is inline, the boxes come in a script
file, and OpenSeadragon (BSD-3-Clause, its licence lies beside it) is part of this package.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sparsenet.errors import OutputError
from sparsenet.files import make_folder, write_bytes
from sparsenet.gigapixel.deep_zoom import TILE_SIZE, TILE_SUFFIX, DeepZoomWriter
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports import class_color, class_name
from sparsenet.gigapixel.exports.rows import outlines
from sparsenet.gigapixel.selection import Reason
from sparsenet.gigapixel.sweep import sweep
from sparsenet.gigapixel.truth import Truth
from sparsenet.tiling import ArrayReader, ImageReader, Tile, open_image

ASSETS = Path(__file__).parent / "viewer_assets"
_TILES = "tiles"
_PAGE = "index.html"
_WHY_SKIPPED = {
    Reason.EMPTY: "nothing expected",
    Reason.MASKED: "outside the mask",
    Reason.BUDGET: "over the budget",
}
# Pixels; quarters the size of the page's data.
_OUTLINE_TOLERANCE = 1.0

# A tile that did not run, why, and the best score expected in it; see ``TileSelection.skipped``.
SkippedTile = tuple[Tile, Reason, float]


def save_viewer(
    detections: Detections,
    image: str | os.PathLike[str] | np.ndarray | ImageReader,
    folder: str | os.PathLike[str],
    *,
    truth: Truth | None = None,
    skipped: Iterable[SkippedTile] = (),
    threshold: float = 0.4,
    progress: bool = False,
) -> Path:
    """Writes the viewer of one image, decoding it once.

    Args:
        detections: Full-image pixels.
        image: A file, (h, w, 3) uint8 RGB pixels, or an open reader.
        folder: Created where it does not exist; an older viewer in it is replaced.
        truth: Enables the comparison.
        skipped: Tiles to be shown as not looked at.
        threshold: Score limit when the page opens.
        progress: Show a bar.

    Returns:
        The path of ``index.html``.

    Raises:
        OutputError: If something cannot be written.
        ImageReadError: If the image cannot be read.
    """
    reader = _reader(image)
    with viewer_tiles(folder, reader.size) as tiles:
        sweep(reader, [tiles], progress=progress)
    title = Path(reader.path).name
    return write_page(
        detections, folder, title=title, truth=truth, skipped=skipped, threshold=threshold
    )


def _reader(image: str | os.PathLike[str] | np.ndarray | ImageReader) -> ImageReader:
    if isinstance(image, np.ndarray):
        return ArrayReader(image)
    return open_image(image) if isinstance(image, (str, os.PathLike)) else image


def viewer_tiles(folder: str | os.PathLike[str], image_size: tuple[int, int]) -> DeepZoomWriter:
    """The writer of a viewer's tiles; older tiles and the page that shows them are removed first.

    Raises:
        OutputError: If the folder cannot be written.
    """
    path = make_folder(folder)
    try:
        (path / _PAGE).unlink(missing_ok=True)
        if (path / _TILES).exists():
            shutil.rmtree(path / _TILES)
    except OSError as error:
        raise OutputError(
            f"The older viewer in {path} must be removed, which failed: {error}. Remove it by hand "
            "or choose another folder."
        ) from error
    return DeepZoomWriter(path / _TILES, image_size)


def write_page(
    detections: Detections,
    folder: str | os.PathLike[str],
    *,
    title: str,
    truth: Truth | None = None,
    skipped: Iterable[SkippedTile] = (),
    threshold: float = 0.4,
) -> Path:
    """Writes everything but the tiles; the page itself comes last. See :func:`save_viewer`."""
    path = make_folder(folder)
    content = json.dumps(
        viewer_data(detections, title=title, truth=truth, skipped=skipped, threshold=threshold),
        separators=(",", ":"),
        allow_nan=False,
    )
    write_bytes(path / "detections.js", f"window.SPARSENET={content};\n".encode())
    for asset in sorted(ASSETS.iterdir(), key=lambda file: file.name == _PAGE):
        write_bytes(path / asset.name, asset.read_bytes())
    return path / _PAGE


def viewer_data(
    detections: Detections,
    *,
    title: str,
    truth: Truth | None = None,
    skipped: Iterable[SkippedTile] = (),
    threshold: float = 0.4,
) -> dict[str, Any]:
    """What the page's scripts read: flat lists, detections by falling score."""
    ranked = detections[(-detections.scores).argsort(kind="stable")]
    used = [ranked.classes, truth.classes] if truth is not None else [ranked.classes]
    num_classes = max(len(ranked.class_names), *(int(c.max(initial=-1)) + 1 for c in used))
    height, width = ranked.image_size
    return {
        "title": title,
        "threshold": threshold,
        "image": {
            "width": width,
            "height": height,
            "tiles": f"{_TILES}/",
            "tileSize": TILE_SIZE,
            "format": TILE_SUFFIX,
        },
        "classes": [
            {"name": class_name(ranked.class_names, i), "color": _css_color(i)}
            for i in range(num_classes)
        ],
        "detections": {
            "boxes": ranked.boxes_xyxy.astype(float).round(1).ravel().tolist(),
            "scores": ranked.scores.astype(float).round(4).tolist(),
            "classes": ranked.classes.tolist(),
            "truncated": ranked.truncated.nonzero()[0].tolist(),
            "downsamples": ranked.downsamples.tolist(),
            "outlines": _outline_data(ranked),
        },
        "truth": None if truth is None else _truth_data(truth),
        "skipped": _skipped_data(skipped),
    }


def _outline_data(detections: Detections) -> list[list[list[int]]] | None:
    """Of each detection, rings as flat lists of x and y; None without masks."""
    if detections.masks is None:
        return None
    return [
        [
            [round(value) for point in ring for value in point]
            for ring in outlines(detections, index, tolerance=_OUTLINE_TOLERANCE)
        ]
        for index in range(len(detections))
    ]


def _skipped_data(skipped: Iterable[SkippedTile]) -> dict[str, Any] | None:
    """Flat lists, the coarsest tiles first; None where no tile was skipped."""
    tiles = sorted(skipped, key=lambda one: -one[0].downsample)
    if not tiles:
        return None
    return {
        "reasons": [_WHY_SKIPPED[Reason(reason)] for _, reason, _ in tiles],
        "boxes": [side for tile, _, _ in tiles for side in tile.window.xyxy],
        "worth": [round(worth, 3) for _, _, worth in tiles],
        "downsamples": [tile.downsample for tile, _, _ in tiles],
    }


def _truth_data(truth: Truth) -> dict[str, Any]:
    return {
        "boxes": truth.boxes_xyxy.astype(float).round(1).ravel().tolist(),
        "classes": truth.classes.tolist(),
        "ignore": truth.is_ignore.astype(int).tolist(),
    }


def _css_color(index: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*class_color(index))
