import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsenet.errors import ImageReadError
from sparsenet.gigapixel.row_shares import exchange_rows, own_rows, rows_to_run
from sparsenet.gigapixel.selection import LevelSelection, Reason
from sparsenet.tiling import TileGrid


def selected(downsample, kept) -> LevelSelection:
    grid = TileGrid((1000, 800), 100, 20, downsample)
    reasons = np.full(grid.shape, Reason.EMPTY, np.uint8)
    for row, column in kept:
        reasons[row, column] = Reason.OBJECT
    return LevelSelection(grid, reasons, np.zeros(grid.shape, np.float32))


def test_rows_come_from_top_to_bottom_without_empty_ones():
    levels = [selected(4, [(0, 0), (0, 1), (2, 1)]), selected(1, [(5, 3), (0, 2), (5, 1)])]
    assert list(rows_to_run(levels).items()) == [
        ((4, 0), (0, 1)), ((1, 0), (2,)), ((1, 5), (1, 3)), ((4, 2), (1,))
    ]  # fmt: skip


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 8))
def test_shares_are_a_partition_into_bands_of_about_equal_work(counts, num_processes):
    rows = {(1, row): tuple(range(count)) for row, count in enumerate(counts)}
    shares = [own_rows(rows, rank, num_processes) for rank in range(num_processes)]
    joined = [key for share in shares for key in share]
    assert joined == list(rows)  # each row once, and every share a band
    fair = sum(counts) / num_processes
    for share in shares:
        assert sum(map(len, share.values())) <= fair + max(counts, default=0)


def test_one_process_keeps_rows_and_errors():
    assert exchange_rows(lambda: []) == []

    def fail():
        raise ImageReadError("cut")

    with pytest.raises(ImageReadError, match="cut"):
        exchange_rows(fail)
