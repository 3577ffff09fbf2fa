"""Stands in for detectron2.structures: has Boxes, BoxMode, Instances, ImageList; lacks masks,
keypoints and rotated boxes."""

from detectron2._lacking import package_getattr
from detectron2.structures.boxes import (
    Boxes,
    BoxMode,
    pairwise_ioa,
    pairwise_iou,
    pairwise_point_box_distance,
)
from detectron2.structures.image_list import ImageList
from detectron2.structures.instances import Instances

__all__ = [
    "BoxMode",
    "Boxes",
    "ImageList",
    "Instances",
    "pairwise_ioa",
    "pairwise_iou",
    "pairwise_point_box_distance",
]

__getattr__ = package_getattr(__name__)
