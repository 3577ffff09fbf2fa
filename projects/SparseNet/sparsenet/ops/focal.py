"""Sigmoid focal loss (arXiv 1708.02002) and the matching cost derived from it."""

import torch
import torch.nn.functional as F
from torch import Tensor

_EPS = 1e-8  # inside the logarithms of the cost, as in the original matcher


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss of every element, without reduction.

    Args:
        logits: any shape.
        targets: same shape; 0 or 1, or a soft target in [0, 1].
        alpha: weight of positives, 1 - alpha of negatives; negative means no such weighting.
        gamma: exponent that fades out easy elements.

    Returns:
        The loss, shaped like ``logits``.
    """
    prob = logits.sigmoid()
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    prob_of_target = prob * targets + (1 - prob) * (1 - targets)
    loss = loss * (1 - prob_of_target) ** gamma
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return loss


def focal_matching_cost(logits: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Cost of calling each element positive: its focal loss as positive minus as negative."""
    prob = logits.sigmoid()
    positive = alpha * (1 - prob) ** gamma * -torch.log(prob + _EPS)
    negative = (1 - alpha) * prob**gamma * -torch.log(1 - prob + _EPS)
    return positive - negative
