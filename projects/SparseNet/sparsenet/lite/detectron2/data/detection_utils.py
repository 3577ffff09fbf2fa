"""Stands in for detectron2.data.detection_utils: has reading, checks, boxes and masks of
annotations, and the default augmentations; lacks keypoints, rotated boxes, proposals and the YUV
format."""

import logging
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2._lacking import lacks, package_getattr
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Instances,
    PolygonMasks,
    polygons_to_bitmask,
)
from detectron2.utils.file_io import PathManager
from PIL import Image

from . import transforms as T
from .catalog import MetadataCatalog

__all__ = [
    "SizeMismatchError",
    "annotations_to_instances",
    "build_augmentation",
    "build_transform_gen",
    "check_image_size",
    "check_metadata_consistency",
    "convert_PIL_to_numpy",
    "convert_image_to_rgb",
    "filter_empty_instances",
    "get_bbox",
    "read_image",
    "transform_instance_annotations",
]

logger = logging.getLogger(__name__)

__getattr__ = package_getattr(__name__)

_EXIF_ORIENTATION_TAG = 274
# Value of the tag -> what turns the stored picture upright (EXIF 2.3, section 4.6.4).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class SizeMismatchError(ValueError):
    """An image whose size is not the one that its dataset dict states."""


def _reject_yuv(format: str | None) -> None:
    if format == "YUV-BT.601":
        raise lacks("The image format YUV-BT.601")


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """Returns the picture as (h, w, C) in `format`: a mode of PIL or "BGR"; None keeps its own."""
    _reject_yuv(format)
    if format is not None:
        image = image.convert("RGB" if format == "BGR" else format)
    pixels = np.asarray(image)
    if format == "BGR":
        return pixels[:, :, ::-1]
    return pixels[:, :, None] if format == "L" else pixels


def convert_image_to_rgb(image: np.ndarray | torch.Tensor, format: str) -> np.ndarray:
    """Returns the (h, w, C) image, whose channels are in `format`, as (h, w, 3) RGB in [0, 255]."""
    _reject_yuv(format)
    pixels = image.cpu().numpy() if isinstance(image, torch.Tensor) else image
    if format == "BGR":
        return pixels[:, :, [2, 1, 0]]
    pixels = pixels.astype(np.uint8)
    if format == "L":
        return np.repeat(pixels[:, :, :1], 3, axis=2)
    if format == "RGB":
        return pixels
    raw = np.ascontiguousarray(pixels)
    return np.asarray(Image.frombytes(format, raw.shape[1::-1], raw.tobytes()).convert("RGB"))


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_EXIF_ORIENTATION_TAG)
    except (SyntaxError, ValueError, struct.error) as error:
        logger.warning(f"The EXIF block of an image is damaged ({error}); it is taken as upright")
        return None


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Reads an image file, upright by its EXIF orientation.

    Returns (h, w, C), uint8 for the usual modes; `format` as in `convert_PIL_to_numpy`.
    """
    with PathManager.open(file_name, "rb") as f:
        image = Image.open(f)
        method = _UPRIGHT.get(_orientation(image))
        return convert_PIL_to_numpy(image if method is None else image.transpose(method), format)


def check_image_size(dataset_dict: dict, image: np.ndarray) -> None:
    """Checks "width" and "height" of the dict against the image, and fills them in where missing.

    Raises:
        SizeMismatchError: the image has another size.
    """
    height, width = image.shape[:2]
    expected = (dataset_dict.setdefault("width", width), dataset_dict.setdefault("height", height))
    if expected != (width, height):
        raise SizeMismatchError(
            f"The annotation of {dataset_dict.get('file_name', 'an image')} states (width, height) "
            f"= {expected}, but the image has {(width, height)}. Correct the annotation, or check "
            "for an EXIF rotation that its author ignored."
        )


def get_bbox(annotation: dict) -> Any:
    """Returns the annotation's box as absolute XYXY."""
    return BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)


