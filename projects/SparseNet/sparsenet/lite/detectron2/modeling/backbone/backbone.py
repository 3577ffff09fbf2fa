"""Stands in for detectron2.modeling.backbone.backbone: has Backbone; lacks nothing."""

from abc import ABCMeta, abstractmethod

from detectron2.layers import ShapeSpec
from torch import nn

__all__ = ["Backbone"]


class Backbone(nn.Module, metaclass=ABCMeta):
    """Turns images (N, C, H, W) into named feature maps.

    ``output_shape`` needs the attributes ``_out_features``, ``_out_feature_channels`` and
    ``_out_feature_strides``, or is overridden.
    """

    def __init__(self):
        super().__init__()

    @abstractmethod
    def forward(self):
        """Returns {feature name: map}."""

    @property
    def size_divisibility(self) -> int:
        """Input sides must be multiples of it; 0: any side."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """As in ``ImageList.from_tensors``."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Returns {feature name: channels and stride}."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }
