import pytest
import torch
from torch import nn

from sparsenet.layers.kept_windows import KeptWindows
from sparsenet.layers.layout import DenseLayout, PackedLayout
from sparsenet.ops.windows import WindowGrid, merge_windows, partition_windows

MAPS = [((8, 12), 4), ((9, 7), 4)]


def _setting(map_size, side):
    torch.manual_seed(0)
    grid = WindowGrid(map_size, side)
    x = torch.randn(2, *map_size, 6)
    everything = torch.ones(2, grid.num_windows, dtype=torch.bool)
    return x, grid, PackedLayout(x, KeptWindows(everything, grid))


@pytest.mark.parametrize("map_size, side", MAPS)
@pytest.mark.parametrize("kernel, groups", [(3, 1), (7, 6)])
def test_packed_convolution_of_all_windows_is_the_dense_one(map_size, side, kernel, groups):
    x, grid, packed = _setting(map_size, side)
    conv = nn.Conv2d(6, 6, kernel, padding=kernel // 2, groups=groups)
    norm = nn.LayerNorm(6)
    nn.init.normal_(norm.bias)  # a zero outside the map must stay zero after normalisation
    dense = DenseLayout(grid).conv(x, conv, norm)
    merged = merge_windows(packed.conv(packed.gather(), conv, norm), grid)
    torch.testing.assert_close(merged, dense)
    plain = conv(norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(dense, plain)


@pytest.mark.parametrize("map_size, side", MAPS)
def test_window_gate_of_all_windows_is_the_dense_one(map_size, side):
    x, grid, packed = _setting(map_size, side)
    gate = nn.Sequential(nn.Linear(6, 6), nn.Sigmoid())
    dense = x * DenseLayout(grid).window_gate(x, gate)
    windows = partition_windows(x, grid)
    merged = merge_windows(windows * packed.window_gate(windows, gate), grid)
    torch.testing.assert_close(merged, dense)


@pytest.mark.parametrize("map_size, side", MAPS)
def test_neighbourhood_of_the_dense_map_is_zero_outside(map_size, side):
    x, grid, _ = _setting(map_size, side)
    grown = DenseLayout(grid).neighbourhood(x, 2, lambda cells: cells + 5)
    assert torch.equal(grown[:, 2:-2, 2:-2], x + 5)
    assert grown[:, :2].abs().max() == 0 and grown[:, :, -2:].abs().max() == 0


def test_is_inside_marks_cells_of_the_map():
    grid = WindowGrid((3, 5), 2)
    kept = torch.tensor([[False, False, False, False, False, True]])
    layout = PackedLayout(torch.randn(1, 3, 5, 1), KeptWindows(kept, grid))
    inside = layout.is_inside(1).view(4, 4)  # rows 1..4 and columns 3..6 of a 3 x 5 map
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:2, :2] = True
    assert torch.equal(inside, expected)


def test_scatter_returns_windows_to_their_places():
    x, _, packed = _setting((9, 7), 4)
    expected = x * 2
    assert torch.equal(packed.scatter_(packed.gather() * 2), expected)
