"""Training examples with instance masks or semantic labels, for Detectron2's own models.

All of them are Detectron2's own ``DatasetMapper``; what differs is how images are augmented.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader, detection_utils
from detectron2.data import transforms as T

from sparsenet.data.dataset_dicts import load_training_dicts
from sparsenet.data.sparse_rcnn_mapper import CROP_MIN_SIZES
from sparsenet.errors import DatasetError

IGNORED_LABEL = 255

# Factors of brightness, contrast and saturation of mmsegmentation's photometric distortion, each
# applied to half of the images: up to 32 of 255 levels, and 0.5 to 1.5.
_BRIGHTNESS = (1 - 32 / 255, 1 + 32 / 255)
_CONTRAST = _SATURATION = (0.5, 1.5)


def build_image_train_loader(cfg: CfgNode) -> Any:
    """Detectron2's training loader for the model of ``MODEL.META_ARCHITECTURE``.

    Raises:
        DatasetError: If there is nothing to train on, or masks are to be trained and an object has
            none, or a run-length one where polygons are expected.
    """
    dicts = load_training_dicts(
        cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    if cfg.MODEL.MASK_ON:
        _require_masks(dicts, cfg.INPUT.MASK_FORMAT)
    return build_detection_train_loader(cfg, mapper=build_image_mapper(cfg), dataset=dicts)


def build_image_mapper(cfg: CfgNode) -> DatasetMapper:
    """The mapper for the model of ``MODEL.META_ARCHITECTURE`` in training."""
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        augmentations = semantic_augmentations(cfg)
    else:
        augmentations = instance_augmentations(cfg)
    return DatasetMapper(cfg, True, augmentations=augmentations, recompute_boxes=False)


def instance_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Resize and flip; with ``INPUT.CROP`` half of the images are cropped before that.

    That is the training at several scales of DETR, Sparse R-CNN and mmdetection's 3x schedules,
    where Detectron2 would crop every image, at its full size.
    """
    augmentations = detection_utils.build_augmentation(cfg, True)
    crop = cfg.INPUT.CROP
    if crop.ENABLED:
        steps = [
            T.ResizeShortestEdge(CROP_MIN_SIZES, cfg.INPUT.MAX_SIZE_TRAIN, "choice"),
            T.RandomCrop(crop.TYPE, crop.SIZE),
        ]
        augmentations.insert(0, T.RandomApply(T.AugmentationList(steps), 0.5))
    return augmentations


def semantic_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Resize, crop, flip and, with ``INPUT.COLOR_DISTORTION``, other colours, in this order."""
    resize, *flip = detection_utils.build_augmentation(cfg, True)
    crop = cfg.INPUT.CROP
    augmentations = [resize]
    if crop.ENABLED:
        augmentations.append(
            T.RandomCrop_CategoryAreaConstraint(
                crop.TYPE, crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA, IGNORED_LABEL
            )
        )
    augmentations += flip
    if cfg.INPUT.COLOR_DISTORTION:
        augmentations += [
            T.RandomApply(T.RandomBrightness(*_BRIGHTNESS)),
            T.RandomApply(T.RandomContrast(*_CONTRAST)),
            T.RandomApply(T.RandomSaturation(*_SATURATION)),
        ]
    return augmentations


def _require_masks(dicts: Sequence[dict[str, Any]], mask_format: str) -> None:
    """Raises DatasetError where an object, other than a crowd, has no mask to train with."""
    for item in dicts:
        for annotation in item.get("annotations", ()):
            if annotation.get("iscrowd", 0):
                continue
            mask = annotation.get("segmentation")
            if not mask:
                raise DatasetError(
                    f"Every object must have a segmentation where MODEL.MASK_ON is set, one in "
                    f"{item['file_name']} has none. Add polygons or run-length masks to the "
                    "annotations, or set MODEL.MASK_ON to False."
                )
            if mask_format == "polygon" and isinstance(mask, dict):
                raise DatasetError(
                    "Masks must be polygons where INPUT.MASK_FORMAT is polygon, one in "
                    f"{item['file_name']} is run-length. Set INPUT.MASK_FORMAT bitmask, which "
                    "takes both."
                )
