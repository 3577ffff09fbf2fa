"""Stands in for detectron2.modeling: has ResNet, FPN, registries, build_model, RoI pooling and
postprocessing; lacks the meta-architectures, proposal generators, RoI heads and TTA."""

from detectron2._lacking import package_getattr
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import (
    BACKBONE_REGISTRY,
    FPN,
    Backbone,
    ResNet,
    ResNetBlockBase,
    build_backbone,
    build_resnet_backbone,
    make_stage,
)
from detectron2.modeling.meta_arch import META_ARCH_REGISTRY, build_model
from detectron2.modeling.postprocessing import detector_postprocess

__all__ = [
    "BACKBONE_REGISTRY",
    "FPN",
    "META_ARCH_REGISTRY",
    "Backbone",
    "ResNet",
    "ResNetBlockBase",
    "ShapeSpec",
    "build_backbone",
    "build_model",
    "build_resnet_backbone",
    "detector_postprocess",
    "make_stage",
]

__getattr__ = package_getattr(__name__)
