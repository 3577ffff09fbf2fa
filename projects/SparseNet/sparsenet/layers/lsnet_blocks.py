"""Blocks of LSNet (CVPR 2025, arXiv 2503.23135, section 3; https://github.com/THU-MIG/lsnet).

The repository has no licence file; nothing of it is copied. Names of parameters are the published
ones. Differs from it in: attention takes maps of any size, because its position biases are resized
and gathered in every forward (the published model keeps those of the moment of ``eval()``);
stochastic depth is on every residual branch.

Shorthand: B images, (H, W) cells, N = H·W, C channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sparsenet.layers.drop_path import DropPath
from sparsenet.ops.precision import at_least_float32
from sparsenet.ops.ska import ska

BIAS_RESIZES = ("table", "image")
_KEY_CHANNELS = 16  # per head, in all published sizes


class ConvNorm(nn.Sequential):
    """Convolution without bias, then batch normalisation; n cells become ceil(n / stride)."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        side: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        first_scale: float = 1.0,
    ) -> None:
        """
        Args:
            first_scale: of the norm; 0 makes a residual branch start as nothing.
        """
        super().__init__()
        conv = nn.Conv2d(
            in_channels, channels, side, stride, padding=side // 2, groups=groups, bias=False
        )
        self.add_module("c", conv)
        self.add_module("bn", nn.BatchNorm2d(channels))
        nn.init.constant_(self.bn.weight, first_scale)

    def fuse(self) -> nn.Conv2d:
        """One convolution with bias that computes the same in evaluation."""
        return fuse_conv_bn_eval(self.c, self.bn)


