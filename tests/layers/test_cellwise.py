import torch
from torch import nn

from sparsenet.layers import cellwise
from sparsenet.layers.cellwise import FeedForward, norm_cells


def test_a_few_cells_at_a_time_give_the_same(monkeypatch):
    torch.manual_seed(0)
    ffn, norm = FeedForward(8, 32, nn.GELU()), nn.LayerNorm(8)
    x = torch.randn(2, 5, 7, 8)
    at_once = ffn.after(norm, x)  # with gradients: never in parts
    torch.testing.assert_close(at_once, ffn[2](ffn[1](ffn[0](norm(x)))))
    monkeypatch.setattr(cellwise, "CACHED_VALUES", 16 * 32)
    with torch.no_grad():
        assert cellwise.chunk_length(x, 32) == 16
        torch.testing.assert_close(ffn.after(norm, x), at_once)


def test_inference_normalises_in_place_and_training_does_not(monkeypatch):
    torch.manual_seed(0)
    norm, x = nn.LayerNorm(8), torch.randn(2, 5, 7, 8)
    nn.init.normal_(norm.weight)
    before, expected = x.clone(), norm(x)
    assert torch.equal(norm_cells(norm, x), expected) and torch.equal(x, before)
    monkeypatch.setattr(cellwise, "CACHED_VALUES", 16 * 8)
    with torch.no_grad():
        strided = norm_cells(norm, x.transpose(1, 2))
        assert torch.equal(strided, expected.transpose(1, 2)) and torch.equal(x, before)
        assert norm_cells(norm, x) is x
    torch.testing.assert_close(x, expected)


def test_its_keys_are_those_of_a_sequence():
    keys = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).state_dict().keys()
    assert FeedForward(4, 8, nn.ReLU()).state_dict().keys() == keys
