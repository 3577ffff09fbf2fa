"""Blocks of the sparse backbones as published: Swin attention and ResNet units.

SparseFormer (arXiv 2502.07216, section 3; https://github.com/liwenxi/SparseFormer, Apache-2.0), and
its convolutional sibling of the same repository. The LSConv of the third form is LSNet's
(``lsnet_blocks``). Names of parameters are the original ones. Differs
from them in: kept windows are fetched by row numbers, not by an index as wide as the channels;
masks are built for the kept windows alone; batch normalisation skips an empty selection.

Shorthand: B images, (H, W) cells, C channels, S cells per window side, L = S² cells per window,
N windows per image, P kept windows of the whole batch.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsenet.layers.drop_path import DropPath
from sparsenet.ops.windows import WindowGrid, merge_windows, pad_to_windows, partition_windows

_OTHER_REGION = -100.0  # added to attention logits between cells that the roll made neighbours


def replace_windows(
    x: Tensor,
    grid: WindowGrid,
    kept_index: Tensor,
    function: Callable[[Tensor], Tensor],
    shift: int = 0,
) -> Tensor:
    """Puts ``function`` of the kept windows in their place.

    Args:
        x: map (B, H, W, C).
        kept_index: (P,) int64 in [0, B·N).
        function: (P, S, S, C) to (P, S, S, C).
        shift: cells by which the map is rolled up and left while it is cut; the window numbers are
            the same for every shift.

    Returns:
        (B, H, W, C).
    """
    if not len(kept_index):
        return x
    whole = WindowGrid(grid.padded_size, grid.window_size)
    x = pad_to_windows(x, grid)
    if shift:
        x = x.roll((-shift, -shift), dims=(1, 2))
    windows = partition_windows(x, whole)  # (B·N, S, S, C)
    update = function(windows.index_select(0, kept_index))
    windows = windows.index_copy(0, kept_index, update.to(windows.dtype))
    x = merge_windows(windows, whole)  # (B, Hp, Wp, C)
    if shift:
        x = x.roll((shift, shift), dims=(1, 2))
    return x[:, : grid.map_size[0], : grid.map_size[1]]


class SelfAttention(nn.Module):
    """Multi-head attention among the cells of each sequence, by explicit products."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (channels // num_heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """
        Args:
            x: (A, L, C).
            bias: added to the logits, broadcastable to (A, heads, L, L).
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (A, L, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (A, heads, L, d)
        logits = (q * self.scale) @ k.transpose(-2, -1)  # (A, heads, L, L)
        if bias is not None:
            logits = logits + bias
        x = logits.softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).flatten(2))  # (A, L, C)


class WindowSelfAttention(SelfAttention):
    """Attention inside windows, with Swin's relative position bias."""

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__(channels, num_heads)
        num_offsets = (2 * window_size - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(num_offsets, num_heads))
        index = relative_position_index(window_size)
        self.register_buffer("relative_position_index", index, persistent=False)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """
        Args:
            x: kept windows (P, S, S, C).
            bias: between cells, (P, 1, L, L), or None.
        """
        position = self.relative_position_bias_table[self.relative_position_index]  # (L, L, heads)
        position = position.permute(2, 0, 1)[None]  # (1, heads, L, L)
        bias = position if bias is None else position + bias
        return super().forward(x.flatten(1, 2), bias).view_as(x)


class ShiftedWindowAttention(nn.Module):
    """Attention in the kept windows of a map; the other windows keep the input."""

    def __init__(self, channels: int, num_heads: int, window_size: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.w_msa = WindowSelfAttention(channels, num_heads, window_size)

    def forward(self, x: Tensor, grid: WindowGrid, kept_index: Tensor) -> Tensor:
        mask = region_mask(grid, kept_index, self.shift).to(x.dtype) if self.shift else None
        return replace_windows(x, grid, kept_index, lambda w: self.w_msa(w, mask), self.shift)


class FeedForward(nn.Module):
    """C → 4C → C with GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU())
        self.layers = nn.Sequential(hidden, nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class GlobalAttentionBlock(nn.Module):
    """Pre-norm transformer block over all pooled windows, without positions or a mask."""

    def __init__(self, channels: int, num_heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = SelfAttention(channels, num_heads)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, pooled: Tensor) -> Tensor:
        x = pooled.flatten(1, 2)  # (B, N, C)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.ffn(self.norm2(x)))
        return x.view_as(pooled)  # (B, rows, columns, C)


class LocalAttentionBlock(nn.Module):
    """Swin's block in the kept windows. To a cell x of any other window it adds LayerNorms of it.

    There, the result is x + LN1(x) + LN2(x + LN1(x)): attention and FFN are written into the
    normalised map, which then is added as a whole.
    """

    def __init__(
        self, channels: int, num_heads: int, *, window_size: int, shift: int, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = ShiftedWindowAttention(channels, num_heads, window_size, shift)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: WindowGrid, kept_index: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), grid, kept_index))  # dropped by image
        return x + replace_windows(self.norm2(x), grid, kept_index, self._feed_forward)

    def _feed_forward(self, windows: Tensor) -> Tensor:
        return self.drop_path(self.ffn(windows))  # dropped by window


class BasicBlock(nn.Module):
    """ResNet's basic block (arXiv 1512.03385, figure 5), stride 1, C → C."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + x)


class GlobalConvBlock(nn.Module):
    """Basic blocks on the map of pooled windows."""

    def __init__(self, channels: int, num_layers: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(*(BasicBlock(channels) for _ in range(num_layers)))

    def forward(self, pooled: Tensor) -> Tensor:
        return _channels_first(self.layer, pooled)  # (B, rows, columns, C)


class LocalConvBlock(nn.Module):
    """Convolutional units in each kept window, zero-padded at its border; others are untouched."""

    def __init__(self, units: list[nn.Module]) -> None:
        super().__init__()
        self.layer = nn.Sequential(*units)

    def forward(self, x: Tensor, grid: WindowGrid, kept_index: Tensor) -> Tensor:
        return replace_windows(x, grid, kept_index, lambda w: _channels_first(self.layer, w))


def relative_position_index(window_size: int) -> Tensor:
    """Number of the offset between each query and each key of a window: (L, L) int64."""
    cell = torch.arange(window_size)
    offset = cell[:, None] - cell[None, :] + window_size - 1  # (S, S), >= 0
    num_offsets = 2 * window_size - 1
    index = offset[:, None, :, None] * num_offsets + offset[None, :, None, :]
    return index.reshape(window_size**2, -1)


def region_mask(grid: WindowGrid, kept_index: Tensor, shift: int) -> Tensor:
    """Keeps cells apart that only the roll by ``shift`` brought into one window.

    Returns:
        (P, 1, L, L) float32, 0 between cells of one region of the padded map, else -100.
    """
    side = grid.window_size
    bands = [
        torch.zeros(length, device=kept_index.device) for length in grid.padded_size
    ]  # 0, then 1 from the last window on, 2 where the roll wraps around
    for band in bands:
        band[-side:] = 1
        band[-shift:] = 2
    regions = (3 * bands[0][:, None] + bands[1])[None, :, :, None]  # (1, Hp, Wp, 1)
    regions = partition_windows(regions, WindowGrid(grid.padded_size, side)).flatten(1)  # (N, L)
    regions = regions.index_select(0, kept_index % grid.num_windows)  # (P, L)
    is_apart = regions[:, :, None] != regions[:, None, :]  # (P, L, L)
    return (is_apart * _OTHER_REGION).unsqueeze(1)


def _channels_first(module: nn.Module, x: Tensor) -> Tensor:
    """Runs a module of (A, C, ·, ·) maps on (A, ·, ·, C)."""
    return module(x.permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1)
