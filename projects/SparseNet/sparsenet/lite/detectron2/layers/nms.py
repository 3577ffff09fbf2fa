"""Stands in for detectron2.layers.nms: has nms and batched_nms; lacks the rotated ones."""

import torch
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms  # noqa: F401  imported from here too


def batched_nms(
    boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float
) -> torch.Tensor:
    """Suppresses overlapping boxes of the same class; returns kept indices, best score first.

    Args:
        boxes: (N, 4) xyxy; computed in float32, as half precision cannot hold the class offsets.
        scores: (N,).
        idxs: (N,) class of each box.
    """
    assert boxes.shape[-1] == 4, boxes.shape
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
