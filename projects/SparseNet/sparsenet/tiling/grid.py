"""Regular grids of overlapping tiles over an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sparsenet.errors import ConfigError
from sparsenet.tiling.window import Window


@dataclass(frozen=True)
class Tile:
    """One model input: a window of the image, read at a downsample.

    Args:
        row: Row in its grid.
        column: Column in its grid.
        window: Full-image pixels; never outside the image.
        downsample: Full-image pixels per tile pixel.
        seams: Whether the left, top, right and bottom side is a seam: lies inside the image.
    """

    row: int
    column: int
    window: Window
    downsample: int
    seams: tuple[bool, bool, bool, bool]

    @property
    def size(self) -> tuple[int, int]:
        """``(h, w)`` of the tile's pixels; a partial last pixel counts."""
        return -(-self.window.height // self.downsample), -(-self.window.width // self.downsample)


def tile_starts(length: int, tile: int, stride: int, step: int = 1) -> list[int]:
    """First pixels of tiles that cover ``[0, length)``; the last tile is snapped to the end.

    Args:
        length: Pixels to cover.
        tile: Pixels per tile, a multiple of ``step``.
        stride: Pixels from one start to the next, a multiple of ``step``.
        step: All starts are multiples of it, so that the tiles of one downsample share one pixel
            grid; the last tile may then end up to ``step - 1`` pixels beyond ``length``.

    >>> tile_starts(10, 4, 3)
    [0, 3, 6]
    >>> tile_starts(11, 4, 3)
    [0, 3, 6, 7]
    >>> tile_starts(11, 4, 2, step=2)
    [0, 2, 4, 6, 8]
    """
    if length <= tile:
        return [0]
    last = -(-(length - tile) // step) * step
    return [*range(0, last, stride), last]


@dataclass(frozen=True)
class TileGrid:
    """All tiles of an image at one downsample, row by row.

    Args:
        image_size: ``(h, w)`` in full-image pixels.
        tile_size: Side of a square tile in tile pixels; a tile covers ``tile_size * downsample``
            full-image pixels per side, or the whole side of a smaller image. Tiles start at
            multiples of ``downsample``; the last ones take the partial pixels of the image border.
        overlap: Pixels that neighbours share, in tile pixels. Objects up to this size are whole in
            at least one tile.
        downsample: Full-image pixels per tile pixel.

    Raises:
        ConfigError: If a size is not positive or the overlap leaves no stride.
    """

    image_size: tuple[int, int]
    tile_size: int
    overlap: int
    downsample: int = 1

    def __post_init__(self) -> None:
        if min(self.image_size) < 1 or self.tile_size < 1 or self.downsample < 1:
            raise ConfigError(
                "image_size, tile_size and downsample must be at least 1, got "
                f"{self.image_size}, {self.tile_size} and {self.downsample}."
            )
        if not 0 <= self.overlap < self.tile_size:
            raise ConfigError(
                f"overlap must be in [0, tile_size) to leave a positive stride, got {self.overlap} "
                f"with tile_size {self.tile_size}. Use a smaller overlap or larger tiles."
            )

    @property
    def xs(self) -> list[int]:
        """First column of each tile column, full-image pixels."""
        return self._starts(self.image_size[1])

    @property
    def ys(self) -> list[int]:
        """First row of each tile row, full-image pixels."""
        return self._starts(self.image_size[0])

    def _starts(self, length: int) -> list[int]:
        side = self.tile_size * self.downsample
        stride = side - self.overlap * self.downsample
        return tile_starts(length, side, stride, self.downsample)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tile rows and of tile columns."""
        return len(self.ys), len(self.xs)

    def __len__(self) -> int:
        return len(self.xs) * len(self.ys)

    def __iter__(self) -> Iterator[Tile]:
        for row in range(len(self.ys)):
            yield from self.row(row)

    def row(self, row: int) -> list[Tile]:
        """The tiles of one row, left to right."""
        height, width = self.image_size
        side = self.tile_size * self.downsample
        y = self.ys[row]
        tiles = []
        for column, x in enumerate(self.xs):
            window = Window(x, y, min(side, width - x), min(side, height - y))
            seams = (x > 0, y > 0, window.x2 < width, window.y2 < height)
            tiles.append(Tile(row, column, window, self.downsample, seams))
        return tiles
