"""Box conversion, decoding and overlap as pure tensor functions.

Boxes are continuous ``xyxy`` rows (width = x2 - x1) unless the name says ``cxcywh``. No function
raises on odd values: a box without area has IoU 0, NaN coordinates give NaN, and callers check.
"""

import math

import torch
from torch import Tensor

# Sparse R-CNN's weights of (dx, dy, dw, dh), and its clamp of dw and dh from above. The clamp is
# ln(100000 / 16), not Detectron2's ln(1000 / 16).
DELTA_WEIGHTS = (2.0, 2.0, 1.0, 1.0)
SCALE_CLAMP = math.log(100000.0 / 16)

_EPS = 1e-7  # square pixels; keeps the ratio of areas, and its gradient, finite for empty boxes


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Converts ``(..., 4)`` centre-size boxes to corners."""
    centre, size = boxes_cxcywh.split(2, dim=-1)
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Converts ``(..., 4)`` corner boxes to centre and size."""
    low, high = boxes_xyxy.split(2, dim=-1)
    return torch.cat([0.5 * (low + high), high - low], dim=-1)


def apply_deltas(
    deltas: Tensor,
    boxes_xyxy: Tensor,
    *,
    weights: tuple[float, float, float, float] = DELTA_WEIGHTS,
    scale_clamp: float = SCALE_CLAMP,
) -> Tensor:
    """Moves and scales boxes by predicted deltas.

    Args:
        deltas: ``(..., 4)`` (dx, dy, dw, dh); dx and dy in units of the box's width and height.
        boxes_xyxy: ``(..., 4)`` boxes that the deltas refer to.
        weights: divisors of the four deltas.
        scale_clamp: upper limit of dw and dh after division.

    Returns:
        ``(..., 4)`` xyxy boxes, neither rounded nor clipped to the image.
    """
    shift, log_scale = (deltas / deltas.new_tensor(weights)).split(2, dim=-1)
    centre, size = xyxy_to_cxcywh(boxes_xyxy).split(2, dim=-1)
    new_centre = centre + shift * size
    new_size = size * log_scale.clamp(max=scale_clamp).exp()
    return cxcywh_to_xyxy(torch.cat([new_centre, new_size], dim=-1))


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """Area ``(...)`` of ``(..., 4)`` boxes; 0 where a side is not positive."""
    size = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def paired_intersection(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection areas of boxes at equal positions of two broadcastable ``(..., 4)`` tensors."""
    low = torch.maximum(boxes_a[..., :2], boxes_b[..., :2])
    high = torch.minimum(boxes_a[..., 2:], boxes_b[..., 2:])
    size = (high - low).clamp(min=0)
    return size[..., 0] * size[..., 1]


def _iou_and_union(boxes_a: Tensor, boxes_b: Tensor) -> tuple[Tensor, Tensor]:
    intersection = paired_intersection(boxes_a, boxes_b)
    union = box_area(boxes_a) + box_area(boxes_b) - intersection
    return intersection / union.clamp(min=_EPS), union


def paired_iou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """IoU of boxes at equal positions of two broadcastable ``(..., 4)`` tensors, in [0, 1]."""
    return _iou_and_union(boxes_a, boxes_b)[0]


def paired_giou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Generalised IoU (arXiv 1902.09630) of boxes at equal positions, in (-1, 1]."""
    iou, union = _iou_and_union(boxes_a, boxes_b)
    low = torch.minimum(boxes_a[..., :2], boxes_b[..., :2])
    high = torch.maximum(boxes_a[..., 2:], boxes_b[..., 2:])
    hull = box_area(torch.cat([low, high], dim=-1))
    return iou - (hull - union) / hull.clamp(min=_EPS)


def paired_diou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Distance IoU (arXiv 1911.08287) of boxes at equal positions, in (-1, 1]."""
    low = torch.minimum(boxes_a[..., :2], boxes_b[..., :2])
    high = torch.maximum(boxes_a[..., 2:], boxes_b[..., 2:])
    diagonal = (high - low).square().sum(-1)
    centres = boxes_a[..., :2] + boxes_a[..., 2:] - boxes_b[..., :2] - boxes_b[..., 2:]
    distance = centres.square().sum(-1) / 4
    return paired_iou(boxes_a, boxes_b) - distance / diagonal.clamp(min=_EPS)


def paired_ciou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Complete IoU (arXiv 1911.08287) of boxes at equal positions: DIoU less an aspect-ratio term.

    The trade-off factor of that term is a constant for the gradient, as the paper has it.
    """
    angle = _aspect_angle(boxes_a) - _aspect_angle(boxes_b)
    difference = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        rest = 1 - paired_iou(boxes_a, boxes_b) + difference
        # Equal boxes have 0 / 0 here, and nothing to trade off.
        factor = difference / rest.clamp(min=_EPS)
    return paired_diou(boxes_a, boxes_b) - factor * difference


def _aspect_angle(boxes_xyxy: Tensor) -> Tensor:
    width, height = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=_EPS).unbind(-1)
    return torch.atan(width / height)


# Similarities of boxes at equal positions, at most 1, by the names that configurations use.
BOX_SIMILARITIES = {
    "iou": paired_iou,
    "giou": paired_giou,
    "diou": paired_diou,
    "ciou": paired_ciou,
}


def paired_box_loss(boxes_a: Tensor, boxes_b: Tensor, kind: str) -> Tensor:
    """Loss ``(...)`` of boxes at equal positions: 1 - similarity, or -ln(IoU) for ``"iou"``.

    The logarithm (UnitBox, arXiv 1608.01471) ends at IoU 1e-6: boxes apart have a finite loss
    without a gradient.

    Args:
        kind: a key of ``BOX_SIMILARITIES``.
    """
    similarity = BOX_SIMILARITIES[kind](boxes_a, boxes_b)
    return -similarity.clamp(min=1e-6).log() if kind == "iou" else 1 - similarity


def pairwise_iou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """IoU of ``(..., A, 4)`` against ``(..., B, 4)`` boxes: ``(..., A, B)``."""
    return paired_iou(boxes_a.unsqueeze(-2), boxes_b.unsqueeze(-3))


def pairwise_giou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Generalised IoU of ``(..., A, 4)`` against ``(..., B, 4)`` boxes: ``(..., A, B)``."""
    return paired_giou(boxes_a.unsqueeze(-2), boxes_b.unsqueeze(-3))


def pairwise_ioa(boxes: Tensor, regions: Tensor) -> Tensor:
    """Share of the area of each of ``(..., A, 4)`` boxes inside each of ``(..., B, 4)`` regions.

    Returns:
        ``(..., A, B)`` in [0, 1]; 0 for boxes or regions without area.
    """
    intersection = paired_intersection(boxes.unsqueeze(-2), regions.unsqueeze(-3))
    return intersection / box_area(boxes).unsqueeze(-1).clamp(min=_EPS)
