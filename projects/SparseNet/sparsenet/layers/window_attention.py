"""Multi-head attention inside packed windows, with keys from a halo around each window."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsenet.layers.layout import PackedLayout, Pointwise


class WindowAttention(nn.Module):
    """Queries from a window's S² cells, keys and values from its (S + 2h)² cells.

    As in Swin (arXiv 2103.14030) with a relative position bias per head. Differs from it in:
    windows meet through a halo of keys instead of shifted windows, so that a window set is cut only
    once and never rolled; cells outside the map are no keys.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int, halo: int = 0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.halo = halo
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        num_offsets = (2 * (window_size + halo) - 1) ** 2
        self.position_bias = nn.Parameter(torch.zeros(num_offsets, num_heads))
        index = relative_position_index(window_size, halo)
        self.register_buffer("position_index", index, persistent=False)
        nn.init.trunc_normal_(self.position_bias, std=0.02)

    def forward(self, x: Tensor, layout: PackedLayout, pointwise: Pointwise) -> Tensor:
        """
        Args:
            x: kept windows (P, S, S, C).
            pointwise: applied to every cell first, the caller's normalisation.

        Returns:
            (P, S, S, C), the update; the caller adds it.
        """
        q = self._heads(self.query(pointwise(x)).flatten(1, 2), 1)[0]  # (P, heads, S², d)
        around = layout.neighbourhood(x, self.halo, lambda cells: self.key_value(pointwise(cells)))
        k, v = self._heads(around.flatten(1, 2), 2)  # (P, heads, (S + 2h)², d)
        bias = self.position_bias.t()[:, self.position_index][None]  # (1, heads, Q, K)
        bias = self._mask_outside(bias, layout)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(out.transpose(1, 2).flatten(2)).view_as(x)

    def _mask_outside(self, bias: Tensor, layout: PackedLayout) -> Tensor:
        if self.halo == 0 and not layout.grid.is_padded:
            return bias
        inside = layout.is_inside(self.halo)[:, None, None, :]  # (P, 1, 1, K)
        return bias.masked_fill(~inside, -torch.inf)  # (P, heads, Q, K)

    def _heads(self, x: Tensor, parts: int) -> Tensor:
        """(P, L, parts·C) to (parts, P, heads, L, d)."""
        return x.unflatten(-1, (parts, self.num_heads, -1)).permute(2, 0, 3, 1, 4)


def relative_position_index(window_size: int, halo: int) -> Tensor:
    """Number of the offset from each query to each key: (S², (S + 2h)²) int64."""
    query = torch.arange(window_size)
    key = torch.arange(-halo, window_size + halo)
    offset = key[None, :] - query[:, None] + window_size - 1 + halo  # (S, S + 2h), >= 0
    num_offsets = 2 * (window_size + halo) - 1
    index = offset[:, None, :, None] * num_offsets + offset[None, :, None, :]
    return index.reshape(window_size**2, -1)
