import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet.ops import windows as ops
from sparsenet.ops.windows import WindowGrid

MAPS = [((8, 12), 4), ((9, 7), 4), ((3, 2), 4), ((14, 21), 7)]


def _map(grid: WindowGrid, batch: int = 2, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *grid.map_size, channels, generator=generator, dtype=torch.float64)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9))
def test_grid_covers_the_map_with_less_than_one_window_to_spare(height, width, side):
    grid = WindowGrid((height, width), side)
    for cells, padded, count in zip((height, width), grid.padded_size, grid.size):
        assert padded == count * side
        assert 0 <= padded - cells < side
    assert grid.num_windows == grid.size[0] * grid.size[1]


@pytest.mark.parametrize("map_size, side", MAPS)
def test_partition_and_merge_are_inverse(map_size, side):
    grid = WindowGrid(map_size, side)
    x = _map(grid)
    windows = ops.partition_windows(x, grid)
    assert windows.shape == (2 * grid.num_windows, side, side, 3)
    assert torch.equal(ops.merge_windows(windows, grid), x)
    second = ops.pad_to_windows(x, grid)[1, :side, :side]
    assert torch.equal(windows[grid.num_windows], second)


@pytest.mark.parametrize("map_size, side", MAPS)
def test_gather_and_scatter_touch_the_kept_windows_only(map_size, side):
    grid = WindowGrid(map_size, side)
    x = ops.pad_to_windows(_map(grid), grid)
    kept = torch.tensor([0, 2 * grid.num_windows - 1])
    windows = ops.gather_windows(x, grid, kept)
    everything = ops.partition_windows(_map(grid), grid)
    assert torch.equal(windows, everything[kept])
    out = ops.scatter_windows_(x.clone(), grid, kept, windows + 1)
    expected = everything.clone()
    expected[kept] += 1
    unpadded = out[:, : map_size[0], : map_size[1]]
    assert torch.equal(unpadded, ops.merge_windows(expected, grid))


def test_gather_and_scatter_pass_gradients():
    grid = WindowGrid((4, 6), 2)
    kept = torch.tensor([1, 3, 8])

    def roundtrip(x):
        windows = ops.gather_windows(x, grid, kept)
        return ops.scatter_windows_(x * 2, grid, kept, windows.sin())

    x = _map(grid, channels=2).requires_grad_()
    assert torch.autograd.gradcheck(roundtrip, (x,))


@pytest.mark.parametrize("map_size, side", MAPS)
def test_pooling_ignores_padding_and_masked_cells(map_size, side):
    grid = WindowGrid(map_size, side)
    x = _map(grid)
    mask = torch.ones(2, *map_size, 1, dtype=torch.float64)
    mask[1, :, map_size[1] // 2 :] = 0
    plain = ops.pool_windows(x, grid)
    masked = ops.pool_windows(x, grid, mask)
    for i in range(grid.size[0]):
        for j in range(grid.size[1]):
            cells = (slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side))
            window = x[:, cells[0], cells[1]]
            assert torch.allclose(plain[:, i, j], window.mean(dim=(1, 2)))
            counted = mask[:, cells[0], cells[1]]
            mean = (window * counted).sum((1, 2)) / counted.sum((1, 2)).clamp_min(1)
            assert torch.allclose(masked[:, i, j], mean)


def test_spread_gives_each_cell_the_value_of_its_window():
    grid = WindowGrid((5, 7), 3)
    values = torch.arange(6.0).view(1, 2, 3, 1)
    spread = ops.spread_windows(values, grid)
    assert spread.shape == (1, 5, 7, 1)
    assert spread[0, 2, 2, 0] == 0 and spread[0, 2, 3, 0] == 1 and spread[0, 4, 6, 0] == 5
    assert torch.equal(ops.pool_windows(spread, grid), values)


def test_content_size_finds_trailing_filling_only():
    images = torch.zeros(4, 3, 6, 8)
    images[0] = 1
    images[1, :, :4, :5] = 1
    images[1, :, 1:3, 1:3] = 0  # a hole is no filling
    images[2, 1, 5, 0] = -1
    # images[3] is zero all over: a blank image counts as full
    expected = torch.tensor([[6, 8], [4, 5], [6, 1], [6, 8]])
    assert torch.equal(ops.content_size(images), expected)
    assert ops.content_size(images[:1]) is None


def test_cell_mask_keeps_cells_that_overlap_the_content():
    mask = ops.cell_mask(torch.tensor([[9, 8], [16, 16]]), (4, 4), 4)
    assert mask[0, :, 0, 0].tolist() == [1, 1, 1, 0]
    assert mask[0, 0, :, 0].tolist() == [1, 1, 0, 0]
    assert mask[1].min() == 1


@pytest.mark.parametrize("map_size, side", MAPS)
@pytest.mark.parametrize("halo", [0, 1, 3])
def test_halo_equals_cutting_the_updated_map(map_size, side, halo):
    grid = WindowGrid(map_size, side)
    x = ops.pad_to_windows(_map(grid), grid)
    kept = torch.arange(0, 2 * grid.num_windows, 2)
    index = ops.halo_index(grid, kept, 2, halo)
    outside = x.reshape(-1, 3)[index.outside]
    windows = ops.gather_windows(x, grid, kept) * 10  # kept windows have moved on
    grown = ops.gather_halo(windows, outside, index)

    updated = ops.scatter_windows_(x.clone(), grid, kept, windows)
    updated = updated[:, : map_size[0], : map_size[1]]
    fill = [grid.padded_size[i] - map_size[i] + halo for i in (0, 1)]
    updated = F.pad(updated, (0, 0, halo, fill[1], halo, fill[0]))
    for slot, number in enumerate(kept.tolist()):
        image, window = divmod(number, grid.num_windows)
        top, left = (side * v for v in divmod(window, grid.size[1]))
        expected = updated[image, top : top + side + 2 * halo, left : left + side + 2 * halo]
        assert torch.equal(grown[slot], expected)


def test_halo_passes_gradients_to_neighbours_and_outside():
    grid = WindowGrid((4, 6), 2)
    kept = torch.tensor([0, 1, 4])
    index = ops.halo_index(grid, kept, 1, 1)
    windows = torch.randn(3, 2, 2, 1, dtype=torch.float64, requires_grad=True)
    outside = torch.randn(len(index.outside), 1, dtype=torch.float64, requires_grad=True)
    assert len(outside) > 0
    assert torch.autograd.gradcheck(lambda a, b: ops.gather_halo(a, b, index), (windows, outside))
