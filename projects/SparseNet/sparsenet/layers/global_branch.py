"""The coarse branch of a stage: attention over the pooled windows of the whole image."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsenet.layers.cellwise import CellLinear, FeedForward


class GlobalBranch(nn.Module):
    """Chained transformer blocks over the N pooled windows, gated per channel.

    Differs from SparseFormer's in: the blocks are chained (there, each was applied to the same
    input and only the last one counted); windows know their position; padding windows are no keys.
    """

    def __init__(self, channels: int, num_heads: int, depth: int, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _GlobalBlock(channels, num_heads, mlp_ratio) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(channels)
        # A small gate lets the local features speak first; 0 would cut the branch's own gradient.
        self.gate = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, pooled: Tensor, valid: Tensor | None) -> Tensor:
        """
        Args:
            pooled: (B, rows, columns, C).
            valid: (B, N) bool, windows that are more than padding; None: all.

        Returns:
            (B, rows, columns, C), what is to be added to every cell of a window.
        """
        _, rows, columns, channels = pooled.shape
        position = sine_position(rows, columns, channels, device=pooled.device)
        x = pooled.flatten(1, 2) + position.to(pooled.dtype)  # (B, N, C)
        key_mask = None if valid is None else valid[:, None, None, :]  # (B, 1, 1, N)
        for block in self.blocks:
            x = block(x, key_mask)
        return (self.norm(x) * self.gate).view_as(pooled)


class _GlobalBlock(nn.Module):
    def __init__(self, channels: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = CellLinear(channels, 3 * channels)
        self.proj = CellLinear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, hidden, nn.GELU())

    def forward(self, x: Tensor, key_mask: Tensor | None) -> Tensor:
        x = x + self._attend(self.norm1(x), key_mask)
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor, key_mask: Tensor | None) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
        return self.proj(x.transpose(1, 2).flatten(2))  # (B, N, C)


def sine_position(
    rows: int, columns: int, channels: int, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Sine and cosine codes of the rows and columns of a grid: (rows·columns, channels), float32.

    ``channels`` must be a multiple of 4: a quarter each for sin y, cos y, sin x, cos x.
    """
    quarter = channels // 4
    # Wavelengths from 2π to 2π·100 windows: the longest spans any grid that attention can afford.
    exponent = torch.arange(quarter, device=device, dtype=torch.float32) / quarter
    frequency = torch.exp(-math.log(100.0) * exponent)
    y = torch.arange(rows, device=device)[:, None] * frequency  # (rows, quarter)
    x = torch.arange(columns, device=device)[:, None] * frequency  # (columns, quarter)
    y = torch.cat([y.sin(), y.cos()], dim=1)[:, None].expand(-1, columns, -1)
    x = torch.cat([x.sin(), x.cos()], dim=1)[None].expand(rows, -1, -1)
    return torch.cat([y, x], dim=2).flatten(0, 1)  # (rows·columns, channels)
