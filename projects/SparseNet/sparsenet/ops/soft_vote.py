"""Merging of overlapping detections by a vote: test-time augmentation of Sparse R-CNN."""

import torch
from torch import Tensor

from sparsenet.ops.boxes import box_area, pairwise_iou


def soft_vote(
    boxes_xyxy: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    iou_threshold: float = 0.65,
    min_score: float = 0.05,
) -> tuple[Tensor, Tensor, Tensor]:
    """Detections of several passes over one image, merged class by class.

    The best box and all that overlap it enough form a cluster; then the best of the rest, and so
    on. A cluster gives its score-weighted mean box with its best score, and beside it each of its
    boxes whose score, reduced by its overlap with the best one, is still high enough.

    Args:
        boxes_xyxy: ``(N, 4)``; those without area are dropped.
        scores: ``(N,)``, positive.
        classes: ``(N,)`` integers.
        iou_threshold: from which a box belongs to a cluster.
        min_score: lowest reduced score.

    Returns:
        Boxes ``(M, 4)``, scores ``(M,)`` and classes ``(M,)``, best first, on the inputs' device.
    """
    has_area = box_area(boxes_xyxy) > 0
    device, found = boxes_xyxy.device, []
    boxes_xyxy, scores, classes = (x[has_area].cpu() for x in (boxes_xyxy, scores, classes))
    for label in classes.unique():
        is_label = classes == label
        boxes, values = _vote(boxes_xyxy[is_label], scores[is_label], iou_threshold, min_score)
        found.append((boxes, values, label.expand(len(values))))
    if not found:
        return boxes_xyxy.to(device), scores.to(device), classes.to(device)
    boxes, values, labels = (torch.cat(parts) for parts in zip(*found))
    order = values.argsort(descending=True, stable=True)
    return boxes[order].to(device), values[order].to(device), labels[order].to(device)


def _vote(
    boxes: Tensor, scores: Tensor, iou_threshold: float, min_score: float
) -> tuple[Tensor, Tensor]:
    """Boxes ``(m, 4)`` and scores ``(m,)`` of one class."""
    iou = pairwise_iou(boxes, boxes)  # (n, n)
    is_left = torch.ones(len(boxes), dtype=torch.bool)
    new_boxes, new_scores = [], []
    for best in scores.argsort(descending=True, stable=True).tolist():
        if not is_left[best]:
            continue
        cluster = torch.nonzero(is_left & (iou[best] >= iou_threshold)).squeeze(1)  # (c,)
        is_left[cluster] = False
        weights = scores[cluster, None]  # (c, 1)
        new_boxes.append((weights * boxes[cluster]).sum(0, keepdim=True) / weights.sum())
        new_scores.append(scores[best, None])
        reduced = scores[cluster] * (1 - iou[best, cluster])
        # The best box overlaps itself wholly: it is never among these.
        cluster, reduced = cluster[reduced >= min_score], reduced[reduced >= min_score]
        new_boxes.append(boxes[cluster])
        new_scores.append(reduced)
    return torch.cat(new_boxes), torch.cat(new_scores)