def transform_instance_annotations(
    annotation: dict,
    transforms: Any,
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices: np.ndarray | None = None,
) -> dict:
    """Transforms box and mask of one annotation in place and returns it.

    Args:
        annotation: "bbox", "bbox_mode" and maybe "segmentation": polygons, or an RLE, which
            becomes a (h, w) mask.
        transforms: a TransformList, or a list of transforms.
        image_size: (h, w) after the transforms; the box, XYXY afterwards, is clipped to it.
        keypoint_hflip_indices: must be None.
    """
    if "keypoints" in annotation or keypoint_hflip_indices is not None:
        raise lacks("Transforming keypoints")
    if isinstance(transforms, tuple | list):
        transforms = T.TransformList(transforms)
    height, width = image_size
    box = transforms.apply_box(np.array([get_bbox(annotation)]))[0].clip(min=0)
    annotation["bbox"] = np.minimum(box, [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        annotation["segmentation"] = _transform_segmentation(
            annotation["segmentation"], transforms, image_size
        )
    return annotation


def _transform_segmentation(
    segmentation: Any, transforms: T.TransformList, image_size: tuple[int, int]
) -> Any:
    if isinstance(segmentation, list):
        polygons = [np.asarray(p).reshape(-1, 2) for p in segmentation]
        return [p.reshape(-1) for p in transforms.apply_polygons(polygons)]
    if not isinstance(segmentation, dict):
        raise ValueError(_not_a_segmentation(segmentation))
    mask = transforms.apply_segmentation(mask_util.decode(segmentation))
    assert tuple(mask.shape[:2]) == tuple(image_size), (
        f"a transformed mask must have the image's size {image_size}, got {mask.shape[:2]}"
    )
    return mask


def _not_a_segmentation(segmentation: Any) -> str:
    return (
        "segmentation must be polygons [[x0, y0, x1, y1, …], …] or an RLE {'size', 'counts'}, got "
        f"{type(segmentation).__name__}"
    )


def annotations_to_instances(
    annos: list[dict], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """Returns the Instances with "gt_boxes" and "gt_classes" of one image's annotations, and
    "gt_masks" where these have a "segmentation".

    Args:
        annos: the annotations; without keypoints, which lite does not have.
        image_size: (h, w) in pixels.
        mask_format: "polygon" for PolygonMasks, or "bitmask" for BitMasks, to which polygons, RLE
            and (h, w) masks are converted.
    """
    if annos and "keypoints" in annos[0]:
        raise lacks("Training with keypoints (gt_keypoints)")
    target = Instances(image_size)
    target.gt_boxes = Boxes(np.stack([get_bbox(a) for a in annos]) if annos else np.zeros((0, 4)))
    target.gt_classes = torch.tensor([int(a["category_id"]) for a in annos], dtype=torch.int64)
    if annos and "segmentation" in annos[0]:
        target.gt_masks = _masks([a["segmentation"] for a in annos], image_size, mask_format)
    return target


def _masks(
    segmentations: list[Any], image_size: tuple[int, int], mask_format: str
) -> PolygonMasks | BitMasks:
    if mask_format == "polygon":
        try:
            return PolygonMasks(segmentations)
        except ValueError as error:
            raise ValueError(
                "With INPUT.MASK_FORMAT 'polygon' every segmentation must be polygons; set it to "
                f"'bitmask' for RLE and masks: {error}"
            ) from error
    assert mask_format == "bitmask", (
        f"mask_format must be 'polygon' or 'bitmask', got {mask_format!r}"
    )
    # Copies: a flipped mask has negative strides, which tensors do not know.
    masks = [torch.from_numpy(np.array(_bitmask(item, image_size))) for item in segmentations]
    return BitMasks(torch.stack(masks))


def _bitmask(segmentation: Any, image_size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        return polygons_to_bitmask(segmentation, *image_size)
    if isinstance(segmentation, dict):
        return mask_util.decode(segmentation)
    if not isinstance(segmentation, np.ndarray):
        raise ValueError(_not_a_segmentation(segmentation))
    assert segmentation.ndim == 2, f"a mask must have 2 dimensions, got shape {segmentation.shape}"
    return segmentation


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Any:
    """Drops instances whose box has a side of `box_threshold` pixels or less, or, with `by_mask`,
    whose mask is empty.

    Returns the Instances that are left and, with `return_mask`, the (N,) bool mask of them.
    """
    assert by_box or by_mask, "filter_empty_instances: one of by_box and by_mask must be True"
    keep = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        keep &= instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        keep &= instances.gt_masks.nonempty()
    return (instances[keep], keep) if return_mask else instances[keep]


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> None:
    """Checks that all datasets have the same metadata `key`.

    Raises:
        AttributeError: a dataset has no such metadata.
        ValueError: two datasets differ.
    """
    values = {name: getattr(MetadataCatalog.get(name), key) for name in dataset_names}
    first = next(iter(values), None)
    for name, value in values.items():
        if value != values[first]:
            raise ValueError(
                f"Datasets that are used together must have the same {key}, but that of {first} is "
                f"{values[first]!r} and that of {name} is {value!r}"
            )


def build_augmentation(cfg: Any, is_train: bool) -> list[T.Augmentation]:
    """Returns the augmentations that cfg.INPUT asks for: resize and, in training, flip."""
    if not is_train:
        return [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
    style = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    augs = [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, style)]
    direction = cfg.INPUT.RANDOM_FLIP
    if direction != "none":
        augs.append(
            T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")
        )
    return augs


build_transform_gen = build_augmentation  # its name of 2020
