"""Decides which tiles of an image run: all, those inside a mask, or from coarse to fine.

Coarse to fine: the coarsest downsample runs everywhere. It detects the large objects, and its
evidence says where smaller ones are expected. Each finer downsample then runs only on tiles in
which an object is expected that wants it, that is, whose side at the next coarser downsample lies
below the good sizes or less than ``margin`` octaves above their lower end. Four things guard
recall: the low threshold, the margin, neighbours, and probes, a share of the skipped tiles that run
all the same and whose finds are counted. Nothing here is random: a run can be repeated, resumed and
shared out among processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from sparsenet.gigapixel.area_mask import AreaMask
from sparsenet.gigapixel.evidence import Evidence
from sparsenet.gigapixel.options import TileOptions
from sparsenet.gigapixel.selection import LevelSelection, Reason
from sparsenet.tiling import TileGrid


def selection_stages(grids: Sequence[TileGrid], options: TileOptions) -> list[list[TileGrid]]:
    """The grids that run in each pass over the image: one pass, or one per downsample."""
    if options.select.mode == "coarse_to_fine":
        return [[grid] for grid in grids]
    return [list(grids)]


def select_tiles(
    grid: TileGrid,
    earlier: Sequence[LevelSelection],
    evidence: Evidence,
    options: TileOptions,
    mask: AreaMask | None = None,
) -> LevelSelection:
    """Which tiles of a grid run.

    Args:
        grid: The grid.
        earlier: What ran in the stages before, the coarsest first; empty in the first stage, which
            runs everywhere inside the mask.
        evidence: What they expect.
        options: Of tiles and selection.
        mask: Where to look; None for everywhere.
    """
    level = LevelSelection.every(grid)
    if earlier:
        worth = _worth(grid, earlier[-1].grid.downsample, evidence, options)
        level = _rank(LevelSelection(grid, level.reasons, worth), options)
    if mask is not None:
        level.reasons[~mask.touches(grid)] = Reason.MASKED
    if earlier:
        _add_probes(level, options.select.probe_share)
        if options.select.max_tiles:
            num_before = sum(int(other.kept.sum()) for other in earlier)
            _limit(level, max(0, options.select.max_tiles - num_before))
    return level


def _worth(grid: TileGrid, coarser: int, evidence: Evidence, options: TileOptions) -> np.ndarray:
    """(rows, columns) float32; the best score among the objects that want each tile.

    An object wants the one tile in whose middle it lies most; it is whole there if it is no larger
    than the overlap.
    """
    low = options.object_size_range[0]
    is_small = evidence.sides < low * coarser * 2**options.select.margin
    wanted = evidence[is_small & (evidence.scores >= options.select.threshold)]
    columns = _most_central(wanted.centres_xy[:, 0], grid.xs, grid, grid.image_size[1])
    rows = _most_central(wanted.centres_xy[:, 1], grid.ys, grid, grid.image_size[0])
    worth = np.zeros(grid.shape, np.float32)
    np.maximum.at(worth, (rows, columns), wanted.scores.astype(np.float32))
    return worth


def _most_central(
    positions: np.ndarray, starts: Sequence[int], grid: TileGrid, length: int
) -> np.ndarray:
    """Index of the tile whose middle is nearest to each position."""
    ends = np.minimum(np.array(starts) + grid.tile_size * grid.downsample, length)
    middles = (np.array(starts) + ends) / 2
    return np.searchsorted((middles[1:] + middles[:-1]) / 2, positions, side="right")


def _rank(level: LevelSelection, options: TileOptions) -> LevelSelection:
    """Objects, their neighbours, and nothing."""
    is_object = level.worth > 0
    side = 2 * options.select.neighbours + 1
    spread = cv2.dilate(level.worth, np.ones((side, side), np.uint8))
    reasons = np.where(is_object, Reason.OBJECT, Reason.EMPTY)
    reasons[~is_object & (spread > 0)] = Reason.NEIGHBOUR
    worth = np.where(is_object, level.worth, spread)
    return LevelSelection(level.grid, reasons.astype(np.uint8), worth)


def _add_probes(level: LevelSelection, share: float) -> None:
    """Makes a share of the empty tiles probes, the same ones in every run."""
    empty = np.flatnonzero(level.reasons == Reason.EMPTY)
    order = np.random.default_rng([level.grid.downsample, *level.grid.shape]).permutation(empty)
    level.reasons.flat[order[: int(np.ceil(share * len(empty)))]] = Reason.PROBE


def _limit(level: LevelSelection, num_tiles: int) -> None:
    """Keeps the best tiles: objects first, then neighbours, then probes, each by their worth."""
    kept = np.flatnonzero(level.kept)
    ranked = kept[np.lexsort([-level.worth.flat[kept], level.reasons.flat[kept]])]
    level.reasons.flat[ranked[num_tiles:]] = Reason.BUDGET
