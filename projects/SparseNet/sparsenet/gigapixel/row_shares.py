"""Which tile rows run, which process runs them, and how the processes exchange what they found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sparsenet.errors import SparseNetError
from sparsenet.gigapixel.patient_gather import all_gather
from sparsenet.gigapixel.selection import LevelSelection
from sparsenet.gigapixel.tile_rows import TileRow

# Columns of the tiles that run, by (downsample, row).
Rows = dict[tuple[int, int], tuple[int, ...]]


def rows_to_run(levels: Sequence[LevelSelection]) -> Rows:
    """The rows with at least one tile that runs, from the top of the image to its bottom."""
    rows = [
        (level.grid.ys[row], -level.grid.downsample, row, np.flatnonzero(kept))
        for level in levels
        for row, kept in enumerate(level.kept)
    ]
    return {
        (-negative, row): tuple(columns.tolist())
        for _, negative, row, columns in sorted(rows, key=lambda item: item[:3])
        if len(columns)
    }


def own_rows(rows: Rows, rank: int, num_processes: int) -> Rows:
    """One process's share: rows that follow each other, with about as many tiles as any other's.

    Neighbouring rows decode the same pixels, so that shares are bands of the image.

    Args:
        rows: From the top of the image to its bottom.
        rank: Of the process.
        num_processes: Of all that share.
    """
    counts = np.array([len(columns) for columns in rows.values()], dtype=np.float64)
    middles = counts.cumsum() - counts / 2
    owners = (middles * num_processes // max(counts.sum(), 1)).astype(int)
    return {key: columns for (key, columns), owner in zip(rows.items(), owners) if owner == rank}


def exchange_rows(compute: Callable[[], list[TileRow]]) -> list[TileRow]:
    """Runs every process's share and gives all processes all rows.

    An image error of one process is raised in all of them: those without it would otherwise wait
    for that process, or go on with the next image without it.
    """
    own: list[TileRow] = []
    error: SparseNetError | None = None
    try:
        own = compute()
    except SparseNetError as raised:
        error = raised
    gathered = all_gather((own, error))
    for _, other in gathered:
        if other is not None:
            raise other
    return [row for rows, _ in gathered for row in rows]
