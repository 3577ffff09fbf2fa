"""Annotations as arrays: what samplers and evaluators work on.

A worker process copies some megabytes of arrays where it would touch millions of Python objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode


@dataclass(frozen=True)
class ImageRecord:
    """The annotations of one image.

    Args:
        file_name: Path of the image or of its pyramid.
        image_id: The dataset's id.
        image_size: ``(h, w)`` in full-image pixels.
        boxes_xyxy: (N, 4) float32, full-image pixels.
        classes: (N,) int64, contiguous.
        is_ignore: (N,) bool; crowd and ignore regions.
    """

    file_name: str
    image_id: Any
    image_size: tuple[int, int]
    boxes_xyxy: np.ndarray
    classes: np.ndarray
    is_ignore: np.ndarray

    @classmethod
    def from_dict(cls, item: dict[str, Any]) -> ImageRecord:
        """Builds a record from Detectron2's dataset dict."""
        annotations = item.get("annotations", [])
        boxes = [
            BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations
        ]
        return cls(
            file_name=item["file_name"],
            image_id=item["image_id"],
            image_size=(int(item["height"]), int(item["width"])),
            boxes_xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            classes=np.array([a["category_id"] for a in annotations], dtype=np.int64),
            is_ignore=np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool),
        )
