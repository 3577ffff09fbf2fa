"""Stands in for detectron2.data.dataset_mapper: has DatasetMapper for boxes; lacks masks,
keypoints, semantic labels and precomputed proposals."""

import copy
import logging
from typing import Any

import numpy as np
import torch
from detectron2._lacking import lacks
from detectron2.config import configurable

from . import detection_utils as utils
from . import transforms as T

__all__ = ["DatasetMapper"]

logger = logging.getLogger(__name__)


class DatasetMapper:
    """Turns a dataset dict into what a model takes: reads, augments, makes Instances."""

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices: np.ndarray | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
    ):
        """Args:
        is_train: make "instances"; otherwise the annotations are dropped.
        augmentations: applied in this order.
        image_format: as in `detection_utils.read_image`.
        use_instance_mask, use_keypoint, recompute_boxes: must be False.
        instance_mask_format: without effect, as there are no masks.
        keypoint_hflip_indices, precomputed_proposal_topk: must be None.
        """
        if use_instance_mask or recompute_boxes:
            raise lacks("DatasetMapper with masks (MODEL.MASK_ON)")
        if use_keypoint or keypoint_hflip_indices is not None:
            raise lacks("DatasetMapper with keypoints (MODEL.KEYPOINT_ON)")
        if precomputed_proposal_topk is not None:
            raise lacks("DatasetMapper with precomputed proposals (MODEL.LOAD_PROPOSALS)")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.use_keypoint = use_keypoint
        self.keypoint_hflip_indices = keypoint_hflip_indices
        self.proposal_topk = precomputed_proposal_topk
        self.recompute_boxes = recompute_boxes
        purpose = "training" if is_train else "inference"
        logger.info(f"[DatasetMapper] Augmentations used in {purpose}: {augmentations}")

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """Returns the constructor's arguments as cfg.INPUT and cfg.MODEL have them."""
        augs = utils.build_augmentation(cfg, is_train)
        if cfg.INPUT.CROP.ENABLED and is_train:
            augs.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        args = {
            "is_train": is_train,
            "augmentations": augs,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "use_keypoint": cfg.MODEL.KEYPOINT_ON,
        }
        if cfg.MODEL.LOAD_PROPOSALS:
            split = "TRAIN" if is_train else "TEST"
            args["precomputed_proposal_topk"] = cfg.DATASETS[f"PRECOMPUTED_PROPOSAL_TOPK_{split}"]
        return args

    def _transform_annotations(
        self, dataset_dict: dict, transforms: T.TransformList, image_shape: tuple[int, int]
    ) -> None:
        annos = []
        for anno in dataset_dict.pop("annotations"):
            anno.pop("segmentation", None)
            anno.pop("keypoints", None)
            if anno.get("iscrowd", 0) == 0:
                annos.append(utils.transform_instance_annotations(anno, transforms, image_shape))
        instances = utils.annotations_to_instances(annos, image_shape)
        dataset_dict["instances"] = utils.filter_empty_instances(instances)

    def __call__(self, dataset_dict: dict) -> dict:
        """Returns a new dict: the given one without annotations, plus "image" and, in training,
        "instances".

        "image" is (C, h, w) of the file's type; "height" and "width" stay those of the file.
        """
        if "sem_seg_file_name" in dataset_dict:
            raise lacks("DatasetMapper with semantic labels (sem_seg_file_name)")
        dataset_dict = copy.deepcopy(dataset_dict)
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        dataset_dict["image"] = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
        if not self.is_train:
            dataset_dict.pop("annotations", None)
        elif "annotations" in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, image.shape[:2])
        return dataset_dict
