"""FiftyOne's dataset on disk (``FiftyOneImageDetectionDataset``).

Read it with ``fiftyone.Dataset.from_dir(folder, dataset_type=fiftyone.types.
FiftyOneImageDetectionDataset, labels_path="labels.json", data_path="data.json")``; writing it needs
no FiftyOne.
"""

from __future__ import annotations

import os
from typing import Any

from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports.rows import ImageInfo, all_class_names, rows


def to_fiftyone(detections: Detections, image: ImageInfo) -> dict[str, Any]:
    """The content of ``labels.json``: boxes as shares of the image's sides; no masks."""
    height, width = detections.image_size
    labels = [
        {
            "label": index,
            "bounding_box": [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
            "confidence": score,
            "attributes": {"truncated": bool(truncated)},
        }
        for ((x1, y1, x2, y2), score, index), truncated in zip(
            rows(detections), detections.truncated
        )
    ]
    return {"classes": all_class_names(detections), "labels": {image.stem: labels}}


def fiftyone_data(image: ImageInfo) -> dict[str, str]:
    """The content of ``data.json``: where the image lies."""
    return {image.stem: os.path.abspath(image.path)}
