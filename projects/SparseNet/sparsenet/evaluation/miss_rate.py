"""How a detector of crowds is judged: log-average miss rate, average precision, Jaccard index.

Of one class; boxes of ignore regions are neither right nor wrong (:mod:`detection_errors` tells the
rules of matching). Over the detections of all images by falling score, with IoU 0.5:

* *log-average miss rate* (mMR, or MR⁻²): the geometric mean of the miss rates at nine numbers of
  false positives per image, evenly spaced in logarithm from 0.01 to 1. At each of them the lowest
  miss rate with no more false positives counts; 1 where there is none. Dollár et al., "Pedestrian
  Detection: An Evaluation of the State of the Art", PAMI 2012.
* *average precision* as CrowdHuman (arXiv 1805.00123) states it: the area below precision over
  recall, between the points of all detections, without COCO's interpolation.
* *Jaccard index* (JI): per image, matches / (detections + objects - matches) with as many
  one-to-one matches as there can be; the mean over the images, at the score threshold where it is
  highest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from sparsenet.evaluation.detection_errors import is_inside_any, match_greedily, pairwise_iou

REFERENCE_FPPI = np.logspace(-2, 0, 9)
JACCARD_THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 10))
_IOU = 0.5
# The geometric mean of a perfect detector would be 0 whatever the other points are.
_LOWEST_RATE = 1e-10


@dataclass(frozen=True)
class ImageMatches:
    """What became of the detections of one class in one image.

    Args:
        scores: (N,) of the detections that count, falling.
        is_right: (N,) bool; the others are false positives.
        num_objects: Objects that are not ignored.
        jaccard: By threshold of ``JACCARD_THRESHOLDS``; nan without detections and objects.
    """

    scores: np.ndarray
    is_right: np.ndarray
    num_objects: int
    jaccard: tuple[float, ...]


NOTHING = ImageMatches(np.zeros(0), np.zeros(0, bool), 0, (math.nan,) * len(JACCARD_THRESHOLDS))


def match_image(
    boxes_xyxy: np.ndarray, scores: np.ndarray, truth_xyxy: np.ndarray, is_ignore: np.ndarray
) -> ImageMatches:
    """Matches the detections of one class in one image.

    Args:
        boxes_xyxy: (N, 4) detections.
        scores: (N,).
        truth_xyxy: (M, 4) objects and ignore regions.
        is_ignore: (M,) bool.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes_xyxy[order], scores[order]
    objects, ignored = truth_xyxy[~is_ignore], truth_xyxy[is_ignore]
    iou = pairwise_iou(boxes, objects)  # (N, M')
    in_ignored = is_inside_any(boxes, ignored, _IOU)
    taken_by = match_greedily(iou, _IOU)
    is_right = np.zeros(len(boxes), dtype=bool)
    is_right[taken_by[taken_by >= 0]] = True
    counts = is_right | ~in_ignored
    jaccard = tuple(
        _jaccard(iou[: (n := int((scores >= threshold).sum()))], in_ignored[:n])
        for threshold in JACCARD_THRESHOLDS
    )
    return ImageMatches(scores[counts], is_right[counts], len(objects), jaccard)


def _jaccard(iou: np.ndarray, in_ignored: np.ndarray) -> float:
    """Jaccard index of (N, M) IoUs; detections in ignore regions count only where they match."""
    match_of = np.full(len(iou), -1)
    if (iou >= _IOU).any():
        match_of = maximum_bipartite_matching(csr_matrix(iou >= _IOU), perm_type="column")
    num_matches = int((match_of >= 0).sum())
    num_counted = num_matches + int(((match_of < 0) & ~in_ignored).sum())
    union = num_counted + iou.shape[1] - num_matches
    return num_matches / union if union else math.nan


def crowd_metrics(images: Sequence[ImageMatches]) -> dict[str, float]:
    """Metrics of one class over all images, in [0, 1]; nan without objects.

    Returns:
        ``mMR`` (lower is better), ``AP``, ``JI``, and ``recall`` of all detections.
    """
    num_objects = sum(image.num_objects for image in images)
    if not num_objects:
        return dict.fromkeys(("mMR", "AP", "JI", "recall"), math.nan)
    scores = np.concatenate([image.scores for image in images])
    is_right = np.concatenate([image.is_right for image in images])
    is_right = is_right[np.argsort(-scores, kind="stable")]
    num_right = np.cumsum(is_right)
    recall = num_right / num_objects  # (N,)
    precision = num_right / np.arange(1, len(is_right) + 1)
    jaccard = np.array([image.jaccard for image in images])  # (images, thresholds)
    has_any = ~np.isnan(jaccard)
    means = np.where(has_any, jaccard, 0).sum(axis=0) / np.maximum(has_any.sum(axis=0), 1)
    return {
        "mMR": log_average_miss_rate(1 - recall, np.cumsum(~is_right) / len(images)),
        "AP": _area(recall, precision),
        "JI": float(means.max()),
        "recall": float(recall[-1]) if len(recall) else 0.0,
    }


def log_average_miss_rate(miss_rate: np.ndarray, fppi: np.ndarray) -> float:
    """The geometric mean of the miss rates at ``REFERENCE_FPPI``.

    Args:
        miss_rate: (N,) falling, after each detection.
        fppi: (N,) rising; false positives per image, after each detection.
    """
    # Before the first detection everything is missed and nothing is wrong.
    rates = np.concatenate([[1.0], miss_rate])
    at = np.searchsorted(np.concatenate([[0.0], fppi]), REFERENCE_FPPI, side="right") - 1
    return float(np.exp(np.log(np.maximum(rates[at], _LOWEST_RATE)).mean()))


def _area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area below the straight lines between the points, level before the first."""
    recall = np.concatenate([[0.0], recall])
    precision = np.concatenate([precision[:1], precision])
    return float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())
