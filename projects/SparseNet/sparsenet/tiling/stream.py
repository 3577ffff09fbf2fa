"""Every tile of several grids from one pass over an image.

Rows are decoded once, from top to bottom, and shrunk to each downsample as they come. A grid keeps
only the rows that its next tiles still need, so memory is about ``width × tile_size × 3`` bytes per
grid (in its own pixels), whatever the height of the image. Rows that no wanted tile needs are
neither shrunk nor kept.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from heapq import merge

import numpy as np

from sparsenet.errors import ConfigError
from sparsenet.tiling.grid import Tile, TileGrid
from sparsenet.tiling.level_reader import ImageReader, closest_level, pad_to
from sparsenet.tiling.resample import shrink_area

# Rows decoded at once: enough to amortise the calls, few enough to stay in the processor's cache.
_BAND_HEIGHT = 64
# A tile of 1024 pixels that lies across stored blocks of 256 touches 1.56 times its pixels.
_WINDOW_COST = 1.5


def stream_tiles(
    reader: ImageReader,
    grids: Sequence[TileGrid],
    *,
    wanted: Callable[[Tile], bool] | None = None,
) -> Iterator[tuple[Tile, np.ndarray]]:
    """Yields the tiles of every grid, each as soon as its last row is decoded.

    The pixels are those of ``reader.read(tile.window, tile.downsample)``, whatever else is wanted;
    from a pyramid without a level that divides the downsample, up to that level's own rounding.
    Tiles of one grid come row by row, left to right; grids that are made from one stored level
    interleave, coarser levels come first.

    Sharding, resuming and selecting are all choices of ``wanted``. The pass begins at the first row
    that a wanted tile needs and ends after the last; a file that stores its pixels in rows, such as
    JPEG, is decoded from its top all the same. Where an image has random access and the wanted
    tiles are fewer pixels than the rows they lie in, each is read for itself.

    Args:
        reader: The image.
        grids: Grids over this image, any tile sizes, overlaps and downsamples.
        wanted: Asked once for every tile, before anything is decoded; None wants all of them.

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
    buffers = [
        _TileRows(grid, _source_level(reader, grid.downsample), rows)
        for grid in grids
        if (rows := _wanted_rows(grid, wanted))
    ]
    for level in sorted({buffer.level for buffer in buffers}, reverse=True):
        of_level = [buffer for buffer in buffers if buffer.level == level]
        if _windows_are_cheaper(reader, of_level):
            tiles = merge(*(b.tiles() for b in of_level), key=lambda tile: tile.window.y2)
            for tile in tiles:
                yield tile, reader.read(tile.window, tile.downsample)
        else:
            yield from _stream_level(reader, level, of_level)


def _wanted_rows(grid: TileGrid, wanted: Callable[[Tile], bool] | None) -> list[list[Tile]]:
    """The wanted tiles of each tile row that has some."""
    rows = [grid.row(row) for row in range(grid.shape[0])]
    if wanted is not None:
        rows = [[tile for tile in row if wanted(tile)] for row in rows]
    return [row for row in rows if row]


def _source_level(reader: ImageReader, downsample: int) -> int:
    """The coarsest stored level whose pixels can be averaged in whole blocks."""
    whole = [int(level) for level in reader.level_downsamples if float(level).is_integer()]
    return max(level for level in whole if downsample % level == 0)


def _windows_are_cheaper(reader: ImageReader, buffers: list[_TileRows]) -> bool:
    """Whether to read windows: the same pixels, and fewer than in the rows from first to last."""
    stored = reader.level_downsamples
    is_same = all(stored[closest_level(stored, b.grid.downsample)] == b.level for b in buffers)
    if not (reader.is_random_access and is_same):
        return False
    first = min(buffer.tile_rows[0][0].window.y for buffer in buffers)
    stop = max(buffer.tile_rows[-1][0].window.y2 for buffer in buffers)
    num_pixels = sum(tile.window.area for buffer in buffers for tile in buffer.tiles())
    return num_pixels * _WINDOW_COST < (stop - first) * reader.size[1]


def _stream_level(
    reader: ImageReader, level: int, buffers: list[_TileRows]
) -> Iterator[tuple[Tile, np.ndarray]]:
    y = int(min(buffer.first_row() for buffer in buffers))
    for rows in reader.bands(_BAND_HEIGHT, level, first_row=y):
        for buffer in buffers:
            yield from buffer.push(rows, y)
        y += len(rows)
        if all(buffer.first_row() == math.inf for buffer in buffers):
            return
    for buffer in buffers:
        yield from buffer.finish()


class _TileRows:
    """Ring buffer of the rows that a grid's unfinished tiles need.

    Args:
        grid: The grid.
        level: Full-image pixels per pixel of the rows that come; divides the grid's downsample.
        tile_rows: The wanted tiles of each tile row that has some, from top to bottom.
    """

    def __init__(self, grid: TileGrid, level: int, tile_rows: list[list[Tile]]) -> None:
        self.grid = grid
        self.level = level
        self.tile_rows = tile_rows
        self._unfinished = deque(tile_rows)
        self._factor = grid.downsample // level
        self._pending: np.ndarray | None = None  # fewer than `factor` rows of the level
        self._height, self._width = (-(-side // grid.downsample) for side in grid.image_size)
        self._end = 0  # rows of the grid that have come
        # Pages of memory that no row comes to are never touched, so an idle ring costs nothing.
        capacity = min(grid.tile_size, self._height) + _BAND_HEIGHT
        self._ring = np.empty((capacity, self._width, 3), np.uint8)

    def tiles(self) -> Iterator[Tile]:
        """The wanted tiles, row by row."""
        for tiles in self.tile_rows:
            yield from tiles

    def first_row(self) -> float:
        """The level's first row that an unfinished tile needs; infinite when all are finished."""
        return self._unfinished[0][0].window.y // self.level if self._unfinished else math.inf

    def push(self, rows: np.ndarray, y: int) -> Iterator[tuple[Tile, np.ndarray]]:
        """Takes the level's rows from ``y`` on, (n, level's width, 3); yields finished tiles.

        Rows that no tile needs are dropped; the first needed one begins a block to average.
        """
        if y + len(rows) <= self.first_row():
            self._pending = None
            return
        if self._pending is not None:
            y -= len(self._pending)
            rows = np.concatenate([self._pending, rows])
        skipped = -y % self._factor
        rows, y = rows[skipped:], y + skipped
        whole = len(rows) // self._factor * self._factor
        self._pending = rows[whole:].copy() if whole < len(rows) else None
        self._end = y // self._factor
        if whole:
            yield from self._append(shrink_area(rows[:whole], self._factor))

    def finish(self) -> Iterator[tuple[Tile, np.ndarray]]:
        """Repeats the outermost rows where tiles reach beyond the level's last row."""
        if self._pending is not None and self._unfinished:
            yield from self._append(shrink_area(self._pending, self._factor))
        while self._unfinished:
            yield from self._append(self._ring[(self._end - 1) % len(self._ring)][None])

    def _append(self, rows: np.ndarray) -> Iterator[tuple[Tile, np.ndarray]]:
        """Takes the grid's next rows; yields the tiles they complete."""
        rows = pad_to(rows, (len(rows), self._width))
        first = self._end % len(self._ring)
        upper = min(len(rows), len(self._ring) - first)
        self._ring[first : first + upper] = rows[:upper]
        self._ring[: len(rows) - upper] = rows[upper:]
        self._end += len(rows)
        while self._unfinished:
            tiles = self._unfinished[0]
            start = tiles[0].window.y // self.grid.downsample
            if start + tiles[0].size[0] > self._end:
                return
            for tile in tiles:
                yield tile, self._cut(tile, start)
            self._unfinished.popleft()

    def _cut(self, tile: Tile, start: int) -> np.ndarray:
        height, width = tile.size
        x = tile.window.x // tile.downsample
        first = start % len(self._ring)
        upper = min(height, len(self._ring) - first)
        pixels = np.empty((height, width, 3), np.uint8)
        pixels[:upper] = self._ring[first : first + upper, x : x + width]
        pixels[upper:] = self._ring[: height - upper, x : x + width]
        return pixels
