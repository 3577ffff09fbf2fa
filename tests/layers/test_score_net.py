import pytest
import torch

from sparsenet.layers.score_net import (
    ScoreNet,
    largest_budget,
    select_windows,
    straight_through_score,
)


def _all_valid(batch: int = 2, windows: int = 10) -> torch.Tensor:
    return torch.ones(batch, windows, dtype=torch.bool)


def test_keeps_the_best_windows_of_each_image():
    torch.manual_seed(0)
    logits = torch.randn(2, 10)
    kept = select_windows(logits, _all_valid(), 0.3)
    for image in range(2):
        assert set(kept[image].nonzero().flatten().tolist()) == set(
            logits[image].topk(3).indices.tolist()
        )


@pytest.mark.parametrize(
    "ratio, windows, expected", [(0.1, 1, 1), (0.7, 10, 7), (0.25, 10, 3), (0.01, 50, 1), (1, 4, 4)]
)
def test_budget_is_rounded_up_and_at_least_one(ratio, windows, expected):
    kept = select_windows(torch.randn(1, windows), _all_valid(1, windows), ratio)
    assert kept.sum() == expected


def test_a_threshold_asks_the_content():
    logits = torch.tensor([[2.0, 1, -1, -2, 3, -3], [-1.0, -2, -3, -4, -5, -6], [1.0] * 6])
    kept = select_windows(logits, _all_valid(3, 6), 0.5, threshold=0.6)
    assert kept[0].tolist() == [True, True, False, False, True, False]
    assert kept[1].tolist() == [True] + [False] * 5  # never none
    assert kept[2].sum() == 3  # the ratio is the limit
    assert select_windows(logits, _all_valid(3, 6), 1.0, threshold=0.6).sum(1).tolist() == [3, 1, 6]
    padded = _all_valid(3, 6)
    padded[:, 4] = False
    assert select_windows(logits, padded, 1.0, threshold=0.6).sum(1).tolist() == [2, 1, 5]


@pytest.mark.parametrize("windows", [1, 7, 40])
@pytest.mark.parametrize("keep, exploration", [(0.02, 0.0), (0.3, 0.05), (0.9, 0.5)])
def test_no_selection_is_larger_than_the_largest_budget(windows, keep, exploration):
    most = largest_budget(windows, keep, exploration)
    kept = select_windows(torch.randn(3, windows), _all_valid(3, windows), keep, exploration)
    assert kept.sum(dim=1).tolist() == [most] * 3 and most <= windows


def test_no_budget_is_rounded_past_the_largest():
    """170 · .3 is 51; in float32 it is a little more."""
    for num_windows in range(1, 1500):
        logits = torch.zeros(1, num_windows)
        for keep in (0.3, 0.6, 0.15, 0.09):
            kept = select_windows(logits, torch.ones(1, num_windows, dtype=torch.bool), keep)
            assert kept.sum() == max(1, largest_budget(num_windows, keep)), (num_windows, keep)


def test_padding_never_wins_and_does_not_count():
    logits = torch.tensor([[0.0, 1, 2, 3, 9, 9], [0.0, 1, 2, 3, 4, 5]])
    valid = _all_valid(2, 6)
    valid[0, 4:] = False
    kept = select_windows(logits, valid, 0.5)
    assert kept[0].tolist() == [False, False, True, True, False, False]
    assert kept[1].tolist() == [False, False, False, True, True, True]
    assert torch.equal(select_windows(logits, valid, 1.0), valid)
    assert not (select_windows(logits, valid, 0.5, exploration=0.9) & ~valid).any()


def test_exploration_adds_random_windows_and_drops_none():
    torch.manual_seed(0)
    logits, valid = torch.randn(4, 40), _all_valid(4, 40)
    best = select_windows(logits, valid, 0.2)
    seen = best.clone()
    for _ in range(60):
        kept = select_windows(logits, valid, 0.2, exploration=0.1)
        assert (kept & best).sum() == best.sum()
        assert kept.sum(dim=1).tolist() == [12] * 4
        seen |= kept
    assert seen.all()


def test_equal_scores_keep_the_budget():
    assert select_windows(torch.zeros(1, 9), _all_valid(1, 9), 0.5).sum() == 5


def test_straight_through_changes_no_value_and_reaches_the_score():
    torch.manual_seed(0)
    source = torch.randn(2, 3, 3, 4, dtype=torch.float64)
    output = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    score = torch.rand(2, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    result = straight_through_score(output, source, score)
    assert torch.equal(result, output)
    weight = torch.randn_like(source)
    (result * weight).sum().backward()
    assert torch.equal(output.grad, weight)
    # the gradient of source + factor · (output - source) at factor 1
    factor = torch.ones_like(score, requires_grad=True)
    update = (output - source).detach()
    ((source + factor * update) * weight).sum().backward()
    torch.testing.assert_close(score.grad, factor.grad)


def test_score_net_sees_variance_and_neighbours_but_no_padding():
    torch.manual_seed(0)
    net = ScoreNet(8)
    mean, square = torch.randn(1, 3, 4, 8), torch.rand(1, 3, 4, 8) + 5
    valid = torch.ones(1, 3, 4, dtype=torch.bool)
    logits = net(mean, square, valid)
    assert logits.shape == (1, 12)
    wider = square.clone()
    wider[0, 0, 0] += 3
    moved = (net(mean, wider, valid) - logits)[0].view(3, 4) != 0
    assert moved[:2, :2].all() and not moved[2].any() and not moved[:, 2:].any()
    valid[0, :, 3] = False
    other = mean.clone()
    other[0, :, 3] = 100
    torch.testing.assert_close(
        net(mean, square, valid).view(3, 4)[:, :3], net(other, square, valid).view(3, 4)[:, :3]
    )


def test_score_net_survives_rounding_of_the_variance():
    mean = torch.full((1, 1, 1, 4), 1000.0, requires_grad=True)
    logits = ScoreNet(4)(mean, mean.square() - 1, torch.ones(1, 1, 1, dtype=torch.bool))
    logits.sum().backward()
    assert logits.isfinite().all() and mean.grad.isfinite().all()
