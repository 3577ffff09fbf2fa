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

import os
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from sparsenet.errors import ImageReadError, MissingDependencyError
from sparsenet.tiling.reader import LevelReader
from sparsenet.tiling.window import Window

# Decoded images up to this size stay in memory: every photo does, no gigapixel image does.
_MEMORY_LIMIT = 64_000_000
# Rows per call of libvips. A call allocates what it returns: on a 30,000-pixel-wide JPEG of 712 MP
# 8 rows take 3.0 s of processor time, as libvips' own pass; 64 take 6.3 s, half of it page faults.
_FETCH_HEIGHT = 8
_BAND_HEIGHT = 64
_INTEGER_SPACES = ("srgb", "rgb", "rgb16", "b-w", "grey16", "cmyk", "multiband")


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

    def __init__(self, path: str | os.PathLike[str], *, max_pixels: float = 20e9) -> None:
        self._file = str(path)
        self._pyvips = import_pyvips()
        self._fail_on = "error"
        image = self._open({})
        if image.width * image.height > max_pixels:
            raise ImageReadError(
                f"{path}: the image has {image.width} × {image.height} = "
                f"{image.width * image.height:,} pixels, more than the limit of {max_pixels:,.0f}. "
                "Raise --max-pixels (TEST.TILE.MAX_PIXELS) if you trust the file."
            )
        if image.get_typeof("vips-loader") and image.get("vips-loader").startswith("tiff"):
            # libtiff only warns of damaged tiles (and not of tags that it does not know).
            self._fail_on = "warning"
        self._orientation = _header(image, "orientation", 1)
        self._is_tiled = self._orientation == 1 and _header(image, "tile-width", 0) > 0
        self._level_options, sizes = self._find_levels(image)
        if self._orientation >= 5:
            sizes = [(width, height) for height, width in sizes]
        self._local = threading.local()
        self._inherited: list[Any] = []
        self._pixels: np.ndarray | None = None
        super().__init__(self._file, sizes)

    def __getstate__(self) -> dict[str, Any]:
        dropped = ("_local", "_inherited", "_pixels", "_pyvips")
        return {name: value for name, value in self.__dict__.items() if name not in dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pyvips = import_pyvips()
        self._local = threading.local()
        self._inherited = []
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

    def _find_levels(self, image: Any) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
        """Options that open each stored resolution, and the ``(h, w)`` of each."""
        options: list[dict[str, Any]] = [{}]
        sizes = [(image.height, image.width)]
        if not self._is_tiled:
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
        if not self._is_tiled:
            pixels = self._decoded()
            return np.ascontiguousarray(pixels[window.y : window.y2, window.x : window.x2])
        return self._fill(self._region(level), window)

    def _region(self, level: int) -> Any:
        """This thread's own handle of a level, opened anew after a fork."""
        local = self._local
        if getattr(local, "pid", None) != os.getpid():
            # Keeps what a parent process opened: closing it here would disturb the parent's file.
            self._inherited.append(getattr(local, "regions", None))
            local.pid, local.regions = os.getpid(), {}
        if level not in local.regions:
            options = {**self._level_options[level], "access": "random"}
            local.regions[level] = self._pyvips.Region.new(self._to_rgb(self._open(options)))
        return local.regions[level]

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
            for band in self._stream(0, _BAND_HEIGHT):
                pixels[y : y + len(band)] = band
                y += len(band)
            self._pixels = upright(pixels, self._orientation)
        return self._pixels

    def _stored_size(self) -> tuple[int, int]:
        height, width = self.size
        return (width, height) if self._orientation >= 5 else (height, width)

    # ---------------------------------------------------------------- rows

    def _rows(self, level: int, band_height: int) -> Iterator[np.ndarray]:
        if self._orientation <= 2:
            for band in self._stream(level, band_height):
                yield upright(band, self._orientation)
            return
        pixels = self._decoded()
        for y in range(0, len(pixels), band_height):
            yield pixels[y : y + band_height]

    def _stream(self, level: int, band_height: int) -> Iterator[np.ndarray]:
        """Bands of the stored rows, before rotation; one buffer is used for all of them."""
        options = {**self._level_options[level], "access": "sequential"}
        image = self._to_rgb(self._open(options))
        region = self._pyvips.Region.new(image)
        band = np.empty((min(band_height, image.height), image.width, 3), np.uint8)
        for y in range(0, image.height, band_height):
            rows = band[: image.height - y]
            for i in range(0, len(rows), _FETCH_HEIGHT):
                part = rows[i : i + _FETCH_HEIGHT]
                part[:] = self._fill(region, Window(0, y + i, image.width, len(part)))
            yield rows

    # ---------------------------------------------------------------- colour

    def _to_rgb(self, image: Any) -> Any:
        """Any colour space, depth and alpha -> 8-bit sRGB on white, lazily."""
        image = self._name_space(image)
        if "icc-profile-data" in image.get_fields() and not _is_srgb(image):
            # A profile that contradicts the pixels makes libvips fall back to input_profile.
            fallback = "cmyk" if image.interpretation == "cmyk" else "srgb"
            image = image.icc_transform("srgb", embedded=True, input_profile=fallback, depth=8)
        image = image.colourspace("srgb")
        if image.bands > 4:
            image = image.extract_band(0, n=3)
        elif image.bands == 4:
            image = image.flatten(background=255)
        return image if image.format == "uchar" else image.cast("uchar")

    def _name_space(self, image: Any) -> Any:
        """Gives RGB or grey samples without a colour space one; refuses numbers without a range."""
        if image.interpretation not in _INTEGER_SPACES:
            return image
        if image.format not in ("uchar", "ushort"):
            raise ImageReadError(
                f"{self._file}: samples must be 8 or 16 bits without sign, got {image.format} in "
                f"colour space {image.interpretation}, whose black and white are unknown. Convert "
                "the file to 8 bits first."
            )
        if image.interpretation not in ("multiband", "rgb"):
            return image
        names = ("b-w", "grey16") if image.bands < 3 else ("srgb", "rgb16")
        return image.copy(interpretation=names[image.format == "ushort"])


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


def _header(image: Any, field: str, default: int) -> int:
    return int(image.get(field)) if image.get_typeof(field) else default


def _is_reduced(full: tuple[int, int], last: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a page is the image at a whole downsample, and coarser than the last level."""
    whole = round(full[1] / size[1])
    is_rounded = all(abs(have - side / whole) < 1 for have, side in zip(size, full))
    return is_rounded and size[0] < last[0] and size[1] < last[1]


def _is_srgb(image: Any) -> bool:
    """Whether RGB pixels carry a profile that is sRGB by its name; then nothing needs transforming.

    The transform costs more than decoding a JPEG, and most photos carry sRGB.
    """
    if image.interpretation not in ("srgb", "rgb16"):
        return False
    profile = bytes(image.get("icc-profile-data"))
    return b"sRGB" in profile or "sRGB".encode("utf-16-be") in profile


def _reason(error: Exception) -> str:
    """The last line of libvips' message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
