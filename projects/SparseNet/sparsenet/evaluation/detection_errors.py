"""Errors of a detector at one score threshold: what a user of its boxes would see.

Average precision ranks detections and hardly notices a few percent of phantoms; these numbers do.
Everything is counted per image and class over the detections whose score reaches the threshold:

* *true positive*: a detection that takes an object. Best score first, each detection takes the free
  object of its class with which it has the highest IoU, if that is at least ``iou_threshold``.
* *ignored*: takes none, and at least ``iou_threshold`` of its own area lies in an ignore region of
  its class (COCO's rule for crowds). It is neither right nor wrong.
* *duplicate*: takes none, is not ignored, and has IoU above ``iou_threshold`` with an object that
  another detection has taken.
* *false positive*: every other detection, and the duplicates.

precision = TP / (TP + FP), recall = TP / objects, duplicate rate = duplicates / (TP + FP),
count error = (TP + FP - objects) / objects, count MAE = mean of |TP + FP - objects| over the pairs
of image and class with detections or objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np


@dataclass
class ErrorCounts:
    """Counts that can be added over images, classes and processes.

    Args:
        num_objects: Objects that are not ignored.
        num_true_positives: See the module's text.
        num_false_positives: With the duplicates.
        num_duplicates: See the module's text.
        num_ignored: Detections that are neither right nor wrong.
        num_groups: Image and class pairs with detections or objects.
        absolute_count_error: Sum over these of |counted detections - objects|.
        objects_by_size: Objects per size range.
        found_by_size: Found objects per size range.
    """

    num_objects: int = 0
    num_true_positives: int = 0
    num_false_positives: int = 0
    num_duplicates: int = 0
    num_ignored: int = 0
    num_groups: int = 0
    absolute_count_error: int = 0
    objects_by_size: dict[str, int] = field(default_factory=dict)
    found_by_size: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        total = ErrorCounts()
        for f in fields(self):
            a, b = getattr(self, f.name), getattr(other, f.name)
            setattr(total, f.name, _add_dicts(a, b) if isinstance(a, dict) else a + b)
        return total

    @property
    def num_detections(self) -> int:
        """Detections that count: right or wrong, not ignored."""
        return self.num_true_positives + self.num_false_positives

    @property
    def precision(self) -> float:
        """0 where objects are missed and nothing is detected; nan where there is neither."""
        if self.num_detections == 0:
            return 0.0 if self.num_objects else math.nan
        return self.num_true_positives / self.num_detections

    @property
    def recall(self) -> float:
        """nan without objects."""
        return _ratio(self.num_true_positives, self.num_objects)

    @property
    def duplicate_rate(self) -> float:
        """Share of the counted detections; 0 without detections."""
        return self.num_duplicates / self.num_detections if self.num_detections else 0.0

    @property
    def count_error(self) -> float:
        """Signed share of the objects: positive where too many are counted; nan without objects."""
        return _ratio(self.num_detections - self.num_objects, self.num_objects)

    @property
    def count_mae(self) -> float:
        """Objects per image and class; nan without any."""
        return _ratio(self.absolute_count_error, self.num_groups)

    def recall_of_size(self, name: str) -> float:
        """Recall within a size range; nan without objects of that size."""
        return _ratio(self.found_by_size.get(name, 0), self.objects_by_size.get(name, 0))


@dataclass(frozen=True)
class SizeRange:
    """Objects with ``min_area <= width * height < max_area``, full-image pixels."""

    name: str
    min_area: float
    max_area: float


def count_errors(  # noqa: PLR0913 - detections and truth are three arrays each
    boxes_xyxy: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    truth_boxes_xyxy: np.ndarray,
    truth_classes: np.ndarray,
    truth_is_ignore: np.ndarray,
    *,
    threshold: float,
    iou_threshold: float = 0.5,
    size_ranges: Sequence[SizeRange] = (),
) -> dict[int, ErrorCounts]:
    """Counts the errors in one image, by class; the sum over classes is the image's.

    Args:
        boxes_xyxy: (N, 4) detections, full-image pixels.
        scores: (N,).
        classes: (N,) contiguous.
        truth_boxes_xyxy: (M, 4) objects and ignore regions.
        truth_classes: (M,) contiguous.
        truth_is_ignore: (M,) bool.
        threshold: Detections with a lower score do not exist.
        iou_threshold: IoU that makes a detection right.
        size_ranges: For recall by size; may overlap.
    """
    keep = scores >= threshold
    boxes_xyxy, scores, classes = boxes_xyxy[keep], scores[keep], classes[keep]
    counts = {}
    for one_class in np.union1d(classes, truth_classes):
        is_detection = classes == one_class
        order = np.argsort(-scores[is_detection], kind="stable")
        is_truth = truth_classes == one_class
        objects = truth_boxes_xyxy[is_truth & ~truth_is_ignore]
        ignored = truth_boxes_xyxy[is_truth & truth_is_ignore]
        detections = boxes_xyxy[is_detection][order]
        counts[int(one_class)] = _count_class(
            detections, objects, ignored, iou_threshold, size_ranges
        )
    return counts


def _count_class(
    detections: np.ndarray,
    objects: np.ndarray,
    ignored: np.ndarray,
    iou_threshold: float,
    size_ranges: Sequence[SizeRange],
) -> ErrorCounts:
    """Detections best first; boxes (·, 4) of one class in one image."""
    iou = pairwise_iou(detections, objects)  # (N, M)
    taken_by = match_greedily(iou, iou_threshold)
    is_right = np.zeros(len(detections), dtype=bool)
    is_right[taken_by[taken_by >= 0]] = True
    is_ignored = ~is_right & is_inside_any(detections, ignored, iou_threshold)
    is_wrong = ~is_right & ~is_ignored
    on_taken = (iou[:, taken_by >= 0] > iou_threshold).any(axis=1)
    num_counted = int(is_right.sum() + is_wrong.sum())
    counts = ErrorCounts(
        num_objects=len(objects),
        num_true_positives=int(is_right.sum()),
        num_false_positives=int(is_wrong.sum()),
        num_duplicates=int((is_wrong & on_taken).sum()),
        num_ignored=int(is_ignored.sum()),
        num_groups=int(len(objects) + num_counted > 0),
        absolute_count_error=abs(num_counted - len(objects)),
    )
    area = _area(objects)
    for size in size_ranges:
        in_range = (area >= size.min_area) & (area < size.max_area)
        counts.objects_by_size[size.name] = int(in_range.sum())
        counts.found_by_size[size.name] = int((in_range & (taken_by >= 0)).sum())
    return counts


def match_greedily(iou: np.ndarray, iou_threshold: float) -> np.ndarray:
    """(M,) index of the detection that takes each object, or -1; rows of ``iou`` are best first."""
    taken_by = np.full(iou.shape[1], -1, dtype=np.int64)
    for detection in np.flatnonzero((iou >= iou_threshold).any(axis=1)):
        free = np.where(taken_by < 0, iou[detection], -1.0)
        best = int(free.argmax())
        if free[best] >= iou_threshold:
            taken_by[best] = detection
    return taken_by


def is_inside_any(boxes: np.ndarray, regions: np.ndarray, share: float) -> np.ndarray:
    """(N,) whether a region covers at least this share of a box."""
    covered = _intersection(boxes, regions) / np.maximum(_area(boxes), 1e-9)[:, None]
    return (covered >= share).any(axis=1)


def pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes (N, 4) and (M, 4) as (N, M); 0 for boxes without area."""
    intersection = _intersection(a, b)
    union = _area(a)[:, None] + _area(b)[None] - intersection
    return intersection / np.maximum(union, 1e-9)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    return np.maximum(width, 0.0) * np.maximum(height, 0.0)


def _area(boxes: np.ndarray) -> np.ndarray:
    sides = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0.0)
    return sides[:, 0] * sides[:, 1]


def _add_dicts(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in {**a, **b}}


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan
