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
@pytest.mark.parametrize("halo", [0, 2])
def test_window_cells_are_the_rows_of_the_windows(map_size, side, halo):
    grid = WindowGrid(map_size, side)
    number = torch.arange(2 * grid.map_size[0] * grid.map_size[1]).view(2, *map_size, 1)
    index = torch.tensor([0, grid.num_windows - 1, grid.num_windows])
    cells, inside = ops.window_cells(grid, index, halo)
    fill = [grid.padded_size[i] - map_size[i] + halo for i in (0, 1)]
    padded = F.pad(number, (0, 0, halo, fill[1], halo, fill[0]), value=-1)
    for slot, window in enumerate(index.tolist()):
        image, window = divmod(window, grid.num_windows)
        top, left = (side * v for v in divmod(window, grid.size[1]))
        expected = padded[image, top : top + side + 2 * halo, left : left + side + 2 * halo, 0]
        assert torch.equal(inside[slot], expected >= 0)
        assert torch.equal(cells[slot][inside[slot]], expected[expected >= 0])
    assert cells.min() >= 0 and cells.max() < number.numel()


def test_coarser_cells_lie_below_the_finer_ones():
    coarse = torch.arange(2 * 3 * 5).view(2, 1, 3, 5)
    fine = F.interpolate(coarse.double(), scale_factor=2.0).long().flatten()
    assert torch.equal(ops.coarser_cells(torch.arange(len(fine)), (3, 5)), fine)


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


@pytest.mark.parametrize("map_size, side", MAPS)
def test_adding_to_windows_without_gradients_equals_spreading(map_size, side):
    grid = WindowGrid(map_size, side)
    x = _map(grid)
    values = torch.randn(2, *grid.size, 3, dtype=torch.float64)
    expected = x + ops.spread_windows(values, grid)
    before = x.clone()
    assert torch.equal(ops.add_to_windows(x, values, grid), expected) and torch.equal(x, before)
    strided = x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    with torch.no_grad():
        out = ops.add_to_windows(strided, values, grid)
        assert ops.add_to_windows(x, values, grid) is x
    assert torch.equal(out, expected) and out.is_contiguous() and torch.equal(strided, before)
    assert torch.equal(x, expected)


@pytest.mark.parametrize("is_masked", [True, False])
@pytest.mark.parametrize("map_size, side", MAPS)
def test_moments_strip_by_strip_equal_those_at_once(map_size, side, is_masked, monkeypatch):
    grid = WindowGrid(map_size, side)
    x = _map(grid)
    mask = (torch.rand(2, *map_size, 1) > 0.5).double() if is_masked else None
    monkeypatch.setattr(ops, "CACHED_VALUES", 1)  # one row of windows per strip
    mean, mean_square = ops.window_moments(x, grid, mask)
    with torch.no_grad():
        strips = ops.window_moments(x, grid, mask)
    torch.testing.assert_close(mean, ops.pool_windows(x, grid, mask))
    torch.testing.assert_close(mean_square, ops.pool_windows(x * x, grid, mask))
    torch.testing.assert_close(strips, (mean, mean_square))


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
@pytest.mark.parametrize("is_static", [False, True])
def test_halo_equals_cutting_the_updated_map(map_size, side, halo, is_static):
    grid = WindowGrid(map_size, side)
    x = _map(grid)
    kept = torch.arange(0, 2 * grid.num_windows, 2)
    slots = torch.cat([kept, kept[:1]]) if is_static else kept  # the last repeats the first
    index = ops.halo_index(grid, slots, 2, halo, is_static=is_static)
    outside = x.reshape(-1, 3)[index.outside]
    windows = ops.partition_windows(x, grid)[slots] * 10  # kept windows have moved on
    grown = ops.gather_halo(windows, outside, index)

    updated = ops.partition_windows(x, grid).clone()
    updated[kept] *= 10
    updated = ops.merge_windows(updated, grid)
    fill = [grid.padded_size[i] - map_size[i] + halo for i in (0, 1)]
    updated = F.pad(updated, (0, 0, halo, fill[1], halo, fill[0]))
    for slot, number in enumerate(slots.tolist()):
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
