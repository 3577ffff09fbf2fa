"""COCO's average precision and recall for any cap on detections and any size ranges.

The matching and the accumulation are faster-coco-eval's, which agree with pycocotools to the last
digit; pycocotools itself takes minutes per frame at 500 and more detections. COCO's summary is not
used: it knows three caps and four size ranges only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sparsenet.errors import DatasetError, MissingDependencyError
from sparsenet.evaluation.detection_errors import SizeRange

logger = logging.getLogger(__name__)

# COCO's upper bound for "all", which also PANDA's toolkit uses.
MAX_AREA = 1e5**2
ALL_SIZES = SizeRange("all", 0.0, MAX_AREA)


@dataclass(frozen=True)
class PrecisionTable:
    """Accumulated results.

    Args:
        precision: (IoU thresholds, recall thresholds, classes, size ranges, caps); -1 where a
            class has no objects of that size.
        recall: (IoU thresholds, classes, size ranges, caps); -1 likewise.
        iou_thresholds: (IoU thresholds,).
        size_names: Names of the size ranges.
        max_detections: Caps per image and class, rising.
    """

    precision: np.ndarray
    recall: np.ndarray
    iou_thresholds: np.ndarray
    size_names: tuple[str, ...]
    max_detections: tuple[int, ...]

    def average_precision(
        self,
        *,
        max_detections: int,
        iou_threshold: float | None = None,
        size: str = "all",
        one_class: int | None = None,
    ) -> float:
        """Mean precision in [0, 1]; nan where there are no objects.

        Args:
            max_detections: One of the caps.
            iou_threshold: None averages over all of them.
            size: Name of a size range.
            one_class: None averages over all classes that have objects.
        """
        table = self.precision[..., self.size_names.index(size), self._cap(max_detections)]
        return _mean(table[self._ious(iou_threshold)][:, :, _classes(one_class)])

    def average_recall(
        self, *, max_detections: int, size: str = "all", one_class: int | None = None
    ) -> float:
        """Highest recall in [0, 1], averaged over the IoU thresholds; nan without objects."""
        table = self.recall[..., self.size_names.index(size), self._cap(max_detections)]
        return _mean(table[:, _classes(one_class)])

    def _cap(self, max_detections: int) -> int:
        return self.max_detections.index(max_detections)

    def _ious(self, iou_threshold: float | None) -> np.ndarray:
        if iou_threshold is None:
            return np.arange(len(self.iou_thresholds))
        return np.flatnonzero(np.isclose(self.iou_thresholds, iou_threshold))


def accumulate(
    truth: dict[str, Any],
    detections: list[dict[str, Any]],
    *,
    max_detections: Sequence[int],
    size_ranges: Sequence[SizeRange],
    task: str = "bbox",
) -> PrecisionTable:
    """Matches detections with a COCO-style truth and accumulates precision and recall.

    Args:
        truth: COCO's ``images``, ``annotations`` (ids from 1, with ``area`` and ``iscrowd``) and
            ``categories``.
        detections: COCO's results: ``image_id``, ``category_id``, ``bbox`` (XYWH), ``score``;
            with ``segmentation`` (compressed run lengths) on both sides for masks.
        max_detections: Caps per image and class, rising.
        size_ranges: The first should be :data:`ALL_SIZES`.
        task: "bbox", or "segm" for masks; sizes of detections are areas of the same.

    Raises:
        MissingDependencyError: If faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingDependencyError(
            "Evaluation of full images needs faster-coco-eval, which is not installed. "
            "Install it with `pip install 'sparsenet[gigapixel]'`."
        ) from error
    results = [
        {**d, "id": i, "area": _area(d, task), "iscrowd": 0}
        for i, d in enumerate(detections, start=1)
    ]
    # Built by hand: loadRes rejects an empty list, which an untrained model rightly gives.
    found = COCO({**truth, "annotations": results})
    evaluation = COCOeval_faster(COCO(truth), found, task, print_function=logger.debug)
    params = evaluation.params
    params.maxDets = list(max_detections)
    params.areaRng = [[size.min_area, size.max_area] for size in size_ranges]
    params.areaRngLbl = [size.name for size in size_ranges]
    evaluation.evaluate()
    evaluation.accumulate()
    shape = (len(params.catIds), len(size_ranges), len(max_detections))
    return PrecisionTable(
        precision=np.asarray(evaluation.eval["precision"]).reshape(
            len(params.iouThrs), len(params.recThrs), *shape
        ),
        recall=np.asarray(evaluation.eval["recall"]).reshape(len(params.iouThrs), *shape),
        iou_thresholds=np.asarray(params.iouThrs),
        size_names=tuple(size.name for size in size_ranges),
        max_detections=tuple(max_detections),
    )


def run_lengths(segmentation: Any, image_size: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run lengths, ``counts`` as text, of polygons or of run lengths.

    Raises:
        DatasetError: If they are run lengths of another size than ``(h, w)``.
    """
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, *image_size))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *segmentation["size"])
    if tuple(segmentation["size"]) != image_size:
        raise DatasetError(
            f"Run lengths of a segmentation must have the size of their image, {image_size}, got "
            f"{tuple(segmentation['size'])}. Write the annotations again."
        )
    counts = segmentation["counts"]
    return {
        "size": list(image_size),
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


def _area(detection: dict[str, Any], task: str) -> float:
    if task == "segm":
        return float(coco_mask.area(detection["segmentation"]))
    return float(detection["bbox"][2] * detection["bbox"][3])


def _classes(one_class: int | None) -> slice:
    return slice(None) if one_class is None else slice(one_class, one_class + 1)


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else math.nan
