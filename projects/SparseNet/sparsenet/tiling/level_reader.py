"""Reading windows and row bands of images that are stored at one or more levels.

An :class:`ImageReader` gives uint8 RGB pixels (sRGB) in two ways: any window at any downsample, and
all rows in order. :class:`LevelReader` does all of it but the decoding.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from sparsenet.errors import ConfigError, ImageReadError
from sparsenet.tiling.georeference import Georeference
from sparsenet.tiling.resample import resample, shrink_area
from sparsenet.tiling.window import Window

DEFAULT_MAX_PIXELS = 20_000_000_000
# Levels within this share of a downsample count as equal to it: 1.9999 reads level 2.
_LEVEL_TOLERANCE = 1e-3


@runtime_checkable
class ImageReader(Protocol):
    """What the rest of the package needs to know about an image.

    ``path`` names the image in messages. ``size`` is ``(h, w)`` in full-image pixels after rotation
    by EXIF. ``level_downsamples`` are the full-image pixels per pixel of each stored pyramid level,
    ascending; the first is 1.
    """

    path: str

    @property
    def size(self) -> tuple[int, int]:
        """``(h, w)`` in full-image pixels."""
        ...

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Full-image pixels per pixel of each stored level."""
        ...

    @property
    def georeference(self) -> Georeference | None:
        """Where the image lies on a map; None where the file does not say."""
        ...

    @property
    def is_random_access(self) -> bool:
        """Whether a window costs about its own pixels, not those of the whole image."""
        ...

    def read(self, window: Window, downsample: float = 1) -> np.ndarray:
        """The pixels of a window, see :meth:`LevelReader.read`."""
        ...

    def bands(
        self, band_height: int, downsample: int = 1, *, first_row: int = 0
    ) -> Iterator[np.ndarray]:
        """All rows in order, see :meth:`LevelReader.bands`."""
        ...


