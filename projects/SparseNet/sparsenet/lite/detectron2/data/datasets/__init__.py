"""Stands in for detectron2.data.datasets: has COCO json files, label maps, the coco_2017_*
and ade20k_sem_seg_* names; lacks LVIS, Pascal VOC, Cityscapes and panoptic data."""

from detectron2._lacking import package_getattr

from . import builtin  # registers the names
from .coco import convert_to_coco_json, load_coco_json, load_sem_seg, register_coco_instances

__all__ = [
    "builtin",
    "convert_to_coco_json",
    "load_coco_json",
    "load_sem_seg",
    "register_coco_instances",
]

__getattr__ = package_getattr(__name__)
