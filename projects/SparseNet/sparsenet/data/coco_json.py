"""Reads COCO detection files and says exactly what is wrong with a malformed one.

Differs from ``detectron2.data.datasets.load_coco_json`` in: boxes only; malformed entries are
errors that name the file and the annotation; boxes are clipped to the image; regions marked
``ignore`` become ``iscrowd``, because COCO's evaluation code looks at ``iscrowd`` alone and would
count them as misses.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from sparsenet.errors import AnnotationError, DatasetNotFoundError

logger = logging.getLogger(__name__)

MAX_SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class CocoDataset:
    """The content of a checked file.

    Args:
        dicts: Detectron2's dataset dicts, in the order of the file's images.
        class_names: By contiguous class, in the order of the category ids.
        class_of_category: From category id to contiguous class.
    """

    dicts: list[dict[str, Any]]
    class_names: tuple[str, ...]
    class_of_category: dict[int, int]


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


def read_coco_json(json_file: str | Path, image_root: str | Path) -> CocoDataset:
    """Reads and checks a COCO detection file.

    Args:
        json_file: The annotation file.
        image_root: Folder that the images' ``file_name`` starts from.

    Returns:
        Dataset dicts whose annotations have ``bbox`` (XYXY, absolute, clipped to the image),
        ``bbox_mode``, ``category_id`` (contiguous) and ``iscrowd`` (1 also where ``ignore`` is).

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
    if reading.problems:
        shown = "\n  ".join(reading.problems[:MAX_SHOWN_PROBLEMS])
        raise AnnotationError(
            f"{path}: every entry must be well formed, {len(reading.problems)} are not:\n  "
            f"{shown}\nCorrect or remove these entries."
        )
    if reading.num_clipped:
        logger.warning("%s: clipped %d boxes to their images.", path, reading.num_clipped)
    return CocoDataset(list(reading.images.values()), names, reading.class_of_category)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetNotFoundError(
            f"The annotation file {path} does not exist. Check the path, or make the dataset as "
            "datasets/README.md describes."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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
    clipped = [
        max(x, 0.0),
        max(y, 0.0),
        min(x + width, float(image["width"])),
        min(y + height, float(image["height"])),
    ]
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return f"has bbox {box} outside its image of {image['width']} × {image['height']} pixels"
    # Half a pixel is rounding, not a mistake worth a line in the log.
    loss = max(width - (clipped[2] - clipped[0]), height - (clipped[3] - clipped[1]))
    reading.num_clipped += int(loss > 0.5)
    image["annotations"].append(
        {
            "bbox": clipped,
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": reading.class_of_category[category],
            "iscrowd": int(bool(annotation.get("iscrowd", 0)) or bool(annotation.get("ignore", 0))),
        }
    )
    return None


def _is_box(box: Any) -> bool:
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return False
    if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in box):
        return False
    return box[2] > 0 and box[3] > 0