def output_size(window: Window, downsample: float) -> tuple[int, int]:
    """``(h, w)`` of a window read at a downsample.

    An integer downsample counts partial last pixels (``ceil``, as ``Tile.size``); a fractional one
    rounds to the nearest, at least 1.
    """
    if float(downsample).is_integer():
        step = int(downsample)
        return -(-window.height // step), -(-window.width // step)
    sides = (max(1, math.floor(side / downsample + 0.5)) for side in window.size)
    height, width = sides
    return height, width


def closest_level(level_downsamples: Sequence[float], downsample: float) -> int:
    """Index of the coarsest stored level that is not coarser than ``downsample``."""
    limit = downsample * (1 + _LEVEL_TOLERANCE)
    return max(i for i, stored in enumerate(level_downsamples) if stored <= limit or i == 0)


class LevelReader(ABC):
    """Reads windows and bands of an image that is stored at one or more resolutions.

    Args:
        path: Name of the image in messages.
        level_sizes: ``(h, w)`` of each stored level, the largest first.
        downsamples: Full-image pixels per pixel of each level, where the format tells them; None
            takes them from the sizes.
    """

    georeference: Georeference | None = None
    is_random_access = False

    def __init__(
        self,
        path: str,
        level_sizes: list[tuple[int, int]],
        downsamples: Sequence[float] | None = None,
    ) -> None:
        self.path = path
        self._level_sizes = level_sizes
        self._downsamples = tuple(
            downsamples or (_level_downsample(level_sizes[0], size) for size in level_sizes)
        )

    @property
    def size(self) -> tuple[int, int]:
        """``(h, w)`` in full-image pixels, after rotation by EXIF."""
        return self._level_sizes[0]

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Full-image pixels per pixel of each stored level, ascending, the first 1."""
        return self._downsamples

    @abstractmethod
    def _fetch(self, level: int, window: Window) -> np.ndarray:
        """Pixels (h, w, 3) uint8 of a window, in that level's own pixels and inside it."""

    def _block_height(self, level: int) -> int:
        """Rows of a level that are stored and decoded together."""
        return 1

    def _rows(self, level: int, band_height: int, first_row: int) -> Iterator[np.ndarray]:
        """The rows of a level from ``first_row`` on, in order, (<= band_height, w, 3) uint8.

        As this stands for readers with random access, whole rows of stored blocks are fetched, so
        that each is decoded once.
        """
        height, width = self._level_sizes[level]
        block = self._block_height(level)
        block *= max(1, band_height // block)
        top = first_row // block * block
        for y in range(top, height, block):
            rows = self._fetch(level, Window(0, y, width, min(block, height - y)))
            for start in range(max(0, first_row - y), len(rows), band_height):
                yield rows[start : start + band_height]

    def read(self, window: Window, downsample: float = 1) -> np.ndarray:
        """Reads a window at a downsample, from the closest stored level that is not coarser.

        Output pixel (i, j) shows the full-image square of ``downsample`` pixels per side that
        starts at ``(window.y + i * downsample, window.x + j * downsample)``: an average when it
        shrinks, bilinear when it enlarges. Beyond the image border the outermost pixels repeat.

        Args:
            window: Full-image pixels, inside the image.
            downsample: Full-image pixels per output pixel, above 0.

        Returns:
            (*output_size(window, downsample), 3) uint8 RGB.

        Raises:
            ConfigError: If the window is empty or not inside the image.
            ImageReadError: If the pixels cannot be decoded.
        """
        if downsample <= 0:
            raise ConfigError(f"downsample must be above 0, got {downsample}.")
        if window.area == 0 or not Window(0, 0, *self.size[::-1]).contains(window):
            raise ConfigError(
                f"A window to read must have pixels and lie inside the image, {self.size} (h, w); "
                f"got {window} for {self.path}. Clip it with Window.clip first."
            )
        size = output_size(window, downsample)
        level = closest_level(self._downsamples, downsample)
        stored = self._downsamples[level]
        ratio = downsample / stored  # level pixels per output pixel
        offset = (window.y / stored, window.x / stored)
        if abs(ratio - round(ratio)) < 1e-6 and all(start.is_integer() for start in offset):
            return self._read_aligned(level, offset, round(ratio), size)
        return self._read_between(level, offset, ratio, size)

    def _read_aligned(
        self, level: int, offset: tuple[float, float], factor: int, size: tuple[int, int]
    ) -> np.ndarray:
        """Whole level pixels averaged in whole blocks: exact."""
        wanted = Window(int(offset[1]), int(offset[0]), size[1] * factor, size[0] * factor)
        pixels = self._fetch(level, self._inside(level, wanted))
        return pad_to(shrink_area(pixels, factor), size)

    def _read_between(
        self, level: int, offset: tuple[float, float], ratio: float, size: tuple[int, int]
    ) -> np.ndarray:
        """Blocks that cut level pixels: averaged by a whole factor first, then interpolated."""
        factor = max(1, math.floor(ratio))
        starts = [max(0, math.floor(start) - factor) for start in offset]
        ends = [start + count * ratio + 2 * factor for start, count in zip(offset, size)]
        wanted = Window(
            starts[1], starts[0], math.ceil(ends[1]) - starts[1], math.ceil(ends[0]) - starts[0]
        )
        region = self._inside(level, wanted)
        pixels = shrink_area(self._fetch(level, region), factor)
        shift = ((offset[0] - region.y) / factor, (offset[1] - region.x) / factor)
        return resample(pixels, shift, ratio / factor, size)

    def _inside(self, level: int, wanted: Window) -> Window:
        """The part of a window inside its level; the border where a rounded-off level has none."""
        height, width = self._level_sizes[level]
        x, y = min(wanted.x, width - 1), min(wanted.y, height - 1)
        return Window(x, y, min(wanted.width, width - x), min(wanted.height, height - y))

    def bands(
        self, band_height: int, downsample: int = 1, *, first_row: int = 0
    ) -> Iterator[np.ndarray]:
        """The rows of the image from top to bottom, each pixel decoded once.

        A file that stores its pixels in rows is decoded as it is read and never held as a whole.
        A band is only valid until the next one is asked for.

        Args:
            band_height: Rows per band at most.
            downsample: One of ``level_downsamples``: the stored level to go through.
            first_row: Rows of that level to leave out. A file that stores its pixels in rows is
                decoded from the top all the same.

        Yields:
            (h, w, 3) uint8 RGB.

        Raises:
            ConfigError: If the height is not positive, or there is no such level or row.
            ImageReadError: If the pixels cannot be decoded.
        """
        if band_height < 1 or downsample not in self._downsamples:
            raise ConfigError(
                f"bands() needs a band_height of at least 1 and a stored level, one of "
                f"{self._downsamples}; got {band_height} and {downsample}."
            )
        level = self._downsamples.index(downsample)
        if not 0 <= first_row < self._level_sizes[level][0]:
            raise ConfigError(
                f"first_row must be one of the {self._level_sizes[level][0]:,} rows of {self.path} "
                f"at downsample {downsample}, got {first_row:,}."
            )
        return self._rows(level, band_height, first_row)


def pad_to(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Repeats the last row and column of (h, w, 3) pixels up to ``size``; cuts what is more."""
    pad_y, pad_x = (max(0, want - have) for want, have in zip(size, pixels.shape))
    if pad_y or pad_x:
        pixels = np.pad(pixels, ((0, pad_y), (0, pad_x), (0, 0)), mode="edge")
    return pixels[: size[0], : size[1]]


def _level_downsample(full: tuple[int, int], size: tuple[int, int]) -> float:
    """Full-image pixels per level pixel; whole where the level's size is a rounded quotient."""
    whole = round(full[1] / size[1])
    if all(abs(have - full_side / whole) < 1 for have, full_side in zip(size, full)):
        return whole
    return (full[0] / size[0] + full[1] / size[1]) / 2


def check_num_pixels(path: str, size: tuple[int, int], max_pixels: float) -> None:
    """Refuses an image of ``(h, w)`` pixels that is larger than allowed; for headers.

    Raises:
        ImageReadError: If there are more than ``max_pixels``.
    """
    height, width = size
    if height * width > max_pixels:
        raise ImageReadError(
            f"{path}: the image has {width} × {height} = {width * height:,} pixels, more than the "
            f"limit of {max_pixels:,.0f}. Raise --max-pixels (TEST.TILE.MAX_PIXELS) if you trust "
            "the file."
        )
