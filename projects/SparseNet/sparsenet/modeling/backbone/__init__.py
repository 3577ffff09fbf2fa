"""Backbones; importing this package registers them in Detectron2's BACKBONE_REGISTRY."""

from sparsenet.modeling.backbone.lsnet import (
    LSNet,
    build_lsnet_backbone,
    build_lsnet_fpn_backbone,
)
from sparsenet.modeling.backbone.lsnet_with_fpn import build_lsnet_extra_fpn_backbone
from sparsenet.modeling.backbone.sparsenet import (
    SparseNet,
    build_sparsenet_backbone,
    build_sparsenet_fpn_backbone,
)
from sparsenet.modeling.backbone.sparsenet_faithful import FaithfulSparseNet
from sparsenet.modeling.backbone.sparx_mamba import (
    SparXMamba,
    build_sparx_mamba_backbone,
    build_sparx_mamba_fpn_backbone,
)
from sparsenet.modeling.backbone.timm_backbone import (
    TimmBackbone,
    build_timm_backbone,
    build_timm_fpn_backbone,
)
from sparsenet.modeling.backbone.with_neck import build_neck_backbone

__all__ = [
    "FaithfulSparseNet",
    "LSNet",
    "SparXMamba",
    "SparseNet",
    "TimmBackbone",
    "build_lsnet_backbone",
    "build_lsnet_extra_fpn_backbone",
    "build_lsnet_fpn_backbone",
    "build_neck_backbone",
    "build_sparsenet_backbone",
    "build_sparsenet_fpn_backbone",
    "build_sparx_mamba_backbone",
    "build_sparx_mamba_fpn_backbone",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
]
