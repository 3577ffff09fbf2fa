"""Stands in for detectron2.data.datasets.builtin: has the coco_2017_* names under the folder
$DETECTRON2_DATASETS (./datasets if unset); lacks COCO 2014, keypoints and other datasets."""

import os

from .builtin_meta import _get_builtin_metadata
from .coco import register_coco_instances

# name -> image folder, annotation file
_COCO_2017 = {
    "coco_2017_train": ("train2017", "instances_train2017.json"),
    "coco_2017_val": ("val2017", "instances_val2017.json"),
    "coco_2017_test": ("test2017", "image_info_test2017.json"),
    "coco_2017_test-dev": ("test2017", "image_info_test-dev2017.json"),
    "coco_2017_val_100": ("val2017", "instances_val2017_100.json"),
}


def register_all_coco(root: str) -> None:
    """Registers the COCO names with their files under `root`/coco."""
    for name, (image_folder, json_name) in _COCO_2017.items():
        register_coco_instances(
            name,
            _get_builtin_metadata("coco"),
            os.path.join(root, "coco/annotations", json_name),
            os.path.join(root, "coco", image_folder),
        )


register_all_coco(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
