"""The block of SparX-Mamba (arXiv 2409.09649); parameter names are the published ones."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsenet.layers.drop_path import DropPath
from sparsenet.layers.selective_scan_2d import SelectiveScan2d

_MLP_EXPANSION = 4


class ConvMLP(nn.Module):
    """Pointwise, plus depthwise 3 × 3 on the hidden map, GELU, pointwise."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = _MLP_EXPANSION * channels
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(F.gelu(x + self.dwconv(x)))


class SkipScale(nn.Module):
    """Learned factor and offset per channel, on the skip path."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias[:, None, None], x, self.weight[..., 0])


class SparXMambaBlock(nn.Module):
    """Depthwise position encoding, scan, MLP; the last two with norm, skip path and drop path."""

    def __init__(
        self, channels: int, op: SelectiveScan2d, *, has_skip_scale: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm, self.norm2 = nn.GroupNorm(1, channels), nn.GroupNorm(1, channels)
        self.op, self.mlp = op, ConvMLP(channels)
        self.layerscale_1 = SkipScale(channels) if has_skip_scale else nn.Identity()
        self.layerscale_2 = SkipScale(channels) if has_skip_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """
        Args:
            x: (B, C, H, W).
            shortcut: the maps that a ganglion block reads, concatenated: (B, n C, H, W).

        Returns:
            (B, C, H, W).
        """
        x = x + self.pos_embed(x)
        x = self.layerscale_1(x) + self.drop_path(self.op(self.norm(x), shortcut))
        return self.layerscale_2(x) + self.drop_path(self.mlp(self.norm2(x)))
