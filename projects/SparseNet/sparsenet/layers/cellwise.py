"""Layers that map each cell of a map or of packed windows by itself."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsenet.ops.linear import linear
from sparsenet.ops.windows import runs_eagerly_on_cpu

# Values of the widest intermediate that are computed at once: 4 MB stay in the cache, and blocks
# above 32 MB come from the system page by page on every call (GELU of 98 MB: 74 instead of 10 ms).
_CHUNK_VALUES = 1 << 20


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


def chunk_length(x: Tensor, values_per_item: int) -> int | None:
    """How many items to compute at once in inference on a CPU, a multiple of 16; None: all."""
    if torch.is_grad_enabled() or not runs_eagerly_on_cpu(x):
        return None
    return max(1, _CHUNK_VALUES // values_per_item // 16) * 16
