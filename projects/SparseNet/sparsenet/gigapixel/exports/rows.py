"""What every format says of a detection: rounded numbers, a class name, a colour, an outline."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.masks import mask_polygons

if TYPE_CHECKING:
    from sparsenet.tiling import Georeference

# Okabe and Ito's palette: told apart by colour-blind readers, on light and on dark ground.
CLASS_COLORS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167), (148, 148, 148),
)  # fmt: skip

# A tenth of a pixel is finer than any detector is right; it halves the size of the files.
DIGITS = 1
_SCORE_DIGITS = 4

Ring = list[list[float]]


@dataclass(frozen=True)
class ImageInfo:
    """What formats say of an image that its detections do not tell.

    Args:
        path: The image file, as the formats shall refer to it.
        image_id: Its id in an annotation file; None takes the file name.
        category_ids: Ids in an annotation file by class; None counts from 1.
        georeference: Where the image lies on a map; None if on none.
    """

    path: str | os.PathLike[str]
    image_id: int | str | None = None
    category_ids: Sequence[int] | Mapping[int, int] | None = None
    georeference: Georeference | None = None

    @property
    def name(self) -> str:
        """The file name without its folder."""
        return Path(self.path).name

    @property
    def stem(self) -> str:
        """The file name without its ending."""
        return Path(self.path).stem


def class_name(class_names: Sequence[str], index: int) -> str:
    """The name of a class, or ``class 3`` where there is none."""
    return class_names[index] if index < len(class_names) else f"class {index}"


def all_class_names(detections: Detections) -> list[str]:
    """One name per class index, up to the highest that is named or found."""
    num = max(len(detections.class_names), int(detections.classes.max(initial=-1)) + 1)
    return [class_name(detections.class_names, index) for index in range(num)]


def class_color(index: int) -> tuple[int, int, int]:
    """RGB, 0 to 255, of a class in every picture and export."""
    return CLASS_COLORS[index % len(CLASS_COLORS)]


def rows(detections: Detections) -> list[tuple[list[float], float, int]]:
    """Box (XYXY, full-image pixels), score and class of each as rounded Python numbers."""
    boxes = detections.boxes_xyxy.astype(float).round(DIGITS).tolist()
    scores = detections.scores.astype(float).round(_SCORE_DIGITS).tolist()
    return list(zip(boxes, scores, detections.classes.tolist()))


def outlines(detections: Detections, index: int, *, tolerance: float = 0.0) -> list[Ring]:
    """Open rings of ``[x, y]`` around the mask of one detection; none where it has no mask."""
    if detections.masks is None:
        return []
    mask, box = detections.masks[index], detections.boxes_xyxy[index]
    rings = mask_polygons(mask, box, tolerance=tolerance)
    return [ring.tolist() for ring in rings]


def box_ring(box_xyxy: Sequence[float]) -> Ring:
    """The corners of a box as an open ring, counter-clockwise where y points up (RFC 7946)."""
    x1, y1, x2, y2 = box_xyxy
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
