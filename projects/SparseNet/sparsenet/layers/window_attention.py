"""Multi-head attention inside packed windows, with keys from a halo around each window."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsenet.layers.cellwise import CellLinear, chunk_length
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
        self.query = CellLinear(channels, channels)
        self.key_value = CellLinear(channels, 2 * channels)
        self.proj = CellLinear(channels, channels)
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
        cells = pointwise(x)  # (P, S, S, C)
        table, index = self._keys_and_values(cells, layout, pointwise)
        side, num_keys = x.shape[1], index.shape[1]
        step = chunk_length(x, num_keys * max(2 * x.shape[-1], self.num_heads * side * side))
        parts = [slice(None)] if step is None else _slices(len(x), step)
        bias = self.position_bias.index_select(0, self.position_index.flatten())  # (Q·K, heads)
        bias = bias.t().view(1, self.num_heads, side * side, num_keys)  # (1, heads, Q, K)
        return torch.cat(
            [self._attend(cells[p], table, index[p], bias, self._inside(layout, p)) for p in parts]
        )

    def _keys_and_values(
        self, cells: Tensor, layout: PackedLayout, pointwise: Pointwise
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (rows, 2C) and, for each window, the rows it attends to (P, K)."""
        table = self.key_value(cells).flatten(0, 2)  # (P·S², 2C)
        if self.halo == 0:
            index = torch.arange(len(table), device=table.device)
            return table, index.view(len(cells), cells.shape[1] ** 2)
        side = cells.shape[1] + 2 * self.halo
        outside = self.key_value(pointwise(layout.outside(self.halo)))  # (R, 2C)
        table = torch.cat([table, outside, table.new_zeros(1, table.shape[1])])
        return table, layout.windows.halo(self.halo).table.view(len(cells), side * side)

    def _attend(
        self, cells: Tensor, table: Tensor, index: Tensor, bias: Tensor, inside: Tensor | None
    ) -> Tensor:
        q = self._heads(self.query(cells).flatten(1, 2), 1)[0]  # (P, heads, S², d)
        around = table.index_select(0, index.flatten())  # (P·K, 2C)
        around = around.view(*index.shape, table.shape[1])  # (P, K, 2C)
        k, v = self._heads(around, 2)  # (P, heads, K, d)
        out = _attention(q, k, v, bias.to(q.dtype), inside)  # (P, heads, S², d)
        return self.proj(out.transpose(1, 2).flatten(2)).view_as(cells)

    def _inside(self, layout: PackedLayout, part: slice) -> Tensor | None:
        """Which keys lie in the map, (P, 1, 1, K) bool; None: all."""
        if self.halo == 0 and not layout.grid.is_padded:
            return None
        return layout.is_inside(self.halo)[part, None, None]

    def _heads(self, x: Tensor, parts: int) -> Tensor:
        """(P, L, parts·C) to (parts, P, heads, L, d)."""
        return x.unflatten(-1, (parts, self.num_heads, -1)).permute(2, 0, 3, 1, 4)


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, inside: Tensor | None) -> Tensor:
    """Softmax attention with a bias, over the keys ``inside`` (at least one per query).

    PyTorch's fused CPU kernel has no gradient for the bias; what it takes instead copies queries,
    keys and bias, and guards against queries without keys.
    """
    if q.device.type == "cpu" and torch.is_grad_enabled() and bias.requires_grad:
        logits = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).add_(bias)  # (P, heads, Q, K)
        if inside is not None:
            logits = logits.masked_fill_(~inside, -torch.inf)
        return logits.softmax(dim=-1).to(v.dtype) @ v
    mask = bias if inside is None else bias.masked_fill(~inside, -torch.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, max(1, length), step)]


def relative_position_index(window_size: int, halo: int) -> Tensor:
    """Number of the offset from each query to each key: (S², (S + 2h)²) int64."""
    query = torch.arange(window_size)
    key = torch.arange(-halo, window_size + halo)
    offset = key[None, :] - query[:, None] + window_size - 1 + halo  # (S, S + 2h), >= 0
    num_offsets = 2 * (window_size + halo) - 1
    index = offset[:, None, :, None] * num_offsets + offset[None, :, None, :]
    return index.reshape(window_size**2, -1)
