"""Stands in for detectron2.modeling.meta_arch.build: has META_ARCH_REGISTRY, build_model; lacks
nothing."""

import torch
from detectron2.utils.registry import Registry

META_ARCH_REGISTRY = Registry("META_ARCH")  # name -> function of a config that returns a module


def build_model(cfg):
    """Returns the model named by MODEL.META_ARCHITECTURE on MODEL.DEVICE, without weights."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))
