"""Which attention windows of a stage are worth computing: ScoreNet and the selection.

Follows SparseFormer (arXiv 2502.07216; https://github.com/liwenxi/SparseFormer, Apache-2.0).
Differs from it in: the score is a small network on the mean and the deviation of each window
instead of one linear layer on its full-resolution residual; a sigmoid instead of a softmax over all
windows, so that a score does not depend on how many windows there are; scores can be supervised
(they are handed out as :class:`WindowSelection`); padding never wins; K >= 1; random extra windows
in training.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsenet.layers.kept_windows import KeptWindows
from sparsenet.ops.precision import without_autocast


@dataclass
class WindowSelection:
    """The attention windows of one stage in one forward pass; N windows per image, row-major.

    Attributes:
        logits: (B, N), with gradient in training.
        kept: (B, N) bool, windows that the local blocks computed (exploration included).
        grid_size: rows and columns of windows.
        window_stride: side of a window, input pixels.
        valid: (B, N) bool, False for windows that hold nothing but padding.
        windows: positions of the kept windows; None: the blocks ran on the map as a whole.
    """

    logits: Tensor
    kept: Tensor
    grid_size: tuple[int, int]
    window_stride: int
    valid: Tensor
    windows: KeptWindows | None = None


class ScoreNet(nn.Module):
    """Scores windows by their pooled statistics and those of the eight windows around."""

    def __init__(self, channels: int, hidden_channels: int = 32) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * channels)
        self.reduce = nn.Linear(2 * channels, hidden_channels)
        self.context = nn.Conv2d(
            hidden_channels, hidden_channels, 3, padding=1, groups=hidden_channels
        )
        self.act = nn.GELU()
        self.predict = nn.Linear(hidden_channels, 1)

    def forward(self, mean: Tensor, mean_square: Tensor, valid: Tensor) -> Tensor:
        """Computes one logit per window.

        Args:
            mean: (B, rows, columns, C), mean of the window's cells.
            mean_square: (B, rows, columns, C), mean of their squares.
            valid: (B, rows, columns) bool.

        Returns:
            (B, rows·columns).
        """
        variance = (mean_square - mean.square()).clamp_min(0)  # E[x²] - E[x]²
        x = torch.cat([mean, (variance + 1e-5).sqrt()], dim=-1)  # (B, rows, columns, 2C)
        with without_autocast(x):  # bfloat16 would keep other windows
            x = self.act(self.reduce(self.norm(x.to(self.norm.weight.dtype))))
            x = x * valid.unsqueeze(-1)
            around = self.context(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            return self.predict(self.act(x + around)).flatten(1)  # (B, rows·columns)


def select_windows(
    logits: Tensor,
    valid: Tensor,
    keep_ratio: float,
    exploration: float = 0.0,
    threshold: float | None = None,
) -> Tensor:
    """Marks the best-scored windows of each image.

    Args:
        logits: (B, N).
        valid: (B, N) bool.
        keep_ratio: K = max(1, ceil(keep_ratio · valid windows of the image)).
        exploration: share of the valid windows, drawn from those that did not win, that is added.
        threshold: score (sigmoid of the logit) in (0, 1) that a window must reach; keep_ratio is
            then the largest share. None: as many as keep_ratio says.

    Returns:
        (B, N) bool, never True where ``valid`` is False.
    """
    if keep_ratio >= 1 and threshold is None:
        return valid.clone()
    num_valid = valid.sum(dim=1, keepdim=True)
    budget = (num_valid.double() * keep_ratio - 1e-6).ceil()  # as largest_budget counts
    if threshold is not None:
        is_wanted = (logits.detach().sigmoid() >= threshold) & valid
        budget = torch.minimum(budget, is_wanted.sum(dim=1, keepdim=True))
    kept = _best(logits.detach(), valid, budget.clamp_min(1))
    if exploration > 0:
        extra = (num_valid.double() * exploration - 1e-6).ceil()
        kept = kept | _best(torch.rand_like(logits), valid & ~kept, extra)
    return kept


def largest_budget(num_windows: int, keep_ratio: float, exploration: float = 0.0) -> int:
    """The most windows that :func:`select_windows` can mark in an image of ``num_windows``."""
    shares = (keep_ratio, exploration)
    return min(num_windows, sum(math.ceil(num_windows * share - 1e-6) for share in shares))


def _best(scores: Tensor, eligible: Tensor, budget: Tensor) -> Tensor:
    """The ``budget`` (B, 1) eligible windows with the highest scores: (B, N) bool."""
    order = scores.masked_fill(~eligible, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank.scatter_(1, order, places)
    return (rank < budget) & eligible


class _ScoreGradient(torch.autograd.Function):
    """Passes ``output`` through; ``score`` gets the gradient of source + score · update."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, source: Tensor, score: Tensor) -> Tensor:
        ctx.save_for_backward(output, source)
        ctx.score_shape = score.shape
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        output, source = ctx.saved_tensors
        products = (output - source).mul_(grad)  # one map less than grad * (output - source)
        return grad, None, products.sum_to_size(ctx.score_shape)


def straight_through_score(output: Tensor, source: Tensor, score: Tensor) -> Tensor:
    """Returns ``output``, but lets the loss tell the score whether the update was worth it.

    The update ``output - source`` is multiplied by 1 + score - stop_gradient(score): by one, with
    the gradient of a multiplication by the score.

    Args:
        output, source: (..., C), the features after and before the local blocks.
        score: broadcastable to (..., 1).
    """
    return _ScoreGradient.apply(output, source, score)
