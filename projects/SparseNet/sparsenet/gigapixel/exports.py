"""Detections in the formats of other programs, written atomically.

COCO results for pycocotools and its kin, GeoJSON for QuPath and GIS programs, CSV for spreadsheets.
Coordinates are full-image pixels.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsenet.errors import ConfigError, OutputError
from sparsenet.gigapixel.detections import Detections

# Okabe and Ito's palette: told apart by colour-blind readers, on light and on dark ground.
CLASS_COLORS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167), (148, 148, 148),
)  # fmt: skip

CSV_COLUMNS = ("class", "score", "x1", "y1", "x2", "y2", "width", "height", "truncated")

# A tenth of a pixel is finer than any detector is right; it halves the size of the files.
_DIGITS = 1
_SCORE_DIGITS = 4


def class_name(class_names: Sequence[str], index: int) -> str:
    """The name of a class, or ``class 3`` where there is none."""
    return class_names[index] if index < len(class_names) else f"class {index}"


def class_color(index: int) -> tuple[int, int, int]:
    """RGB, 0 to 255, of a class in every picture and export."""
    return CLASS_COLORS[index % len(CLASS_COLORS)]


def to_coco(
    detections: Detections, image_id: int | str, category_ids: Sequence[int] | Mapping[int, int]
) -> list[dict[str, Any]]:
    """COCO results, best first as the detections come.

    Args:
        detections: Of one image.
        image_id: Its id in the annotation file.
        category_ids: The file's category id by contiguous class index.

    Returns:
        Dicts with ``image_id``, ``category_id``, ``bbox`` (x, y, width, height) and ``score``.

    Raises:
        ConfigError: If a class has no category id.
    """
    known = range(len(category_ids)) if isinstance(category_ids, Sequence) else category_ids
    missing = sorted({int(c) for c in detections.classes} - set(known))
    if missing:
        raise ConfigError(
            f"category_ids must name a category for every class, none came for {missing}. "
            "Pass one id per class, in the order of the class names."
        )
    results = []
    for (x1, y1, x2, y2), score, index in _rows(detections):
        box = [x1, y1, round(x2 - x1, _DIGITS), round(y2 - y1, _DIGITS)]
        category = category_ids[index]
        results.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
    return results


def to_geojson(detections: Detections, *, object_type: str = "annotation") -> dict[str, Any]:
    """A GeoJSON FeatureCollection that QuPath imports as it is.

    Args:
        detections: Of one image.
        object_type: QuPath's kind of object: ``annotation`` (editable) or ``detection`` (light).

    Raises:
        ConfigError: If the object type is another.
    """
    if object_type not in ("annotation", "detection"):
        raise ConfigError(f"object_type must be 'annotation' or 'detection', got {object_type!r}.")
    features = [
        _feature(row, number, detections.class_names, object_type)
        for number, row in enumerate(_rows(detections))
    ]
    return {"type": "FeatureCollection", "features": features}


def _feature(
    row: tuple[list[float], float, int], number: int, class_names: Sequence[str], object_type: str
) -> dict[str, Any]:
    (x1, y1, x2, y2), score, index = row
    ring = [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]
    # QuPath wants a UUID; made from the content, it is the same in every run.
    identity = uuid.uuid5(uuid.NAMESPACE_OID, f"sparsenet {number} {index} {score} {ring}")
    return {
        "type": "Feature",
        "id": str(identity),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": object_type,
            "classification": {
                "name": class_name(class_names, index),
                "color": list(class_color(index)),
            },
            "measurements": {"score": score},
        },
    }


def to_csv(detections: Detections) -> str:
    """One line per detection under a header, see ``CSV_COLUMNS``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for (box, score, index), truncated in zip(_rows(detections), detections.truncated):
        x1, y1, x2, y2 = box
        sides = (round(x2 - x1, _DIGITS), round(y2 - y1, _DIGITS))
        name = class_name(detections.class_names, index)
        writer.writerow([name, score, *box, *sides, int(truncated)])
    return text.getvalue()


def _rows(detections: Detections) -> list[tuple[list[float], float, int]]:
    """Box, score and class of each detection as rounded Python numbers."""
    boxes = detections.boxes_xyxy.astype(float).round(_DIGITS).tolist()
    scores = detections.scores.astype(float).round(_SCORE_DIGITS).tolist()
    return list(zip(boxes, scores, detections.classes.tolist()))


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder, created with its parents where it does not exist.

    Raises:
        OutputError: If it cannot be created or nothing can be written into it.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(
            f"Results must go to a folder that can be written, {path} cannot: {error}. "
            "Choose another with --output, or change its permissions."
        ) from error
    return path


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes JSON atomically, see :func:`write_bytes`."""
    write_bytes(path, json.dumps(content, separators=(",", ":"), allow_nan=False).encode())


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text atomically, see :func:`write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file so that its path holds either the old content or all of the new.

    Raises:
        OutputError: If the file cannot be written; what was there before stays.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(
            f"{target} must be written, which failed: {error}. Check that its folder exists, can "
            "be written and has space left."
        ) from error
