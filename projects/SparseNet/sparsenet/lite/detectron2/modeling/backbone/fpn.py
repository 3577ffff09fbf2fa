"""Stands in for detectron2.modeling.backbone.fpn: has FPN, its top blocks and builders; lacks
TorchScript."""

import itertools
import math

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.backbone.backbone import Backbone
from detectron2.modeling.backbone.build import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from torch import nn
from torch.nn import functional as F

__all__ = ["FPN", "build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone"]


class FPN(Backbone):
    """Feature pyramid (arXiv 1612.03144) over the maps of another backbone."""

    def __init__(
        self,
        bottom_up,
        in_features,
        out_channels,
        norm="",
        top_block=None,
        fuse_type="sum",
        square_pad=0,
    ):
        """Takes the backbone below and how to combine its maps.

        Args:
            bottom_up: a Backbone.
            in_features: names of its maps, fine to coarse, each of twice the stride before.
            out_channels: of every output.
            norm: as in ``get_norm``; "" gives the convolutions a bias instead.
            top_block: makes ``num_levels`` coarser maps from the map named ``in_feature``.
            fuse_type: "sum" or "avg" of a map and the coarser one.
            square_pad: side to which images must be padded; 0: none.
        """
        super().__init__()
        assert isinstance(bottom_up, Backbone), type(bottom_up)
        assert in_features, "in_features must name the maps to use."
        assert fuse_type in {"avg", "sum"}, fuse_type
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride for name in in_features]
        for fine, coarse in itertools.pairwise(strides):
            assert coarse == 2 * fine, f"Strides {coarse} {fine} are not log2 contiguous"
        levels = [int(math.log2(stride)) for stride in strides]
        for level, name in zip(levels, in_features):
            lateral = _conv(shapes[name].channels, out_channels, 1, norm)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", _conv(out_channels, out_channels, 3, norm))
        self.lateral_convs = [getattr(self, f"fpn_lateral{level}") for level in levels[::-1]]
        self.output_convs = [getattr(self, f"fpn_output{level}") for level in levels[::-1]]
        self.top_block = top_block
        self.in_features = tuple(in_features)
        self.bottom_up = bottom_up
        num_extra = 0 if top_block is None else top_block.num_levels
        levels += range(levels[-1] + 1, levels[-1] + 1 + num_extra)
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = strides[-1]
        self._square_pad = square_pad
        self._fuse_type = fuse_type

    @property
    def size_divisibility(self):
        return self._size_divisibility

    @property
    def padding_constraints(self):
        return {"square_size": self._square_pad}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns p2, p3 ... of images (N, C, H, W) whose sides fit ``size_divisibility``."""
        below = self.bottom_up(x)
        results = []  # fine to coarse
        merged = None
        for lateral, output, name in zip(
            self.lateral_convs, self.output_convs, reversed(self.in_features)
        ):
            fine = lateral(below[name])
            if merged is None:
                merged = fine
            else:
                merged = fine + F.interpolate(merged, scale_factor=2.0, mode="nearest")
                if self._fuse_type == "avg":
                    merged /= 2
            results.insert(0, output(merged))
        if self.top_block is not None:
            maps = {**dict(zip(self._out_features, results)), **below}
            results.extend(self.top_block(maps[self.top_block.in_feature]))
        assert len(results) == len(self._out_features), "The top block returned too many maps."
        return dict(zip(self._out_features, results))


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
    )
    weight_init.c2_xavier_fill(conv)
    return conv


class LastLevelMaxPool(nn.Module):
    """p6 as every second cell of p5."""

    def __init__(self):
        super().__init__()
        self.num_levels = 1
        self.in_feature = "p5"

    def forward(self, x):
        return [F.max_pool2d(x, kernel_size=1, stride=2)]


class LastLevelP6P7(nn.Module):
    """p6 and p7 by strided convolutions (RetinaNet)."""

    def __init__(self, in_channels, out_channels, in_feature="res5"):
        super().__init__()
        self.num_levels = 2
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        weight_init.c2_xavier_fill(self.p6)
        weight_init.c2_xavier_fill(self.p7)

    def forward(self, c5):
        p6 = self.p6(c5)
        return [p6, self.p7(F.relu(p6))]


def _fpn_from_config(cfg, bottom_up: Backbone, top_block: nn.Module) -> FPN:
    node = cfg.MODEL.FPN
    return FPN(
        bottom_up=bottom_up,
        in_features=node.IN_FEATURES,
        out_channels=node.OUT_CHANNELS,
        norm=node.NORM,
        top_block=top_block,
        fuse_type=node.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_backbone(cfg, input_shape: ShapeSpec):
    """Builds ResNet and FPN with p6 by max pooling."""
    return _fpn_from_config(cfg, build_resnet_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_fpn_backbone(cfg, input_shape: ShapeSpec):
    """Builds ResNet and FPN with p6 and p7 from res5."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    channels = bottom_up.output_shape()["res5"].channels
    return _fpn_from_config(cfg, bottom_up, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS))
