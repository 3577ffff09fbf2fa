"""GeoTIFF, cloud-optimised GeoTIFF and JPEG 2000 through GDAL (rasterio).

JPEG 2000 is here because the libvips of PyPI cannot read it, and GDAL's can.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from sparsenet.errors import ImageReadError
from sparsenet.tiling.georeference import Georeference, import_rasterio, is_geotiff
from sparsenet.tiling.handles import LocalHandles
from sparsenet.tiling.level_reader import DEFAULT_MAX_PIXELS, LevelReader, check_num_pixels
from sparsenet.tiling.window import Window

# GDAL keeps decoded blocks up to 5 % of the machine's memory; bands and windows need few of them.
_CACHE_MEGABYTES = 64


class RasterReader(LevelReader):
    """A raster with a place on a map, or JPEG 2000.

    The bands marked red, green and blue are shown, otherwise the first three, or the only one as
    grey. Pixels without data are white.

    Args:
        path: The file.
        max_pixels: Larger images are refused.

    Raises:
        ImageReadError: If the file is no readable raster, too large, or neither 8 nor 16 bits.
        MissingDependencyError: If rasterio is not installed.
    """

    is_random_access = True

    def __init__(
        self, path: str | os.PathLike[str], *, max_pixels: float = DEFAULT_MAX_PIXELS
    ) -> None:
        import_rasterio()
        self._file = str(path)
        # Left to guess, GDAL knows formats that name other files and addresses to read.
        self._driver = "GTiff" if is_geotiff(Path(path)) else "JP2OpenJPEG"
        with self._open(0) as image:
            check_num_pixels(self._file, image.shape, max_pixels)
            self._choose_samples(image)
            self._num_overviews = len(image.overviews(1))
            self._has_mask = any(
                "all_valid" not in {flag.name for flag in flags} for flags in image.mask_flag_enums
            )
            self.georeference = _read_georeference(image)
        sizes, self._block_heights = self._find_levels()
        self._handles = LocalHandles()
        super().__init__(self._file, sizes)

    def _open(self, level: int) -> Any:
        rasterio = import_rasterio()
        options = {"overview_level": level - 1} if level else {}
        try:
            with warnings.catch_warnings():
                # An image without a place on a map is no reason to warn.
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                return rasterio.open(self._file, driver=self._driver, sharing=False, **options)
        except rasterio.errors.RasterioError as error:
            raise ImageReadError(
                f"{self._file}: this is no GeoTIFF or JPEG 2000 image that GDAL can read, or its "
                f"beginning is damaged ({error}). Copy or download it again."
            ) from error

    def _choose_samples(self, image: Any) -> None:
        """Which bands to show, their palette, and by how many bits to shift them to 8."""
        meanings = [meaning.name for meaning in image.colorinterp]
        self._palette: np.ndarray | None = None
        if {"red", "green", "blue"} <= set(meanings):
            self._bands = [meanings.index(name) + 1 for name in ("red", "green", "blue")]
        else:
            self._bands = [1, 2, 3] if image.count >= 3 else [1]
        if meanings[0] == "palette":
            colours = image.colormap(1)
            self._palette = np.array([colours[i][:3] for i in sorted(colours)], dtype=np.uint8)
        dtype = image.dtypes[self._bands[0] - 1]
        if dtype not in ("uint8", "uint16"):
            raise ImageReadError(
                f"{self._file}: samples must be 8 or 16 bits without sign, got {dtype}, whose "
                "black and white are unknown. Convert the file first, for example with "
                "gdal_translate -ot Byte -scale."
            )
        structure = image.tags(self._bands[0], ns="IMAGE_STRUCTURE")
        num_bits = int(structure.get("NBITS", 8 if dtype == "uint8" else 16))
        self._shift = max(0, num_bits - 8)

    def _find_levels(self) -> tuple[list[tuple[int, int]], list[int]]:
        """``(h, w)`` and rows per block of each stored resolution."""
        sizes, block_heights = [], []
        for level in range(self._num_overviews + 1):
            with self._open(level) as image:
                sizes.append(image.shape)
                block_heights.append(image.block_shapes[0][0])
        return sizes, block_heights

    def _block_height(self, level: int) -> int:
        return self._block_heights[level]

    def _fetch(self, level: int, window: Window) -> np.ndarray:
        rasterio = import_rasterio()
        image = self._handles.get(level, self._open)
        place = rasterio.windows.Window(*(window.x, window.y, window.width, window.height))
        try:
            with rasterio.Env(GDAL_CACHEMAX=_CACHE_MEGABYTES):
                samples = image.read(self._bands, window=place)  # (C, h, w)
                mask = image.dataset_mask(window=place) if self._has_mask else None
        except rasterio.errors.RasterioError as error:
            raise ImageReadError(
                f"{self._file}: the image is truncated or damaged at rows {window.y} to "
                f"{window.y2} of level {level} ({error}). Copy or download it again."
            ) from error
        return self._to_rgb(samples, mask)

    def _to_rgb(self, samples: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """Samples (C, h, w) and their coverage (h, w), 0 to 255 -> (h, w, 3) uint8 on white."""
        if self._palette is not None:
            pixels = self._palette[samples[0]]
        else:
            values = (samples >> self._shift).astype(np.uint8)
            pixels = np.empty((*samples.shape[1:], 3), np.uint8)
            pixels[:] = values.transpose(1, 2, 0)  # (h, w, C), grey into all three
        if mask is not None and mask.min() < 255:
            share = mask[:, :, None].astype(np.float32) / 255
            pixels = np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)
        return pixels


def _read_georeference(image: Any) -> Georeference | None:
    if image.crs is None:
        return None
    code = image.crs.to_epsg()
    crs = f"EPSG:{code}" if code else image.crs.to_wkt()
    a, b, c, d, e, f = (float(value) for value in tuple(image.transform)[:6])
    return Georeference(crs, (a, b, c, d, e, f))
