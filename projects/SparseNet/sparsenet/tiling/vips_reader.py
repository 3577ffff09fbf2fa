"""Image files through libvips (pyvips): streamed rows, and windows of tiled TIFF pyramids.

Tiled TIFF files are read at random from the stored level; such a reader survives a fork and
pickling, because every process and thread opens the file for itself. All other files store rows in
order. They stream; the first *window* read from one decodes the whole image once, into memory up to
``_MEMORY_LIMIT`` bytes, beyond that into an unlinked temporary file. Files rotated by EXIF
(orientation 3 to 8) cannot stream and always take that second way.

No libvips thread pool is used: regions are filled in the calling thread, since a pool does not
survive a fork.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

from sparsenet.errors import ImageReadError, MissingDependencyError
from sparsenet.tiling.handles import LocalHandles
from sparsenet.tiling.level_reader import DEFAULT_MAX_PIXELS, LevelReader, check_num_pixels
from sparsenet.tiling.ome import count_ome_planes
from sparsenet.tiling.vips_colour import to_srgb
from sparsenet.tiling.window import Window

T = TypeVar("T", int, str)

logger = logging.getLogger(__name__)

# Decoded images up to this size stay in memory: every photo does, no gigapixel image does.
_MEMORY_LIMIT = 64_000_000
_NOT_PICKLED = ("_pixels", "_pyvips")
# Rows per call of libvips. A call allocates what it returns: on a 30,000-pixel-wide JPEG of 712 MP
# 8 rows take 3.0 s of processor time, as libvips' own pass; 64 take 6.3 s, half of it page faults.
_FETCH_HEIGHT = 8
_BAND_HEIGHT = 64
# Progressive JPEG keeps the coefficients of the whole image; below this nobody notices.
_PROGRESSIVE_LIMIT = 100_000_000


def import_pyvips() -> Any:
    """The pyvips module.

    Raises:
        MissingDependencyError: If it, or libvips itself, is not installed.
    """
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            "Reading image files needs pyvips and libvips, which are not installed "
            f"({error}). Install them with `pip install 'sparsenet[gigapixel]'`."
        ) from error
    return pyvips


class VipsReader(LevelReader):
    """An image file, opened by libvips; only the header is read at first.

    Args:
        path: The file.
        max_pixels: Larger images are refused.

    Raises:
        ImageReadError: If the file is no readable image, or too large.
        MissingDependencyError: If pyvips is not installed.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, max_pixels: float = DEFAULT_MAX_PIXELS
    ) -> None:
        self._file = str(path)
        self._pyvips = import_pyvips()
        self._fail_on = "error"
        image = self._open({})
        check_num_pixels(self._file, (image.height, image.width), max_pixels)
        if _header(image, "vips-loader", "").startswith("tiff"):
            # libtiff only warns of damaged tiles (and not of tags that it does not know).
            self._fail_on = "warning"
        self._warn_of_progressive(image)
        self._orientation = _header(image, "orientation", 1)
        self._num_planes = count_ome_planes(self._file, _header(image, "image-description", ""))
        self.is_random_access = self._orientation == 1 and _header(image, "tile-width", 0) > 0
        self._level_options, sizes = self._find_levels(image)
        if self._orientation >= 5:
            sizes = [(width, height) for height, width in sizes]
        self._regions = LocalHandles()
        self._pixels: np.ndarray | None = None
        super().__init__(self._file, sizes)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dict__ if name not in _NOT_PICKLED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pyvips = import_pyvips()
        self._pixels = None

    # ---------------------------------------------------------------- opening

    def _open(self, options: dict[str, Any]) -> Any:
        try:
            # revalidate: never an image of libvips' cache, whose file position a fork would share.
            return self._pyvips.Image.new_from_file(
                self._file, fail_on=self._fail_on, revalidate=True, **options
            )
        except self._pyvips.Error as error:
            raise ImageReadError(
                f"{self._file}: this is no image that can be read, or its beginning is damaged "
                f"({_reason(error)}). JPEG, PNG, WebP and TIFF are supported."
            ) from error

    def _warn_of_progressive(self, image: Any) -> None:
        num_pixels = image.width * image.height
        if _header(image, "jpeg-multiscan", 0) and num_pixels > _PROGRESSIVE_LIMIT:
            logger.warning(
                "%s is a progressive JPEG: decoding it takes up to %.1f GB. Convert it to a tiled "
                "TIFF to read it in bounded memory.",
                self._file,
                num_pixels * 6e-9,  # three 2-byte coefficients per pixel
            )

    def _find_levels(self, image: Any) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
        """Options that open each stored resolution, and the ``(h, w)`` of each."""
        options: list[dict[str, Any]] = [{}]
        sizes = [(image.height, image.width)]
        if not self.is_random_access:
            return options, sizes
        num_subifds, num_pages = _header(image, "n-subifds", 0), _header(image, "n-pages", 1)
        candidates = [{"subifd": i} for i in range(num_subifds)]
        candidates += [{"page": i} for i in range(1, num_pages)]
        for candidate in candidates:
            level = self._open(candidate)
            is_tiled = _header(level, "tile-width", 0) > 0
            if is_tiled and _is_reduced(sizes[0], sizes[-1], (level.height, level.width)):
                options.append(candidate)
                sizes.append((level.height, level.width))
        return options, sizes

    # ---------------------------------------------------------------- windows

    def _fetch(self, level: int, window: Window) -> np.ndarray:
        if not self.is_random_access:
            pixels = self._decoded()
            return np.ascontiguousarray(pixels[window.y : window.y2, window.x : window.x2])
        return self._fill(self._regions.get(level, self._open_region), window)

    def _open_region(self, level: int) -> Any:
        """A level at random access, from which rectangles can be fetched."""
        return self._pyvips.Region.new(self._open_level(level, "random"))

    def _open_level(self, level: int, access: str) -> Any:
        """A level in sRGB."""
        options = {**self._level_options[level], "access": access}
        image = self._open(options)
        if self._num_planes > 1:
            planes = [self._open({**options, "page": i}) for i in range(1, self._num_planes)]
            image = image.bandjoin(planes).copy(interpretation="multiband")
        return to_srgb(image, self._file)

    def _fill(self, region: Any, window: Window) -> np.ndarray:
        try:
            buffer = region.fetch(window.x, window.y, window.width, window.height)
        except self._pyvips.Error as error:
            raise ImageReadError(
                f"{self._file}: the image is truncated or damaged at rows {window.y} to "
                f"{window.y2} ({_reason(error)}). Copy or download the file again."
            ) from error
        return np.frombuffer(buffer, np.uint8).reshape(*window.size, 3)

    def _decoded(self) -> np.ndarray:
        """The whole image, upright, decoded on the first call."""
        if self._pixels is None:
            height, width = self._stored_size()
            shape = (height, width, 3)
            if height * width * 3 <= _MEMORY_LIMIT:
                pixels = np.empty(shape, np.uint8)
            else:
                # The mapping keeps the file alive; it vanishes with the reader.
                with tempfile.TemporaryFile(prefix="sparsenet-") as file:
                    pixels = np.memmap(file, np.uint8, "w+", shape=shape)
            y = 0
            for band in self._stream(0, _BAND_HEIGHT, 0):
                pixels[y : y + len(band)] = band
                y += len(band)
            self._pixels = upright(pixels, self._orientation)
        return self._pixels

    def _stored_size(self) -> tuple[int, int]:
        height, width = self.size
        return (width, height) if self._orientation >= 5 else (height, width)

    # ---------------------------------------------------------------- rows

    def _rows(self, level: int, band_height: int, first_row: int) -> Iterator[np.ndarray]:
        if self._orientation <= 2:
            for band in self._stream(level, band_height, first_row):
                yield upright(band, self._orientation)
            return
        pixels = self._decoded()
        for y in range(first_row, len(pixels), band_height):
            yield pixels[y : y + band_height]

    def _stream(self, level: int, band_height: int, first_row: int) -> Iterator[np.ndarray]:
        """Bands of the stored rows, before rotation; one buffer is used for all of them."""
        image = self._open_level(level, "sequential")
        region = self._pyvips.Region.new(image)
        height, width = image.height, image.width
        band = np.empty((min(band_height, height - first_row), width, 3), np.uint8)
        for y in range(first_row, height, band_height):
            rows = band[: height - y]
            for i in range(0, len(rows), _FETCH_HEIGHT):
                part = rows[i : i + _FETCH_HEIGHT]
                part[:] = self._fill(region, Window(0, y + i, width, len(part)))
            yield rows


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view of stored pixels, turned as EXIF orientation 1 to 8 says.

    Args:
        pixels: (h, w, 3) as stored.
        orientation: EXIF tag 274.

    Returns:
        (h, w, 3), or (w, h, 3) for orientations 5 to 8.
    """
    if orientation in (3, 4, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7):
        pixels = pixels[:, ::-1]
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation == 6:
        return pixels[:, ::-1]
    return pixels[::-1] if orientation == 8 else pixels


def _header(image: Any, field: str, default: T) -> T:
    """A field of the file's header; the default where the file does not have it."""
    return type(default)(image.get(field)) if image.get_typeof(field) else default


def _is_reduced(full: tuple[int, int], last: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a page is the image at a whole downsample, and coarser than the last level."""
    whole = round(full[1] / size[1])
    is_rounded = all(abs(have - side / whole) < 1 for have, side in zip(size, full))
    return is_rounded and size[0] < last[0] and size[1] < last[1]


def _reason(error: Exception) -> str:
    """The last line of libvips' message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
