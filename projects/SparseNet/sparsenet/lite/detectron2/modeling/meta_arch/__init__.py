"""Stands in for detectron2.modeling.meta_arch: has registry and build_model; lacks the models."""

from detectron2._lacking import package_getattr
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY, build_model

__all__ = ["META_ARCH_REGISTRY", "build_model"]

__getattr__ = package_getattr(__name__)
