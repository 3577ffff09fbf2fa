"""Stands in for detectron2.checkpoint: has the three checkpointers; lacks catalog:// addresses."""

from detectron2._lacking import package_getattr
from detectron2.checkpoint.detection_checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

__all__ = ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"]

__getattr__ = package_getattr(__name__)
