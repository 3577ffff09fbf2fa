import pytest
import torch

from sparsenet.layers import cellwise
from sparsenet.layers.kept_windows import KeptWindows
from sparsenet.layers.layout import PackedLayout
from sparsenet.layers.window_attention import WindowAttention, relative_position_index
from sparsenet.ops.windows import WindowGrid


def _attend_cell_by_cell(layer, x, grid, kept, halo):
    """Each query on its own: keys are the map's cells in the window grown by the halo."""
    side, heads = grid.window_size, layer.num_heads
    height, width = grid.map_size
    channels = x.shape[-1]
    out = torch.zeros_like(x)
    span = 2 * (side + halo) - 1
    for number in kept.flatten().nonzero().flatten().tolist():
        image, window = divmod(number, grid.num_windows)
        top, left = (side * v for v in divmod(window, grid.size[1]))
        keys = [
            (y, z)
            for y in range(max(0, top - halo), min(height, top + side + halo))
            for z in range(max(0, left - halo), min(width, left + side + halo))
        ]
        cells = torch.stack([x[image, y, z] for y, z in keys])
        k, v = layer.key_value(cells).view(len(keys), 2, heads, -1).unbind(1)
        for y in range(top, min(top + side, height)):
            for z in range(left, min(left + side, width)):
                q = layer.query(x[image, y, z]).view(heads, -1)
                rows = [
                    (ky - y + side - 1 + halo) * span + (kz - z + side - 1 + halo)
                    for ky, kz in keys
                ]
                logits = torch.einsum("hd,khd->kh", q, k) * q.shape[1] ** -0.5
                weight = (logits + layer.position_bias[rows]).softmax(dim=0)
                out[image, y, z] = layer.proj((weight[:, :, None] * v).sum(0).view(channels))
    return out


@pytest.mark.parametrize("map_size, side", [((8, 8), 4), ((7, 9), 4)])
@pytest.mark.parametrize("halo", [0, 2])
def test_equals_attention_cell_by_cell(map_size, side, halo):
    torch.manual_seed(0)
    layer = WindowAttention(8, 2, side, halo)
    torch.nn.init.normal_(layer.position_bias)
    grid = WindowGrid(map_size, side)
    x = torch.randn(2, *map_size, 8)
    kept = torch.rand(2, grid.num_windows) < 0.6
    windows = KeptWindows(kept, grid)
    layout = PackedLayout(x, windows)
    out = layer(layout.gather(), layout, torch.nn.Identity())
    ours = windows.scatter_(torch.zeros_like(x), out)
    torch.testing.assert_close(ours, _attend_cell_by_cell(layer, x, grid, kept, halo))


def test_a_few_windows_at_a_time_give_the_same(monkeypatch):
    torch.manual_seed(0)
    layer = WindowAttention(8, 2, 4, 1)
    x, grid = torch.randn(2, 15, 18, 8), WindowGrid((15, 18), 4)
    layout = PackedLayout(x, KeptWindows(torch.ones(2, grid.num_windows, dtype=torch.bool), grid))
    at_once = layer(layout.gather(), layout, torch.tanh)  # with gradients: never in parts
    monkeypatch.setattr(cellwise, "CACHED_VALUES", 16 * 36 * 32)
    assert cellwise.chunk_length(x, 36 * 32) is None
    with torch.no_grad():
        assert cellwise.chunk_length(x, 36 * 32) == 16 < len(layout.windows)
        torch.testing.assert_close(layer(layout.gather(), layout, torch.tanh), at_once)


def test_relative_positions_number_offsets():
    index = relative_position_index(3, 1)
    assert index.shape == (9, 25)
    assert index.min() == 0 and index.max() == (2 * 4 - 1) ** 2 - 1
    # query (1, 1) and key (1, 1), which is number 2 of 5 in both directions: no offset
    assert index[4, 12] == 3 * 7 + 3
    # the same offset has the same number wherever the query is
    assert index[0, 12] == index[4, 18]
