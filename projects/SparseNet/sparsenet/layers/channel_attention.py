"""Dynamic multi-layer channel aggregator (DMCA) of SparX (arXiv 2409.09649).

A *ganglion* layer attends, channel against channel, to features of earlier layers of its stage, and
hands the result to its scan. See https://github.com/LMMMEng/SparX (without a licence file). Differs
from it in: one explicit softmax for training and evaluation. Parameter names are as published.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsenet.layers.selective_scan_2d import SelectiveScan2d

_GROUPS = 4  # attention heads; channels attend within their quarter
_OPERANDS = 3  # the map, what it attended to, and the values
# 1 / sqrt of the number of cells of stride 32 in an image of 800 × 1333, whatever the real size.
_FIRST_SCALE = (800 * 1333 / 16 / 64) ** -0.5


class GanglionScan2d(SelectiveScan2d):
    """:class:`SelectiveScan2d` with DMCA in the place of the first projection."""

    def __init__(
        self,
        channels: int,
        shortcut_channels: int,
        *,
        reduction: int,
        has_learned_scale: bool,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        """
        Args:
            channels: a multiple of 4.
            shortcut_channels: of the concatenated earlier features.
            reduction: side of the areas that queries and keys are reduced by, cells.
            has_learned_scale: one learned factor of the attention (detection) instead of
                1 / sqrt(cells of the reduced map).
        """
        super().__init__(channels)
        self.scale = nn.Parameter(torch.full((1,), _FIRST_SCALE)) if has_learned_scale else None
        self.d_norm = nn.GroupNorm(1, shortcut_channels)
        self.d_proj = nn.Sequential(
            _depthwise(shortcut_channels, 3, bias=False),
            norm(shortcut_channels),
            nn.GELU(),
            nn.Conv2d(shortcut_channels, 2 * channels, 1),
            nn.GELU(),
        )
        self.q = nn.Sequential(_reduce(channels, reduction, norm), *_project(channels, norm))
        self.k = nn.Sequential(_reduce(channels, reduction, norm), *_project(channels, norm))
        self.v = nn.Sequential(*_project(channels, norm))

    def _build_in_proj(self, channels: int, inner: int) -> nn.Module:
        # Three groups must share the outputs evenly; up to two channels are added afterwards.
        outputs = inner // _OPERANDS * _OPERANDS
        return nn.Sequential(
            _depthwise(_OPERANDS * channels, 3),
            nn.GELU(),
            nn.Conv2d(_OPERANDS * channels, outputs, 1, groups=_OPERANDS),
        )

    def _expand(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        assert shortcut is not None, "a ganglion layer needs the features of earlier layers"
        key, value = self.d_proj(self.d_norm(shortcut)).chunk(2, dim=1)
        q, k, v = self.q(x), self.k(key), self.v(value)
        attended = self._attend(q, k, v)
        first = q if q.shape[-2:] == x.shape[-2:] else x
        mixed = torch.cat((first, attended, v), dim=1)
        mixed = mixed.unflatten(1, (-1, _OPERANDS)).transpose(1, 2).flatten(1, 2)  # (B, 3 C, H, W)
        return _fill_channels(self.in_proj(mixed), self.conv2d.in_channels)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Channels against channels: q, k (B, C, H/r, W/r), v (B, C, H, W); as v."""
        size = v.shape[-2:]
        q, k, v = (t.flatten(2).unflatten(1, (_GROUPS, -1)) for t in (q, k, v))  # (B, 4, C/4, ·)
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        weight = (q @ k.transpose(-1, -2) * scale).softmax(dim=-1)  # (B, 4, C/4, C/4)
        return (weight @ v).flatten(1, 2).unflatten(-1, size)  # (B, C, H, W)


def _fill_channels(x: Tensor, channels: int) -> Tensor:
    """Appends means of equal runs of channels until there are ``channels``."""
    missing, count = channels - x.shape[1], x.shape[1]
    if missing == 0:
        return x
    runs = ((i * count // missing, -(-(i + 1) * count // missing)) for i in range(missing))
    return torch.cat((x, *(x[:, a:b].mean(1, keepdim=True) for a, b in runs)), dim=1)


def _depthwise(channels: int, side: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels, bias=bias)


def _reduce(channels: int, reduction: int, norm: Callable[[int], nn.Module]) -> nn.Module:
    if reduction == 1:
        return nn.Identity()
    conv = nn.Conv2d(
        channels,
        channels,
        reduction + 1,
        stride=reduction,
        padding=(reduction + 1) // 2,
        groups=channels,
        bias=False,
    )
    return nn.Sequential(conv, norm(channels), nn.GELU())


def _project(channels: int, norm: Callable[[int], nn.Module]) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(channels, channels, 1, bias=False), norm(channels)
