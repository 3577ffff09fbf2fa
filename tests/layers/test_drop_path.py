import torch

from sparsenet.layers.drop_path import DropPath


def test_drops_whole_entries_and_keeps_the_mean():
    torch.manual_seed(0)
    out = DropPath(0.25)(torch.ones(20000, 2, 2))
    torch.testing.assert_close(out.unique(), torch.tensor([0, 1 / 0.75]))
    assert torch.equal(out[:, 0, 0], out[:, 1, 1])
    assert abs(out.mean() - 1) < 0.02


def test_does_nothing_in_evaluation():
    x = torch.randn(4, 3)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0)(x) is x
