"""Layers that map each cell of a map or of packed windows by itself."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsenet.ops.linear import linear
from sparsenet.ops.windows import CACHED_VALUES, may_overwrite, runs_eagerly_on_cpu


class CellLinear(nn.Linear):
    """``nn.Linear``, computed by :func:`sparsenet.ops.linear.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class FeedForward(nn.Sequential):
    """Linear, activation, linear; (..., C) to (..., C)."""

    def __init__(self, channels: int, hidden_channels: int, activation: nn.Module) -> None:
        super().__init__(
            CellLinear(channels, hidden_channels),
            activation,
            CellLinear(hidden_channels, channels),
        )

    def after(self, norm: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The layers applied to ``norm(x)``; in inference on a CPU, a few cells at a time."""
        step = chunk_length(x, self[0].out_features)
        cells = x.reshape(-1, x.shape[-1])  # (number of cells, C)
        if step is None or len(cells) <= step:
            return self(norm(x))
        out = torch.empty_like(cells)
        for part, target in zip(cells.split(step), out.split(step)):
            target.copy_(self(norm(part)))
        return out.view_as(x)


def norm_cells(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """``norm(x)`` of x (..., C), written over ``x`` where :func:`may_overwrite` allows.

    A new map comes from the system page by page: 64,000 × 96 values take 14 instead of 4 ms.
    """
    step = chunk_length(x, x.shape[-1])
    if step is None or not (x.is_contiguous() and may_overwrite(x)):
        return norm(x)
    for part in x.view(-1, x.shape[-1]).split(step):
        part.copy_(norm(part))
    return x


def chunk_length(x: Tensor, values_per_item: int) -> int | None:
    """How many items to compute at once in inference on a CPU, a multiple of 16; None: all."""
    if torch.is_grad_enabled() or not runs_eagerly_on_cpu(x):
        return None
    return max(1, CACHED_VALUES // values_per_item // 16) * 16
