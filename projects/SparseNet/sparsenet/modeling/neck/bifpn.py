"""BiFPN: paths down and up, several times, with learned weights of what meets.

Follows *EfficientDet: Scalable and Efficient Object Detection* (arXiv 1911.09070, section 3): fast
normalised fusion (section 3.3) and separable convolutions. Differs from it in: the levels are those
of the backbone (a coarser one is pooled from the last output, without parameters), one lateral
convolution per level serves both paths of the first layer, and the norm is
``MODEL.FPN.NORM`` (EfficientDet: BN).

Shorthand: L levels, finest first; B images, D channels, (h, w) cells of a level.
"""

import math

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import Backbone
from torch import Tensor, nn

from sparsenet.modeling.neck.panet import with_pooled_map, with_pooled_shape

# Of the fusion's denominator, section 3.3.
FUSION_EPS = 1e-4


class BiFPN(Backbone):
    """Maps p2, p3 … of one width, and one coarser level by pooling the last."""

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: list[str],
        out_channels: int,
        *,
        norm: str = "",
        num_layers: int = 3,
    ) -> None:
        """
        Args:
            bottom_up: the backbone below.
            in_features: names of its maps, fine to coarse, each of twice the stride before.
            out_channels: D.
            norm: as in Detectron2's ``get_norm``; "" gives the convolutions a bias instead.
            num_layers: how often both paths are run; EfficientDet-D0 has 3.
        """
        super().__init__()
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        shapes = bottom_up.output_shape()
        self.laterals = nn.ModuleList(
            _conv(shapes[name].channels, out_channels, 1, norm) for name in in_features
        )
        self.layers = nn.ModuleList(
            BiFPNLayer(len(in_features), out_channels, norm) for _ in range(num_layers)
        )
        strides = [shapes[name].stride for name in in_features]
        self._shapes = {
            f"p{int(math.log2(stride))}": ShapeSpec(channels=out_channels, stride=stride)
            for stride in strides
        }
        self._size_divisibility = strides[-1]

    @property
    def size_divisibility(self) -> int:
        """Stride of the coarsest level."""
        return self._size_divisibility

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides of the outputs."""
        return with_pooled_shape(self._shapes)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: (B, 3, H, W), sides a multiple of ``size_divisibility``.

        Returns:
            name → (B, D, H / stride, W / stride), finest first.
        """
        features = self.bottom_up(images)
        maps = [conv(features[name]) for conv, name in zip(self.laterals, self.in_features)]
        for layer in self.layers:
            maps = layer(maps)
        return with_pooled_map(dict(zip(self._shapes, maps)))


class BiFPNLayer(nn.Module):
    """One path from coarse to fine and one back.

    Args:
        num_levels: L, at least 2.
        channels: D.
        norm: of the convolutions.
    """

    def __init__(self, num_levels: int, channels: int, norm: str) -> None:
        super().__init__()
        self.down = nn.ModuleList(Fusion(2, channels, norm) for _ in range(num_levels - 1))
        # The coarsest level has no map of the first path to take in.
        num_inputs = [3] * (num_levels - 2) + [2]
        self.up = nn.ModuleList(Fusion(number, channels, norm) for number in num_inputs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """L maps (B, D, h, w), finest first, to as many of the same shapes."""
        between = [maps[-1]]  # finest first
        for fuse, x in zip(reversed(self.down), reversed(maps[:-1])):
            coarse = F.interpolate(between[0], scale_factor=2.0, mode="nearest")  # (B, D, h, w)
            between.insert(0, fuse([x, coarse]))
        results = [between[0]]
        for level, fuse in enumerate(self.up, start=1):
            fine = F.max_pool2d(results[-1], 3, stride=2, padding=1)  # (B, D, h, w)
            inputs = [maps[level], fine]
            if level < len(maps) - 1:
                inputs.insert(1, between[level])
            results.append(fuse(inputs))
        return results


class Fusion(nn.Module):
    """Weighted mean of maps, activation and a separable convolution.

    Args:
        num_inputs: maps of one shape.
        channels: D.
        norm: of the convolution.
    """

    def __init__(self, num_inputs: int, channels: int, norm: str) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(num_inputs))
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = _conv(channels, channels, 1, norm)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps (B, D, h, w) to one."""
        weights = self.weights.relu()
        weights = weights / (weights.sum() + FUSION_EPS)
        merged = sum(weight * x for weight, x in zip(weights, maps))
        return self.pointwise(self.depthwise(F.silu(merged)))


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm: str) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
    )
    weight_init.c2_xavier_fill(conv)
    return conv
