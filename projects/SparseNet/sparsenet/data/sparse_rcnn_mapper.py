"""Training examples for Sparse R-CNN on whole images.

Paper: Sparse R-CNN, arXiv 2011.12450; upstream PeizeSun/SparseR-CNN (MIT). The draws from numpy's
global generator come in upstream's order: a seed gives upstream's image sizes, crops and flips.
Differs from ``detectron2.data.DatasetMapper`` in: flip before resize, and a crop branch that every
second image takes (resize, crop, resize) in place of a crop for all.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T

# Shorter sides before the crop; fixed upstream, as in DETR.
CROP_MIN_SIZES = (400, 500, 600)


class SparseRCNNDatasetMapper:
    """Turns a dataset dict into the model's input.

    Args:
        is_train: Whether to augment and to add ``instances``.
        flip: Applied first.
        crop: Applied after the flip in half of the cases; empty for no cropping.
        resize: Applied last.
        image_format: As ``INPUT.FORMAT``.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        flip: list[T.Augmentation],
        crop: list[T.Augmentation],
        resize: list[T.Augmentation],
        image_format: str,
    ) -> None:
        self.is_train = is_train
        self.flip = flip
        self.crop = crop
        self.resize = resize
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Arguments from ``INPUT``; as upstream, flips are horizontal unless there are none."""
        node = cfg.INPUT
        if is_train:
            sizes, max_size, style = (
                node.MIN_SIZE_TRAIN,
                node.MAX_SIZE_TRAIN,
                node.MIN_SIZE_TRAIN_SAMPLING,
            )
        else:
            sizes, max_size, style = node.MIN_SIZE_TEST, node.MAX_SIZE_TEST, "choice"
        crop: list[T.Augmentation] = []
        if is_train and node.CROP.ENABLED:
            crop = [
                T.ResizeShortestEdge(list(CROP_MIN_SIZES), sample_style="choice"),
                T.RandomCrop(node.CROP.TYPE, node.CROP.SIZE),
            ]
        return {
            "is_train": is_train,
            "flip": [T.RandomFlip()] if is_train and node.RANDOM_FLIP != "none" else [],
            "crop": crop,
            "resize": [T.ResizeShortestEdge(sizes, max_size, style)],
            "image_format": node.FORMAT,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Builds one example; the dict that is passed in stays as it is.

        Returns:
            The dict without ``annotations``, with ``image`` (uint8, (C, h, w)) and, in training,
            ``instances`` without crowds and without boxes that a crop emptied.
        """
        example = copy.deepcopy(dataset_dict)
        image = detection_utils.read_image(example["file_name"], format=self.image_format)
        detection_utils.check_image_size(example, image)
        augmented = T.AugInput(image)
        transforms = T.AugmentationList(self._draw_augmentations())(augmented)
        image = augmented.image
        example["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        annotations = example.pop("annotations", [])
        if self.is_train:
            example["instances"] = _to_instances(annotations, transforms, image.shape[:2])
        return example

    def _draw_augmentations(self) -> list[T.Augmentation]:
        # The draw precedes those of the augmentations and happens only where cropping is on.
        if self.crop and np.random.rand() <= 0.5:
            return [*self.flip, *self.crop, *self.resize]
        return [*self.flip, *self.resize]


def _to_instances(
    annotations: list[dict[str, Any]], transforms: T.TransformList, image_size: tuple[int, int]
) -> Any:
    """Boxes and classes in the augmented image of ``(h, w)``."""
    boxes_only = [
        {k: v for k, v in annotation.items() if k not in ("segmentation", "keypoints")}
        for annotation in annotations
        if not annotation.get("iscrowd", 0)
    ]
    transformed = [
        detection_utils.transform_instance_annotations(annotation, transforms, image_size)
        for annotation in boxes_only
    ]
    instances = detection_utils.annotations_to_instances(transformed, image_size)
    return detection_utils.filter_empty_instances(instances)
