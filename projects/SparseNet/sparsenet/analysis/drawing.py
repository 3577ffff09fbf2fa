"""Pictures of annotations, training examples and results, drawn by Detectron2's Visualizer.

Masks are drawn where there are some. A run-length mask is decoded as a whole, so that in images
above ``MAX_MASK_PIXELS`` only polygons are drawn, and boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, PolygonMasks
from detectron2.utils.visualizer import Visualizer
from pycocotools import mask as coco_mask

from sparsenet.errors import DatasetError
from sparsenet.evaluation.coco_metrics import run_lengths
from sparsenet.gigapixel.exports import class_color
from sparsenet.gigapixel.masks import decode_mask, encode_mask, mask_polygons
from sparsenet.gigapixel.pictures import read_overview
from sparsenet.gigapixel.truth import Truth
from sparsenet.tiling.reader import open_image

CELL_SIDE = 480
# A bitmap of more takes longer than a glance at the picture.
MAX_MASK_PIXELS = 50_000_000
_IGNORED = (0.6, 0.6, 0.6)
_PAPER, _GAP = 24, 4
# More labels than that hide each other and the picture.
_MAX_LABELS = 25


def load_dataset(name: str) -> list[dict[str, Any]]:
    """The dataset dicts of a registered name.

    Raises:
        DatasetError: If no dataset of that name is registered.
    """
    if name not in DatasetCatalog.list():
        raise DatasetError(
            f"The dataset {name!r} must be registered, it is not. Register your own with "
            "DATASETS.COCO_FILES, VOC_FOLDERS, YOLO_FOLDERS or ODGT_FILES."
        )
    return DatasetCatalog.get(name)


def draw_annotations(item: Mapping[str, Any], dataset: str, side: int = CELL_SIDE) -> np.ndarray:
    """An image of a dataset with its boxes and masks, ignored ones in grey: (h, w, 3) uint8 RGB.

    Args:
        item: dataset dict; images of any size are read at a low resolution.
        side: limit of the picture's longer side.
    """
    pixels, downsample = read_overview(open_image(item["file_name"]), side)
    annotations = item.get("annotations", [])
    truth = Truth.from_annotations(annotations)
    labels = [_class_name(dataset, c) for c in truth.classes]
    boxes, outlines = truth.boxes_xyxy / downsample, _polygons(annotations, downsample)
    return _draw(pixels, boxes, labels, _colors(truth.classes, truth.is_ignore), side, outlines)


def draw_example(
    example: Mapping[str, Any], dataset: str, image_format: str, side: int = CELL_SIDE
) -> np.ndarray:
    """A training example as the model gets it, ignore boxes in grey: (h, w, 3) uint8 RGB.

    Args:
        example: what a mapper returns.
        image_format: channel order of ``example["image"]``, "RGB" or "BGR".
    """
    pixels = example["image"].numpy().transpose(1, 2, 0)  # (h, w, 3)
    pixels = pixels if image_format == "RGB" else pixels[:, :, ::-1]
    instances = example["instances"]
    boxes = instances.gt_boxes.tensor.numpy()
    classes = instances.gt_classes.numpy()
    if "ignore_boxes" in example:
        boxes = np.concatenate([boxes, example["ignore_boxes"].tensor.numpy()])
    is_ignore = np.arange(len(boxes)) >= len(classes)
    classes = np.pad(classes, (0, len(boxes) - len(classes)))
    labels = [
        "ignore" if ignored else _class_name(dataset, c) for c, ignored in zip(classes, is_ignore)
    ]
    outlines = None
    if instances.has("gt_masks"):
        outlines = [*_outlines(instances.gt_masks), *([] for _ in classes[is_ignore])]
    return _draw(pixels, boxes, labels, _colors(classes, is_ignore), side, outlines)


def draw_results(
    item: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    dataset: str,
    *,
    threshold: float,
    side: int,
) -> np.ndarray:
    """Detections beside the truth of one image: (h, 2w + gap, 3) uint8 RGB.

    Args:
        item: dataset dict.
        results: the image's entries of a ``coco_instances_results.json``.
        threshold: detections with a lower score are not drawn.
        side: limit of each half's longer side.

    Raises:
        DatasetError: If a result has a category that the dataset lacks.
    """
    shown = [result for result in results if result["score"] >= threshold]
    class_of = MetadataCatalog.get(dataset).thing_dataset_id_to_contiguous_id
    unknown = {result["category_id"] for result in shown} - set(class_of)
    if unknown:
        raise DatasetError(
            f"Results must use the category ids of {dataset}, {sorted(class_of)}, got "
            f"{sorted(unknown)}. Are they those of another dataset?"
        )
    pixels, downsample = read_overview(open_image(item["file_name"]), side)
    xywh = np.array([result["bbox"] for result in shown], dtype=np.float64).reshape(-1, 4)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1) / downsample
    classes = np.array([class_of[result["category_id"]] for result in shown], dtype=np.int64)
    labels = [
        f"{_class_name(dataset, c)} {result['score']:.2f}" for c, result in zip(classes, shown)
    ]
    colors = _colors(classes, np.zeros(len(classes), bool))
    found = _draw(pixels, boxes, labels, colors, side, _polygons(shown, downsample))
    truth = draw_annotations(item, dataset, side)
    gap = np.full((found.shape[0], 6, 3), 255, dtype=np.uint8)
    return np.concatenate([found, gap, truth], axis=1)


def contact_sheet(
    pictures: Sequence[np.ndarray], columns: int = 4, side: int = CELL_SIDE
) -> np.ndarray:
    """Pictures in rows, each at most ``side`` pixels long: (h, w, 3) uint8 RGB.

    Raises:
        DatasetError: If there is no picture.
    """
    if not pictures:
        raise DatasetError("There must be at least one image to show, got none.")
    cells = [_shrink(picture, side - _GAP) for picture in pictures]
    columns, height = min(columns, len(cells)), max(len(cell) for cell in cells) + _GAP
    rows = -(-len(cells) // columns)
    sheet = np.full((rows * height, columns * side, 3), _PAPER, dtype=np.uint8)
    for i, cell in enumerate(cells):
        y, x = i // columns * height, i % columns * side
        sheet[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
    return sheet


def _shrink(picture: np.ndarray, side: int) -> np.ndarray:
    scale = min(1.0, side / max(picture.shape[:2]))
    size = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _draw(
    pixels: np.ndarray,
    boxes_xyxy: np.ndarray,
    labels: list[str],
    colors: list[tuple[float, ...]],
    side: int,
    outlines: list[list[np.ndarray]] | None = None,
) -> np.ndarray:
    """Draws boxes, in pixels of ``pixels``, on an enlarged picture of about ``side`` pixels.

    Args:
        outlines: polygons [x1, y1, x2, y2, ...] of each box; None draws none.
    """
    visualizer = Visualizer(pixels, scale=side / max(pixels.shape[:2]))
    visualizer.overlay_instances(
        boxes=boxes_xyxy,
        labels=labels if len(labels) <= _MAX_LABELS else None,
        masks=outlines,
        assigned_colors=colors,
    )
    return visualizer.get_output().get_image()


def _outlines(masks: PolygonMasks | BitMasks) -> list[list[np.ndarray]]:
    """The polygons of each mask."""
    if isinstance(masks, PolygonMasks):
        return masks.polygons
    found = (
        cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        for mask in masks.tensor.numpy().astype(np.uint8)
    )
    return [[part.reshape(-1) + 0.5 for part in parts if len(part) >= 3] for parts in found]


def _polygons(items: Sequence[Mapping[str, Any]], downsample: float) -> list[list[np.ndarray]]:
    """The outlines [x1, y1, x2, y2, ...] of each ``segmentation``, in pixels of the picture."""
    return [
        [np.ravel(ring) / downsample for ring in _rings(item.get("segmentation") or [])]
        for item in items
    ]


def _rings(segmentation: Any) -> list[Any]:
    """Outlines of COCO's polygons or run lengths; none where the image is too large to decode."""
    if isinstance(segmentation, list):
        return segmentation
    height, width = segmentation["size"]
    if height * width > MAX_MASK_PIXELS:
        return []
    mask = run_lengths(segmentation, (height, width))
    x, y, w, h = coco_mask.toBbox(mask).astype(int)
    window = encode_mask(decode_mask(mask)[y : y + h, x : x + w])
    return list(mask_polygons(window, np.array([x, y, x + w, y + h])))


def _colors(classes: np.ndarray, is_ignore: np.ndarray) -> list[tuple[float, ...]]:
    return [
        _IGNORED if ignored else tuple(channel / 255 for channel in class_color(int(c)))
        for c, ignored in zip(classes, is_ignore)
    ]


def _class_name(dataset: str, index: int) -> str:
    return MetadataCatalog.get(dataset).thing_classes[int(index)]
