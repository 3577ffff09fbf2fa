"""Backbones; importing this package registers them in Detectron2's BACKBONE_REGISTRY."""

from sparsenet.modeling.backbone.sparsenet import (
    SparseNet,
    build_sparsenet_backbone,
    build_sparsenet_fpn_backbone,
)

__all__ = ["SparseNet", "build_sparsenet_backbone", "build_sparsenet_fpn_backbone"]
