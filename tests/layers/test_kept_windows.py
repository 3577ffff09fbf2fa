import pytest
import torch

from sparsenet.layers.kept_windows import KeptWindows, bucket
from sparsenet.ops.windows import WindowGrid

KEPT = torch.tensor([[True, False, False, True], [False, False, True, False]])


@pytest.mark.parametrize("map_size", [(4, 6), (4, 5), (6, 6)])
def test_slots_that_are_not_needed_repeat_the_first_window(map_size):
    windows = KeptWindows(KEPT, WindowGrid(map_size, 3), num_slots=3)
    assert windows.index.tolist() == [0, 3, 0, 6, 6, 6]
    assert windows.is_static and len(windows) == 6


@pytest.mark.parametrize("map_size", [(4, 6), (4, 5), (6, 6)])
@pytest.mark.parametrize("num_slots", [None, 2, 4])
def test_scatter_puts_each_cell_back_and_gives_it_one_gradient(map_size, num_slots):
    torch.manual_seed(0)
    grid = WindowGrid(map_size, 3)
    windows = KeptWindows(KEPT, grid, num_slots)
    x = torch.randn(2, *map_size, 2, dtype=torch.float64, requires_grad=True)
    values = windows.gather(x)
    assert torch.equal(windows.scatter_(torch.zeros_like(x), values), x * _mask(grid))
    assert torch.autograd.gradcheck(
        lambda x: windows.scatter_(x * 1, windows.gather(x).sin()), (x,)
    )


def _mask(grid: WindowGrid) -> torch.Tensor:
    mask = torch.zeros(2, *grid.map_size, 1, dtype=torch.float64)
    for image, window in KEPT.nonzero().tolist():
        top, left = (3 * v for v in divmod(window, grid.size[1]))
        mask[image, top : top + 3, left : left + 3] = 1
    return mask


def test_different_values_for_one_cell_do_not_fight():
    """Random drop path gives repetitions other values: the first slot's count."""
    windows = KeptWindows(KEPT, WindowGrid((4, 5), 3), num_slots=3)
    values = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 3, 1)
    expected = torch.full((2, 4, 5, 1), -1.0)
    expected[0, :3, :3], expected[0, 3:, 3:], expected[1, 3:, :3] = 0, 1, 3
    assert torch.equal(windows.scatter_(torch.full_like(expected, -1), values), expected)


def test_buckets_are_few_and_large_enough():
    sizes = {bucket(needed, 100) for needed in range(1, 101)}
    assert sizes == {6, 12, 25, 50, 100}
    assert all(bucket(needed, 100) >= needed for needed in range(1, 101))
    assert [bucket(1, 1), bucket(3, 3), bucket(2, 3)] == [1, 3, 2]
