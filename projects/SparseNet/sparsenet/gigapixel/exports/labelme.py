"""labelme's JSON: rectangles, or polygons where there are masks."""

from __future__ import annotations

import os
from typing import Any

from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports.rows import ImageInfo, class_name, outlines, rows

_VERSION = "5.5.0"  # of the format; later releases of labelme read it


def to_labelme(
    detections: Detections, image: ImageInfo, folder: str | os.PathLike[str] = "."
) -> dict[str, Any]:
    """The content of a file that labelme opens.

    Args:
        detections: Of one image. A mask of several pieces becomes several polygons of one group.
        image: Referred to by its path, as seen from ``folder``.
        folder: Where the file will lie.
    """
    shapes: list[dict[str, Any]] = []
    for number, ((x1, y1, x2, y2), score, index) in enumerate(rows(detections)):
        rings = outlines(detections, number)
        for points in rings or [[[x1, y1], [x2, y2]]]:
            shapes.append(
                {
                    "label": class_name(detections.class_names, index),
                    "points": points,
                    "group_id": number if len(rings) > 1 else None,
                    "description": f"score {score}",
                    "shape_type": "polygon" if rings else "rectangle",
                    "flags": {},
                    "mask": None,
                }
            )
    height, width = detections.image_size
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": os.path.relpath(image.path, folder),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
