"""Which tiles of an image ran, which were skipped, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from sparsenet.tiling import Tile, TileGrid


class Reason(IntEnum):
    """Why a tile ran, or was skipped."""

    EVERY = 0  # this downsample runs everywhere
    OBJECT = 1  # objects of this downsample's size are expected in it
    NEIGHBOUR = 2  # beside one with such objects
    PROBE = 3  # drawn from the others, to tell what is missed
    EMPTY = 4  # nothing is expected in it
    MASKED = 5  # outside the mask
    BUDGET = 6  # the tiles of a better worth took all of the budget

    @property
    def is_kept(self) -> bool:
        """Whether a tile with this reason runs."""
        return self <= Reason.PROBE


@dataclass(frozen=True, eq=False)
class LevelSelection:
    """The tiles of one grid.

    Args:
        grid: The grid.
        reasons: (rows, columns) uint8 of :class:`Reason`.
        worth: (rows, columns) float32; the best score of the objects expected in each tile.
    """

    grid: TileGrid
    reasons: np.ndarray
    worth: np.ndarray

    @staticmethod
    def every(grid: TileGrid) -> LevelSelection:
        """All tiles of a grid."""
        return LevelSelection(
            grid, np.full(grid.shape, Reason.EVERY, np.uint8), np.ones(grid.shape, np.float32)
        )

    @property
    def kept(self) -> np.ndarray:
        """(rows, columns) bool: which tiles run."""
        return self.reasons <= Reason.PROBE

    def covers(self, points_xy: np.ndarray) -> np.ndarray:
        """(N,) whether a tile that runs holds each of (N, 2) full-image points."""
        columns, rows = (
            _tiles_at(points_xy[:, axis], starts, self.grid)
            for axis, starts in enumerate((self.grid.xs, self.grid.ys))
        )
        # Any kept tile among rows a..b and columns c..d: four corners of the running sums.
        sums = np.pad(self.kept.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        (r0, r1), (c0, c1) = rows, columns
        return sums[r1, c1] - sums[r0, c1] - sums[r1, c0] + sums[r0, c0] > 0

    def counts(self) -> dict[str, int]:
        """Number of tiles by the name of their reason, of those that occur."""
        values, counts = np.unique(self.reasons, return_counts=True)
        return {Reason(v).name.lower(): int(n) for v, n in zip(values, counts)}


def _tiles_at(
    positions: np.ndarray, starts: Sequence[int], grid: TileGrid
) -> tuple[np.ndarray, np.ndarray]:
    """First, and one after the last, tile row (or column) that holds each position."""
    begins = np.asarray(starts)
    ends = begins + grid.tile_size * grid.downsample
    first = np.searchsorted(ends, positions, side="right")
    return first, np.maximum(np.searchsorted(begins, positions, side="right"), first)


@dataclass(frozen=True, eq=False)
class TileSelection:
    """The tiles of all grids of one run.

    Args:
        levels: The coarsest first.
        num_probes_hit: Probe tiles in which an object was found: their share of the probes is the
            share of the tiles skipped as empty that may hold one.
    """

    levels: tuple[LevelSelection, ...]
    num_probes_hit: int = 0

    @property
    def num_kept(self) -> int:
        """Tiles that ran."""
        return sum(int(level.kept.sum()) for level in self.levels)

    @property
    def num_kept_pixels(self) -> int:
        """Pixels that went through the network, padding included."""
        return sum(int(level.kept.sum()) * level.grid.tile_size**2 for level in self.levels)

    @property
    def num_pixels(self) -> int:
        """Pixels of all tiles of all grids, padding included."""
        return sum(level.kept.size * level.grid.tile_size**2 for level in self.levels)

    def skipped(self) -> Iterator[tuple[Tile, Reason, float]]:
        """The tiles that did not run, why, and their worth."""
        for level in self.levels:
            for tile in level.grid:
                reason = Reason(level.reasons[tile.row, tile.column])
                if not reason.is_kept:
                    yield tile, reason, float(level.worth[tile.row, tile.column])

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file: counts of tiles by downsample and reason, and pixels."""
        return {
            "levels": [
                {
                    "downsample": level.grid.downsample,
                    "num_tiles": level.kept.size,
                    "num_kept": int(level.kept.sum()),
                    "reasons": level.counts(),
                }
                for level in self.levels
            ],
            "num_tiles": sum(level.kept.size for level in self.levels),
            "num_kept": self.num_kept,
            "num_pixels": self.num_pixels,
            "num_kept_pixels": self.num_kept_pixels,
            "num_probes_hit": self.num_probes_hit,
        }
