"""Stands in for detectron2.modeling.backbone.build: has BACKBONE_REGISTRY, build_backbone; lacks
nothing."""

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.backbone import Backbone
from detectron2.utils.registry import Registry

BACKBONE_REGISTRY = Registry("BACKBONE")  # name -> function of (config, input ShapeSpec)


def build_backbone(cfg, input_shape=None) -> Backbone:
    """Returns the backbone named by MODEL.BACKBONE.NAME; PIXEL_MEAN tells the input channels."""
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    assert isinstance(backbone, Backbone), f"{cfg.MODEL.BACKBONE.NAME} returned no Backbone."
    return backbone
