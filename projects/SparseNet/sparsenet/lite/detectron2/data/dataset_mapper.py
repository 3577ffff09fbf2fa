"""Stands in for detectron2.data.dataset_mapper: has DatasetMapper for boxes, masks and
semantic labels; lacks keypoints and precomputed proposals."""

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
        use_instance_mask: make "gt_masks" of the annotations' "segmentation".
        instance_mask_format: "polygon" or "bitmask".
        recompute_boxes: take the boxes from the transformed masks, which fit them more tightly.
        use_keypoint: must be False.
        keypoint_hflip_indices, precomputed_proposal_topk: must be None.
        """
        if recompute_boxes:
            assert use_instance_mask, "recompute_boxes requires instance masks"
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
        # A crop leaves part of an object, and the rest fits in a smaller box than the crop's.
        recompute_boxes = cfg.INPUT.CROP.ENABLED and is_train and cfg.MODEL.MASK_ON
        args = {
            "is_train": is_train,
            "augmentations": augs,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "use_keypoint": cfg.MODEL.KEYPOINT_ON,
            "recompute_boxes": recompute_boxes,
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
            if not self.use_instance_mask:
                anno.pop("segmentation", None)
            anno.pop("keypoints", None)
            if anno.get("iscrowd", 0) == 0:
                annos.append(utils.transform_instance_annotations(anno, transforms, image_shape))
        instances = utils.annotations_to_instances(
            annos, image_shape, mask_format=self.instance_mask_format
        )
        if self.recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = utils.filter_empty_instances(instances)

    def __call__(self, dataset_dict: dict) -> dict:
        """Returns a new dict: the given one without annotations, plus "image" and, in training,
        "instances"; "sem_seg" where the dict names a "sem_seg_file_name".

        "image" is (C, h, w) of the file's type, "sem_seg" (h, w) int64; "height" and "width" stay
        those of the file.
        """
        dataset_dict = copy.deepcopy(dataset_dict)
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        labels = None
        if "sem_seg_file_name" in dataset_dict:
            labels = utils.read_image(dataset_dict.pop("sem_seg_file_name"), "L")[:, :, 0]
        aug_input = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        dataset_dict["image"] = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
        if aug_input.sem_seg is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(aug_input.sem_seg.astype("long"))
        if not self.is_train:
            dataset_dict.pop("annotations", None)
        elif "annotations" in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, image.shape[:2])
        return dataset_dict
