"""YOLO's labels: one line per object, coordinates as shares of the image's sides."""

from __future__ import annotations

import json

from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports.rows import all_class_names, box_ring, outlines, rows

# Finer than a tenth of a pixel up to 100,000 pixels.
_DIGITS = 7


def to_yolo(detections: Detections, *, has_scores: bool = False) -> str:
    """Lines of ``class x_centre y_centre width height``, of segments where there are masks.

    A segment is ``class x1 y1 x2 y2 ...``; of a mask in several pieces the largest is written, as
    the format has no place for others, and of an empty one the box: files must not mix both kinds.

    Args:
        detections: Of one image.
        has_scores: Ends every line of a box with its score, as YOLO's predictions do; its training
            labels must not have one.
    """
    height, width = detections.image_size
    lines = []
    has_masks = detections.masks is not None
    for number, (box, score, index) in enumerate(rows(detections)):
        x1, y1, x2, y2 = box
        if has_masks:
            ring = (outlines(detections, number) or [box_ring(box)])[0]
            values = [v / side for point in ring for v, side in zip(point, (width, height))]
        else:
            values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height]
            values += [(x2 - x1) / width, (y2 - y1) / height]
        text = [f"{value:.{_DIGITS}f}" for value in values]
        if has_scores and not has_masks:
            text.append(str(score))
        lines.append(" ".join([str(index), *text]) + "\n")
    return "".join(lines)


def yolo_names(detections: Detections) -> str:
    """The ``data.yaml`` that gives the class names to the label files beside it."""
    names = all_class_names(detections)
    lines = [f"  {index}: {json.dumps(name)}\n" for index, name in enumerate(names)]
    return f"nc: {len(names)}\nnames:\n{''.join(lines)}" if names else "nc: 0\nnames: {}\n"
