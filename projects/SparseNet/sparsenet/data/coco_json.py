"""Reads COCO detection files and says exactly what is wrong with a malformed one.

Differs from ``detectron2.data.datasets.load_coco_json`` in: no keypoints; malformed entries are
errors that name the file and the annotation; boxes are clipped to the image; regions marked
``ignore`` become ``iscrowd``, because COCO's evaluation code looks at ``iscrowd`` alone and would
count them as misses.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pycocotools import mask as mask_util

from sparsenet.data.loaded_dataset import (
    LoadedDataset,
    clip_box,
    make_annotation,
    read_text,
    require_no_problems,
)
from sparsenet.errors import AnnotationError

logger = logging.getLogger(__name__)


@dataclass
class _Reading:
    """What is known while one file is read."""

    path: Path
    images: dict[int, dict[str, Any]] = field(default_factory=dict)
    class_of_category: dict[int, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    num_clipped: int = 0


def load_coco_json(json_file: str | Path, image_root: str | Path) -> list[dict[str, Any]]:
    """Detectron2's dataset dicts of a COCO file; see :func:`read_coco_json`."""
    return read_coco_json(json_file, image_root).dicts


def read_coco_json(json_file: str | Path, image_root: str | Path) -> LoadedDataset:
    """Reads and checks a COCO detection file.

    Args:
        json_file: The annotation file.
        image_root: Folder that the images' ``file_name`` starts from.

    Returns:
        Dataset dicts whose annotations have ``bbox`` (XYXY, absolute, clipped to the image),
        ``bbox_mode``, ``category_id`` (contiguous), ``iscrowd`` (1 also where ``ignore`` is) and,
        where the file has polygons or a run-length mask, ``segmentation``.

    Raises:
        DatasetNotFoundError: If the file does not exist.
        AnnotationError: If it is not JSON, lacks a section, or has malformed entries: duplicate
            ids, an unknown image or category, a box without area or wholly outside its image. The
            message lists the first ones.
    """
    path = Path(json_file)
    content = _read_json(path)
    reading = _Reading(path)
    names = _read_categories(reading, content["categories"])
    _read_images(reading, content["images"], Path(image_root))
    _read_annotations(reading, content.get("annotations", []))
    require_no_problems(path, reading.problems)
    if reading.num_clipped:
        logger.warning("%s: clipped %d boxes to their images.", path, reading.num_clipped)
    return LoadedDataset(list(reading.images.values()), names, reading.class_of_category)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{path} must be a JSON file: {error}. Write it again.") from error
    if not isinstance(content, dict):
        raise AnnotationError(
            f"{path} must hold a JSON object, it holds a {type(content).__name__}."
        )
    for section in ("images", "categories"):
        if not isinstance(content.get(section), list):
            raise AnnotationError(
                f"{path} must have a list {section!r} as COCO files do, its keys are "
                f"{sorted(content)}."
            )
    if not content["images"]:
        raise AnnotationError(f"{path} must list at least one image, it lists none.")
    return content


def _read_categories(reading: _Reading, categories: list[dict[str, Any]]) -> tuple[str, ...]:
    ids = [category.get("id") for category in categories]
    reading.problems += [
        f"category id {i} occurs {n} times" for i, n in Counter(ids).items() if n > 1
    ]
    for category in categories:
        if not isinstance(category.get("id"), int) or not isinstance(category.get("name"), str):
            raise AnnotationError(
                f"{reading.path}: every category must have an integer id and a name, got "
                f"{category}."
            )
    ordered = sorted(categories, key=lambda category: category["id"])
    reading.class_of_category.update({c["id"]: index for index, c in enumerate(ordered)})
    return tuple(category["name"] for category in ordered)


def _read_images(reading: _Reading, images: list[dict[str, Any]], root: Path) -> None:
    for place, image in enumerate(images):
        missing = [key for key in ("id", "file_name", "height", "width") if key not in image]
        if missing:
            reading.problems.append(f"images[{place}] lacks {', '.join(missing)}")
        elif image["id"] in reading.images:
            reading.problems.append(f"image id {image['id']} occurs twice")
        elif min(image["height"], image["width"]) < 1:
            reading.problems.append(
                f"image {image['id']} has size {image['width']} × {image['height']}"
            )
        else:
            reading.images[image["id"]] = {
                "file_name": str(root / image["file_name"]),
                "height": int(image["height"]),
                "width": int(image["width"]),
                "image_id": image["id"],
                "annotations": [],
            }


def _read_annotations(reading: _Reading, annotations: list[dict[str, Any]]) -> None:
    seen: set[Any] = set()
    for place, annotation in enumerate(annotations):
        number = annotation.get("id", f"at [{place}]")
        if number in seen:
            reading.problems.append(f"annotation id {number} occurs twice")
        seen.add(number)
        problem = _read_annotation(reading, annotation)
        if problem:
            reading.problems.append(f"annotation {number} {problem}")


def _read_annotation(reading: _Reading, annotation: dict[str, Any]) -> str | None:
    """Adds one annotation to its image, or returns what is wrong with it."""
    image = reading.images.get(annotation.get("image_id"))  # type: ignore[arg-type]
    if image is None:
        return f"belongs to image {annotation.get('image_id')}, which is not in 'images'"
    category = annotation.get("category_id")
    if category not in reading.class_of_category:
        return f"has category {category}, known are {sorted(reading.class_of_category)}"
    box: Any = annotation.get("bbox")
    if not _is_box(box):
        return f"must have a bbox [x, y, width > 0, height > 0], got {box}"
    x, y, width, height = (float(value) for value in box)
    clipped = clip_box((x, y, x + width, y + height), (image["height"], image["width"]))
    if clipped is None:
        return f"has bbox {box} outside its image of {image['width']} × {image['height']} pixels"
    # Half a pixel is rounding, not a mistake worth a line in the log.
    loss = max(width - (clipped[2] - clipped[0]), height - (clipped[3] - clipped[1]))
    reading.num_clipped += int(loss > 0.5)
    is_ignore = bool(annotation.get("iscrowd", 0)) or bool(annotation.get("ignore", 0))
    entry = make_annotation(clipped, reading.class_of_category[category], is_ignore=is_ignore)
    segmentation = annotation.get("segmentation")
    if not _is_segmentation(segmentation):
        return (
            "must have a segmentation [[x, y, x, y, …], …] or {size: [h, w], counts: …}, got "
            f"{str(segmentation)[:80]}"
        )
    segmentation = _read_segmentation(segmentation)
    if segmentation:
        entry["segmentation"] = segmentation
    image["annotations"].append(entry)
    return None


def _is_segmentation(segmentation: Any) -> bool:
    """Whether it has the form of polygons or of a run-length mask, or is empty."""
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        return isinstance(counts, (list, str)) and isinstance(size, list) and len(size) == 2
    return not segmentation or (
        isinstance(segmentation, list)
        and all(isinstance(part, list) and _are_numbers(part) for part in segmentation)
    )


def _read_segmentation(segmentation: Any) -> Any:
    """Polygons of three points or more, or a compressed run-length mask; None where neither is."""
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return mask_util.frPyObjects(segmentation, *segmentation["size"])
        return segmentation
    polygons = [part for part in segmentation or () if len(part) % 2 == 0 and len(part) >= 6]
    return polygons or None


def _is_box(box: Any) -> bool:
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return False
    return _are_numbers(box) and box[2] > 0 and box[3] > 0


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
