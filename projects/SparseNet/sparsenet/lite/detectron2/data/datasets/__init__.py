"""Stands in for detectron2.data.datasets: has COCO json files and the coco_2017_* names; lacks
LVIS, Pascal VOC, Cityscapes, ADE20k and panoptic data."""

from detectron2._lacking import package_getattr

from . import builtin  # registers the names
from .coco import convert_to_coco_json, load_coco_json, register_coco_instances

__all__ = ["builtin", "convert_to_coco_json", "load_coco_json", "register_coco_instances"]

__getattr__ = package_getattr(__name__)
