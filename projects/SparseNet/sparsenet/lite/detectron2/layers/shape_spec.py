"""Stands in for detectron2.layers.shape_spec: has ShapeSpec; lacks nothing."""

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """What is known of a feature map: channels, size in cells, stride in input pixels."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
