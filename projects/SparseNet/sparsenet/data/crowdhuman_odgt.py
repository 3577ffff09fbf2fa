"""Reads CrowdHuman's annotations: an .odgt file has one JSON object per line and image.

CrowdHuman: A Benchmark for Detecting Human in a Crowd, arXiv 1805.00123. A person has three boxes:
the full body, hidden parts included (``fbox``), what is visible of it (``vbox``), and the head
(``hbox``). What is no single person (tag "mask"), or is marked as such, becomes an ignore box.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from sparsenet.data.loaded_dataset import (
    LoadedDataset,
    clip_box,
    make_annotation,
    read_image_size,
    read_text,
    require_no_problems,
)
from sparsenet.errors import ConfigError, DatasetNotFoundError

logger = logging.getLogger(__name__)

# Box -> name of the class.
ODGT_BOXES = {"fbox": "person", "vbox": "person", "hbox": "head"}
_SUFFIXES = (".jpg", ".png", ".jpeg")


def read_odgt(odgt_file: str | Path, image_root: str | Path, *, box: str = "fbox") -> LoadedDataset:
    """Reads and checks an .odgt file.

    Args:
        odgt_file: For instance ``annotation_train.odgt``.
        image_root: Folder of the images, ``ID.jpg``.
        box: Which of ``ODGT_BOXES`` stands for a person.

    Returns:
        Dataset dicts of one class with boxes (XYXY, absolute, clipped to the image; full bodies
        reach beyond it); image ids count from 1, in the order of the lines.

    Raises:
        ConfigError: If the box is unknown.
        DatasetNotFoundError: If the file does not exist.
        AnnotationError: If it has malformed lines or boxes, or images are missing. The message
            names the lines.
    """
    if box not in ODGT_BOXES:
        raise ConfigError(f"DATASETS.ODGT_BOX must be one of {', '.join(ODGT_BOXES)}, got {box!r}.")
    path, root = Path(odgt_file), Path(image_root)
    if not root.is_dir():
        raise DatasetNotFoundError(f"The images of {path} must be in a folder, {root} is none.")
    problems: list[str] = []
    dicts: list[dict[str, Any]] = []
    num_empty = 0
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        item, found = _read_line(line, root, box)
        problems += [f"{path}:{number}: {problem}" for problem in found]
        num_empty += item.pop("num_empty", 0)
        dicts.append({**item, "image_id": len(dicts) + 1})
    if not dicts:
        problems.append(f"{path} has no line")
    require_no_problems(path, problems)
    if num_empty:
        logger.warning("%s: left out %d ignore boxes without area in the image.", path, num_empty)
    return LoadedDataset(dicts, (ODGT_BOXES[box],), {0: 0})


def _read_line(line: str, root: Path, box: str) -> tuple[dict[str, Any], list[str]]:
    """The dict of one image, and what is wrong with the line."""
    try:
        record = json.loads(line)
        identity, objects = record["ID"], record["gtboxes"]
    except (ValueError, KeyError, TypeError) as error:
        return {}, [f"a line must be a JSON object with ID and gtboxes: {error!r}"]
    if not isinstance(objects, list) or not all(isinstance(item, dict) for item in objects):
        return {}, [f"gtboxes must be a list of JSON objects, got {str(objects)[:80]}"]
    image = next((p for s in _SUFFIXES if (p := root / f"{identity}{s}").is_file()), None)
    if image is None:
        return {}, [f"the image {root / f'{identity}.jpg'} does not exist"]
    size = read_image_size(image)
    annotations, problems, num_empty = [], [], 0
    for place, item in enumerate(objects):
        is_ignore = _is_ignored(item, box)
        corners = _corners(item.get(box))
        clipped = corners and clip_box(corners, size)
        if clipped:
            annotations.append(make_annotation(clipped, 0, is_ignore=is_ignore))
        elif is_ignore:  # of hidden heads the published files have boxes without area
            num_empty += 1
        else:
            problems.append(
                f"gtboxes[{place}] must have a {box} [x, y, width > 0, height > 0] that reaches "
                f"into the image of {size[1]} × {size[0]} pixels, got {item.get(box)}"
            )
    item = {
        "file_name": str(image), "height": size[0], "width": size[1], "annotations": annotations,
        "num_empty": num_empty,
    }  # fmt: skip
    return item, problems


def _is_ignored(item: dict[str, Any], box: str) -> bool:
    marks = [item.get("extra")] + ([item.get("head_attr")] if box == "hbox" else [])
    return item.get("tag") != "person" or any(
        isinstance(mark, dict) and mark.get("ignore", 0) for mark in marks
    )


def _corners(box: Any) -> tuple[float, float, float, float] | None:
    """XYXY of ``[x, y, width, height]``; None for anything else or without area."""
    if not isinstance(box, list) or len(box) != 4:
        return None
    if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in box):
        return None
    x, y, width, height = (float(value) for value in box)
    return (x, y, x + width, y + height) if width > 0 and height > 0 else None
