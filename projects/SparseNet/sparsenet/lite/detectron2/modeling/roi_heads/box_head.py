"""Stands in for detectron2.modeling.roi_heads.box_head: has FastRCNNConvFCHead, registry and
builder; lacks nothing."""

import math

import fvcore.nn.weight_init as weight_init
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.utils.registry import Registry
from torch import nn

__all__ = ["ROI_BOX_HEAD_REGISTRY", "FastRCNNConvFCHead", "build_box_head"]

ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")  # name -> class of (cfg, ShapeSpec)


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions, then fully connected layers, each with a ReLU."""

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, conv_dims: list[int], fc_dims: list[int], conv_norm=""
    ):
        """Takes channels and size of the pooled boxes, output channels of the layers, and the norm
        of the convolutions."""
        super().__init__()
        assert len(conv_dims) + len(fc_dims) > 0, "FastRCNNConvFCHead needs a layer."
        channels = input_shape.channels
        for number, dim in enumerate(conv_dims, start=1):
            conv = Conv2d(
                channels,
                dim,
                kernel_size=3,
                padding=1,
                bias=not conv_norm,
                norm=get_norm(conv_norm, dim),
                activation=nn.ReLU(),
            )
            weight_init.c2_msra_fill(conv)
            self.add_module(f"conv{number}", conv)
            channels = dim
        self._output_size = (channels, input_shape.height, input_shape.width)
        for number, dim in enumerate(fc_dims, start=1):
            if number == 1:
                self.add_module("flatten", nn.Flatten())
            linear = nn.Linear(math.prod(self._output_size), dim)
            weight_init.c2_xavier_fill(linear)
            self.add_module(f"fc{number}", linear)
            self.add_module(f"fc_relu{number}", nn.ReLU())
            self._output_size = (dim,)

    @classmethod
    def from_config(cls, cfg, input_shape):
        node = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "conv_dims": [node.CONV_DIM] * node.NUM_CONV,
            "fc_dims": [node.FC_DIM] * node.NUM_FC,
            "conv_norm": node.NORM,
        }

    def forward(self, x):
        """(M, C, h, w) pooled boxes to (M, D), or (M, C', h, w) without fully connected layers."""
        return super().forward(x)

    @property
    def output_shape(self):
        """Channels and, without fully connected layers, size of the output."""
        return ShapeSpec(**dict(zip(("channels", "height", "width"), self._output_size)))


def build_box_head(cfg, input_shape):
    """Returns the head named by MODEL.ROI_BOX_HEAD.NAME."""
    return ROI_BOX_HEAD_REGISTRY.get(cfg.MODEL.ROI_BOX_HEAD.NAME)(cfg, input_shape)
