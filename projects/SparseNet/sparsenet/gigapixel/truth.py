"""What is really in an image, to compare detections with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from sparsenet.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Truth:
    """M known objects and ignore regions of one image.

    Args:
        boxes_xyxy: (M, 4), full-image pixels.
        classes: (M,) contiguous class indices.
        is_ignore: (M,) bool; detections inside such a region are neither right nor wrong.

    Raises:
        ConfigError: If the shapes do not fit together.
    """

    boxes_xyxy: np.ndarray
    classes: np.ndarray
    is_ignore: np.ndarray

    def __post_init__(self) -> None:
        num = len(self.classes)
        if self.boxes_xyxy.shape != (num, 4) or self.is_ignore.shape != (num,):
            raise ConfigError(
                "Truth needs arrays of one length M, boxes as (M, 4); got the shapes "
                f"{self.boxes_xyxy.shape}, {self.classes.shape} and {self.is_ignore.shape}."
            )

    def __len__(self) -> int:
        return len(self.classes)

    @staticmethod
    def from_annotations(annotations: Sequence[Mapping[str, Any]]) -> Truth:
        """The ``annotations`` of one Detectron2 dataset dict."""
        boxes = [
            BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations
        ]
        return Truth(
            boxes_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4),
            classes=np.array([a["category_id"] for a in annotations], dtype=np.int64),
            is_ignore=np.array([a.get("iscrowd", 0) for a in annotations], dtype=bool),
        )
