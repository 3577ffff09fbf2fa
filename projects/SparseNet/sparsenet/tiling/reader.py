"""Opening images, however large.

:func:`open_image` picks the reader for a file; :class:`ArrayReader` wraps pixels that are in memory
already. Each library that decodes files has a module of its own, imported when a file needs it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sparsenet.errors import ImageReadError
from sparsenet.tiling.georeference import is_geotiff
from sparsenet.tiling.level_reader import DEFAULT_MAX_PIXELS, ImageReader, LevelReader
from sparsenet.tiling.window import Window

VIPS_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
RASTER_SUFFIXES = (".jp2", ".j2k", ".jpx")
SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".svslide", ".vms", ".vmu", ".bif")
# Endings of the files to take from a folder; a file that is named is opened whatever its ending.
IMAGE_SUFFIXES = (*VIPS_SUFFIXES, *RASTER_SUFFIXES, *SLIDE_SUFFIXES, ".dzi")


class ArrayReader(LevelReader):
    """An image that is in memory already.

    Args:
        array: (h, w, 3) uint8 RGB, or (h, w) uint8 grey.
        path: Name of the image in messages.

    Raises:
        ImageReadError: If the array is empty or has another shape or type.
    """

    is_random_access = True

    def __init__(self, array: np.ndarray, *, path: str = "<array>") -> None:
        pixels = array[:, :, None] if array.ndim == 2 else array
        if array.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            raise ImageReadError(
                f"{path}: an image array must be uint8 of shape (h, w, 3) or (h, w), got "
                f"{array.dtype} of shape {array.shape}. Convert it to 8-bit RGB first."
            )
        if pixels.size == 0:
            raise ImageReadError(f"{path}: an image array must have pixels, got {array.shape}.")
        self._pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        super().__init__(path, [pixels.shape[:2]])

    def _fetch(self, level: int, window: Window) -> np.ndarray:
        return np.ascontiguousarray(self._pixels[window.y : window.y2, window.x : window.x2])

    def _rows(self, level: int, band_height: int, first_row: int) -> Iterator[np.ndarray]:
        for y in range(first_row, self.size[0], band_height):
            yield np.ascontiguousarray(self._pixels[y : y + band_height])


def open_image(
    path: str | os.PathLike[str], *, max_pixels: float = DEFAULT_MAX_PIXELS
) -> ImageReader:
    """Opens an image file and reads its header only.

    JPEG, PNG, WebP, TIFF, BigTIFF and OME-TIFF come through libvips (extra ``gigapixel``), as do
    the tiles of a Deep Zoom image (``.dzi``); slides (``SLIDE_SUFFIXES``) through OpenSlide (extra
    ``wsi``); GeoTIFF, COG and JPEG 2000 through GDAL (extra ``geo``). In 8 or 16 bits, grey,
    palette, RGB, CMYK or Lab, they come out as 8-bit sRGB: an embedded ICC profile is applied, 16
    bits are scaled to 8, EXIF rotation is applied, and transparent pixels are laid on white.

    Args:
        path: The file.
        max_pixels: Larger images are refused before anything is decoded (``TEST.TILE.MAX_PIXELS``).

    Raises:
        ImageReadError: If the file is missing, empty, no image, or too large.
        MissingDependencyError: If the library for this format is not installed.
    """
    file = Path(path)
    _check_file(file)
    suffix = file.suffix.lower()
    if suffix == ".dzi":
        from sparsenet.tiling.deep_zoom_reader import DeepZoomReader

        return DeepZoomReader(file, max_pixels=max_pixels)
    if suffix in SLIDE_SUFFIXES:
        from sparsenet.tiling.slide_reader import SlideReader

        return SlideReader(file, max_pixels=max_pixels)
    if suffix in RASTER_SUFFIXES or is_geotiff(file):
        from sparsenet.tiling.raster_reader import RasterReader

        return RasterReader(file, max_pixels=max_pixels)
    from sparsenet.tiling.vips_reader import VipsReader

    return VipsReader(file, max_pixels=max_pixels)


def _check_file(file: Path) -> None:
    """Raises ImageReadError if this is no file with content that may be read."""
    if not file.exists():
        raise ImageReadError(f"{file}: there is no such image file. Check the path.")
    if file.is_dir():
        raise ImageReadError(
            f"{file}: an image file was expected, this is a folder. Of a Deep Zoom image, name the "
            ".dzi file."
        )
    try:
        num_bytes = file.stat().st_size
        with file.open("rb"):
            pass
    except OSError as error:
        raise ImageReadError(f"{file}: the file cannot be opened: {error}.") from error
    if num_bytes == 0:
        raise ImageReadError(f"{file}: the file is empty (0 bytes). Copy it again.")
