import torch
import torch.nn.functional as F

from sparsenet.ops.focal import focal_matching_cost, sigmoid_focal_loss


def test_gamma_zero_without_alpha_is_cross_entropy():
    logits, targets = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    loss = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=0)
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(loss, expected)


def test_known_value():
    # p = 0.5 everywhere: ln 2 * 0.25, times alpha for a positive and 1 - alpha for a negative.
    loss = sigmoid_focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(
        loss, torch.log(torch.tensor(2.0)) * 0.25 * torch.tensor([0.25, 0.75])
    )


def test_extreme_logits_stay_finite():
    logits = torch.tensor([-1e4, 1e4, -100.0, 100.0], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()
    assert torch.isfinite(focal_matching_cost(logits)).all()


def test_matching_cost_falls_with_confidence():
    cost = focal_matching_cost(torch.linspace(-6, 6, 50))
    assert (cost.diff() < 0).all()


def test_gradients():
    logits = torch.randn(4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0.0, 1.0, 0.3, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, targets), (logits,))
