import torch

from sparsenet.layers.global_branch import GlobalBranch, sine_position


def test_padding_windows_change_nothing():
    torch.manual_seed(0)
    branch = GlobalBranch(16, 2, depth=2)
    pooled = torch.randn(1, 3, 4, 16)
    valid = torch.ones(1, 12, dtype=torch.bool)
    valid[0, 8:] = False
    other = pooled.clone()
    other[0, 2] = 7
    seen, unseen = branch(pooled, valid)[0, :2], branch(other, valid)[0, :2]
    torch.testing.assert_close(seen, unseen)
    assert not torch.allclose(branch(pooled, None)[0, :2], branch(other, None)[0, :2])


def test_windows_know_their_place():
    torch.manual_seed(0)
    out = GlobalBranch(16, 2, depth=1)(torch.ones(1, 2, 3, 16), None).flatten(1, 2)[0]
    distances = torch.cdist(out, out) + torch.eye(6)
    assert distances.min() > 1e-4


def test_blocks_are_chained():
    torch.manual_seed(0)
    branch = GlobalBranch(16, 2, depth=3)
    branch(torch.randn(1, 2, 2, 16), None).square().sum().backward()
    for name, parameter in branch.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_positions_are_unique_and_do_not_depend_on_the_grid():
    small, large = sine_position(2, 3, 16), sine_position(40, 50, 16).view(40, 50, 16)
    assert torch.equal(small.view(2, 3, 16), large[:2, :3])
    assert torch.unique(large.flatten(0, 1), dim=0).shape[0] == 2000
