"""Stands in for detectron2.solver: has the builders, LRMultiplier, WarmupParamScheduler; lacks the
deprecated WarmupMultiStepLR and WarmupCosineLR classes."""

from detectron2._lacking import package_getattr
from detectron2.solver.build import (
    build_lr_scheduler,
    build_optimizer,
    get_default_optimizer_params,
)
from detectron2.solver.lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

__all__ = [
    "LRMultiplier",
    "LRScheduler",
    "WarmupParamScheduler",
    "build_lr_scheduler",
    "build_optimizer",
    "get_default_optimizer_params",
]

__getattr__ = package_getattr(__name__)