class NormLinear(nn.Sequential):
    """Batch normalisation of vectors, then a linear layer."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.add_module("bn", nn.BatchNorm1d(in_channels))
        self.add_module("l", nn.Linear(in_channels, channels))
        nn.init.trunc_normal_(self.l.weight, std=0.02)
        nn.init.zeros_(self.l.bias)

    @torch.no_grad()
    def fuse(self) -> nn.Linear:
        """One linear layer that computes the same in evaluation."""
        norm, linear = self.bn, self.l
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        fused = nn.Linear(linear.in_features, linear.out_features).to(linear.weight)
        fused.weight.copy_(linear.weight * scale)
        fused.bias.copy_(linear.bias + linear.weight @ (norm.bias - norm.running_mean * scale))
        return fused.train(self.training)


class RepDWConv(nn.Module):
    """Depthwise 3 × 3 and 1 × 1 convolutions beside an identity; one convolution when fused."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, 3, groups=channels)
        self.conv1 = ConvNorm(channels, channels, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.conv1(x) + x

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """One 3 × 3 convolution that computes the same in evaluation."""
        fused, point = self.conv.fuse(), self.conv1.fuse()
        fused.weight += F.pad(point.weight, (1, 1, 1, 1))
        fused.weight[:, :, 1, 1] += 1
        fused.bias += point.bias
        return fused


class SqueezeExcite(nn.Module):
    """Scales each channel by a factor in (0, 1) from the channels' means (arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, (channels // 4 + 4) // 8 * 8)  # a quarter, to the next multiple of 8
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * self.fc2(F.relu(self.fc1(mean))).sigmoid()


class FeedForward(nn.Module):
    """C → 2C → C with ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pw1 = ConvNorm(channels, 2 * channels)
        self.pw2 = ConvNorm(2 * channels, channels, first_scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.pw2(F.relu(self.pw1(x)))


class Residual(nn.Module):
    """x + m(x), without m(x) for some images of a training batch."""

    def __init__(self, module: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.m = module
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.m(x))


class KernelPredictor(nn.Module):
    """LSNet's large-kernel perception: predicts a 3 × 3 kernel per cell and group of 8 channels."""

    num_taps = 9

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden, num_kernels = channels // 2, channels // 8
        self.cv1 = ConvNorm(channels, hidden)
        self.cv2 = ConvNorm(hidden, hidden, 7, groups=hidden)
        self.cv3 = ConvNorm(hidden, hidden)
        self.cv4 = nn.Conv2d(hidden, self.num_taps * num_kernels, 1)
        self.norm = nn.GroupNorm(num_kernels, self.num_taps * num_kernels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv2(F.relu(self.cv1(x)))
        x = self.norm(self.cv4(F.relu(self.cv3(x))))
        return x.unflatten(1, (-1, self.num_taps))  # (A, C/8, 9, H, W)


class LSConvBlock(nn.Module):
    """LSNet's LSConv: small-kernel aggregation with predicted kernels, BatchNorm, identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lkp = KernelPredictor(channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(ska(x, self.lkp(x))) + x


class BiasedAttention(nn.Module):
    """Attention among all cells, with a learned bias per head and absolute offset (|dy|, |dx|)."""

    def __init__(
        self, channels: int, num_heads: int, *, grid_side: int, bias_resize: str = "table"
    ) -> None:
        """
        Args:
            num_heads: divides ``channels``; a head has 16 channels of queries and of keys.
            grid_side: R, cells per side of the square map that the biases are stored for.
            bias_resize: what is resized bicubically for a map of other sides: the "table" of
                offsets (R × R to H × W), or, as the published dense models do, the gathered biases
                as an "image" (R² × R² to N × N), which mixes the offsets of unlike rows.
        """
        super().__init__()
        assert bias_resize in BIAS_RESIZES, f"bias_resize must be in {BIAS_RESIZES}"
        self.num_heads, self.grid_side, self.bias_resize = num_heads, grid_side, bias_resize
        key = _KEY_CHANNELS * num_heads
        self.parts = (key, key, channels)
        self.qkv = ConvNorm(channels, sum(self.parts))
        self.proj = nn.Sequential(nn.ReLU(), ConvNorm(channels, channels, first_scale=0.0))
        self.dw = ConvNorm(key, key, 3, groups=key)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, grid_side**2))
        self.register_buffer("attention_bias_idxs", offset_index((grid_side, grid_side)))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        q, k, v = self.qkv(x).split(self.parts, dim=1)
        q = self.dw(q)
        q, k, v = (t.flatten(2).unflatten(1, (self.num_heads, -1)) for t in (q, k, v))
        bias = self.position_bias(size).to(q.dtype)
        logits = q.transpose(-2, -1) @ k * _KEY_CHANNELS**-0.5 + bias  # (B, heads, N, N)
        x = v @ logits.softmax(dim=-1).transpose(-2, -1)  # (B, heads, C/heads, N)
        return self.proj(x.flatten(1, 2).unflatten(2, size))  # (B, C, H, W)

    def position_bias(self, size: Sequence[int]) -> Tensor:
        """Biases (heads, N, N) between the cells of a map of ``size`` (h, w)."""
        height, width = size
        side, table = self.grid_side, self.attention_biases
        if height == side and width == side:
            return table[:, self.attention_bias_idxs]
        if self.bias_resize == "image":
            num_cells = height * width
            return resize_bicubic(table[:, self.attention_bias_idxs], (num_cells, num_cells))
        table = resize_bicubic(table.unflatten(1, (side, side)), size).flatten(1)  # (heads, N)
        return table[:, offset_index(size, table.device)]


class LSBlock(nn.Module):
    """A mixer, squeeze-and-excite on request, and a feed-forward network."""

    def __init__(
        self, channels: int, mixer: nn.Module, *, has_se: bool, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.mixer = mixer
        self.se = SqueezeExcite(channels) if has_se else nn.Identity()
        self.ffn = Residual(FeedForward(channels), drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(self.se(self.mixer(x)))


def offset_index(size: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Number |dy| · W + |dx| of the offset between any two cells of an (H, W) map: (N, N) int64."""
    height, width = size
    y, x = (torch.arange(length, device=device) for length in (height, width))
    rows = (y[:, None] - y).abs()[:, None, :, None]  # (H, 1, H, 1)
    columns = (x[:, None] - x).abs()[None, :, None, :]  # (1, W, 1, W)
    return (rows * width + columns).flatten(2).flatten(0, 1)  # (N, N)


def resize_bicubic(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (A, h, w) to (A, *size), without smoothing where they shrink, as published."""
    return F.interpolate(at_least_float32(maps[None]), tuple(size), mode="bicubic")[0]


def fuse_norms(module: nn.Module) -> None:
    """Puts norms into their neighbours, in place, for evaluation.

    The norms of predicted kernels, and after their aggregation, stay.
    """
    for name, child in module.named_children():
        if isinstance(child, ConvNorm | NormLinear | RepDWConv):
            setattr(module, name, child.fuse())
        else:
            fuse_norms(child)
