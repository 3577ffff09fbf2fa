"""Every tile of several grids from one pass over an image.

Rows are decoded once, from top to bottom, and shrunk to each downsample as they come. A grid keeps
only the rows that its next tiles still need, so memory is about ``width × tile_size × 3`` bytes per
grid (in its own pixels), whatever the height of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sparsenet.errors import ConfigError
from sparsenet.tiling.grid import Tile, TileGrid
from sparsenet.tiling.reader import ImageReader, pad_to
from sparsenet.tiling.resample import shrink_area

# Rows decoded at once: enough to amortise the calls, few enough to stay in the processor's cache.
_BAND_HEIGHT = 64


def stream_tiles(
    reader: ImageReader, grids: Sequence[TileGrid]
) -> Iterator[tuple[Tile, np.ndarray]]:
    """Yields every tile of every grid as soon as its last row is decoded.

    The pixels equal ``reader.read(tile.window, tile.downsample)`` up to rounding (1 grey level; a
    pyramid's stored levels may differ by their own compression). Tiles of one grid come row by row,
    left to right; the grids interleave.

    Args:
        reader: The image.
        grids: Grids over this image, any tile sizes, overlaps and downsamples.

    Yields:
        The tile and its pixels, (*tile.size, 3) uint8 RGB, contiguous and owned by the caller.

    Raises:
        ConfigError: If a grid is of another image size.
        ImageReadError: If the pixels cannot be decoded.
    """
    for grid in grids:
        if tuple(grid.image_size) != tuple(reader.size):
            raise ConfigError(
                f"A grid must be made for its image: {reader.path} has {reader.size} (h, w), the "
                f"grid has {tuple(grid.image_size)}. Use TileGrid(reader.size, ...)."
            )
    if not grids:
        return
    downsamples = [grid.downsample for grid in grids]
    base = _common_level(reader, downsamples)
    source = _shrink_chain(grids, base)
    # Partial pixels at the image border: the outermost decoded pixels repeat for all grids.
    height, width = (
        max(-(-side // downsample) * downsample for downsample in downsamples) // base
        for side in reader.size
    )
    num_rows = 0
    # Only readers with stored levels need to know of the second argument.
    for band in reader.bands(_BAND_HEIGHT, base) if base > 1 else reader.bands(_BAND_HEIGHT):
        rows = pad_to(band, (len(band), width))
        yield from source.push(rows)
        num_rows += len(band)
        last = rows[-1:].copy()
    if num_rows < height:
        yield from source.push(np.repeat(last, height - num_rows, axis=0))


def _common_level(reader: ImageReader, downsamples: list[int]) -> int:
    """The coarsest stored level from which all downsamples can be averaged."""
    whole = [int(level) for level in reader.level_downsamples if float(level).is_integer()]
    return max(level for level in whole if all(d % level == 0 for d in downsamples))


def _shrink_chain(grids: Sequence[TileGrid], base: int) -> _Level:
    """The level that takes decoded rows, with all others as its children.

    Coarse levels are averaged from the coarsest finer level that divides them, not from full rows:
    downsamples 2 and 8 cost little more than 2 alone.
    """
    source = _Level(base, 1, [])
    levels = [source]
    for downsample in sorted({grid.downsample for grid in grids}):
        buffers = [_TileRows(grid) for grid in grids if grid.downsample == downsample]
        if downsample == base:
            source.buffers = buffers
            continue
        parent = max(
            (level for level in levels if downsample % level.downsample == 0),
            key=lambda level: level.downsample,
        )
        level = _Level(downsample, downsample // parent.downsample, buffers)
        parent.children.append(level)
        levels.append(level)
    return source


class _Level:
    """Rows of one downsample: averages what its parent gives, hands on what it makes.

    Args:
        downsample: Full-image pixels per pixel of this level.
        factor: Pixels of the parent per pixel of this level.
        buffers: The grids of this downsample.
    """

    def __init__(self, downsample: int, factor: int, buffers: list[_TileRows]) -> None:
        self.downsample = downsample
        self.factor = factor
        self.buffers = buffers
        self.children: list[_Level] = []
        self._pending: np.ndarray | None = None  # fewer than `factor` rows of the parent

    def push(self, rows: np.ndarray) -> Iterator[tuple[Tile, np.ndarray]]:
        """Takes the parent's next rows, (n, parent width, 3); yields the tiles they complete."""
        if self._pending is not None:
            missing = self.factor - len(self._pending)
            block = np.concatenate([self._pending, rows[:missing]])
            rows = rows[missing:]
            self._pending = block
            if len(block) < self.factor:
                return
            self._pending = None
            yield from self._emit(block)
        whole = len(rows) // self.factor * self.factor
        if whole:
            yield from self._emit(rows[:whole])
        if whole < len(rows):
            self._pending = rows[whole:].copy()

    def _emit(self, parent_rows: np.ndarray) -> Iterator[tuple[Tile, np.ndarray]]:
        width = parent_rows.shape[1] // self.factor * self.factor
        rows = shrink_area(parent_rows[:, :width], self.factor)
        for buffer in self.buffers:
            yield from buffer.append(rows)
        for child in self.children:
            yield from child.push(rows)


class _TileRows:
    """Ring buffer of the rows that a grid's unfinished tile rows need.

    Args:
        grid: The grid; rows are counted in its own pixels.
    """

    def __init__(self, grid: TileGrid) -> None:
        self._grid = grid
        self._starts = [y // grid.downsample for y in grid.ys]
        self._width = -(-grid.image_size[1] // grid.downsample)
        self._height = -(-grid.image_size[0] // grid.downsample)
        capacity = self._tile_height(0) + _BAND_HEIGHT
        self._ring = np.empty((capacity, self._width, 3), np.uint8)
        self._next_row = 0  # number of rows that have come
        self._next_tiles = 0  # next row of tiles

    def append(self, rows: np.ndarray) -> Iterator[tuple[Tile, np.ndarray]]:
        """Takes the next rows, in this grid's pixels; yields the tiles they complete."""
        rows = rows[:, : self._width]
        for start in range(0, len(rows), _BAND_HEIGHT):
            part = rows[start : start + _BAND_HEIGHT]
            first = self._next_row % len(self._ring)
            upper = min(len(part), len(self._ring) - first)
            self._ring[first : first + upper] = part[:upper]
            self._ring[: len(part) - upper] = part[upper:]
            self._next_row += len(part)
            yield from self._finished_tiles()

    def _finished_tiles(self) -> Iterator[tuple[Tile, np.ndarray]]:
        while self._next_tiles < len(self._starts):
            start = self._starts[self._next_tiles]
            if start + self._tile_height(start) > self._next_row:
                return
            for tile in self._grid.row(self._next_tiles):
                yield tile, self._cut(tile, start)
            self._next_tiles += 1

    def _tile_height(self, start: int) -> int:
        return min(self._grid.tile_size, self._height - start)

    def _cut(self, tile: Tile, start: int) -> np.ndarray:
        height, width = tile.size
        x = tile.window.x // tile.downsample
        first = start % len(self._ring)
        upper = min(height, len(self._ring) - first)
        pixels = np.empty((height, width, 3), np.uint8)
        pixels[:upper] = self._ring[first : first + upper, x : x + width]
        pixels[upper:] = self._ring[: height - upper, x : x + width]
        return pixels
