"""Stands in for detectron2.data.datasets.builtin: has the coco_2017_* and ade20k_sem_seg_*
names under the folder $DETECTRON2_DATASETS (./datasets if unset); lacks COCO 2014, keypoints and
other datasets."""

import functools
import os

from ..catalog import DatasetCatalog, MetadataCatalog
from .builtin_meta import ADE20K_SEM_SEG_CATEGORIES, _get_builtin_metadata
from .coco import load_sem_seg, register_coco_instances

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


def register_all_ade20k(root: str) -> None:
    """Registers ADE20K's scene parsing names with their files under `root`/ADEChallengeData2016.

    Its label maps lie in annotations_detectron2: classes 0…149 and 255 for none, where the
    original ones in annotations have 1…150 and 0.
    """
    root = os.path.join(root, "ADEChallengeData2016")
    for split, folder in (("train", "training"), ("val", "validation")):
        name = f"ade20k_sem_seg_{split}"
        image_root = os.path.join(root, "images", folder)
        gt_root = os.path.join(root, "annotations_detectron2", folder)
        DatasetCatalog.register(name, functools.partial(load_sem_seg, gt_root, image_root))
        MetadataCatalog.get(name).set(
            stuff_classes=ADE20K_SEM_SEG_CATEGORIES,
            image_root=image_root,
            sem_seg_root=gt_root,
            evaluator_type="sem_seg",
            ignore_label=255,
        )


_root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
register_all_coco(_root)
register_all_ade20k(_root)
