"""Stands in for detectron2.modeling.box_regression: has Box2BoxTransform and its losses (smooth_l1,
giou); lacks the rotated and the linear transform, diou, ciou and TorchScript."""

import math

import torch
from detectron2._lacking import lacks
from detectron2.layers import cat
from detectron2.structures import Boxes
from fvcore.nn import giou_loss, smooth_l1_loss

_DEFAULT_SCALE_CLAMP = math.log(1000.0 / 16)  # largest growth: from 16 to 1000 pixels

__all__ = ["Box2BoxTransform"]


class Box2BoxTransform:
    """Deltas (dx, dy, dw, dh) between boxes: shifts in box sizes and logarithms of size ratios."""

    def __init__(
        self,
        weights: tuple[float, float, float, float],
        scale_clamp: float = _DEFAULT_SCALE_CLAMP,
    ):
        """Takes factors of the four deltas and the upper limit of decoded dw and dh."""
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """Returns (N, 4) deltas that move (N, 4) source boxes onto target boxes, all xyxy."""
        assert isinstance(src_boxes, torch.Tensor), type(src_boxes)
        assert isinstance(target_boxes, torch.Tensor), type(target_boxes)
        source_size, source_center = _size_and_center(src_boxes)
        target_size, target_center = _size_and_center(target_boxes)
        assert (source_size[:, 0] > 0).all().item(), (
            "Input boxes to Box2BoxTransform are not valid!"
        )
        weights = src_boxes.new_tensor(self.weights)
        shift = weights[:2] * (target_center - source_center) / source_size
        growth = weights[2:] * torch.log(target_size / source_size)
        return torch.cat([shift, growth], dim=1)

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Moves boxes by deltas, in float32.

        Args:
            deltas: (N, 4k): k alternatives per box.
            boxes: (N, 4) xyxy.

        Returns:
            (N, 4k) xyxy.
        """
        deltas = deltas.float()
        size, center = _size_and_center(boxes.to(deltas.dtype))
        pairs = deltas.view(len(deltas), deltas.shape[1] // 4, 2, 2)
        shift, growth = pairs.unbind(2)  # (N, k, 2) each
        weights = deltas.new_tensor(self.weights)
        growth = (growth / weights[2:]).clamp(max=self.scale_clamp)
        new_center = shift / weights[:2] * size[:, None] + center[:, None]  # (N, k, 2)
        half = 0.5 * (torch.exp(growth) * size[:, None])
        return torch.cat([new_center - half, new_center + half], dim=-1).reshape(deltas.shape)


def _size_and_center(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 2) width and height; (N, 2) x and y."""
    size = boxes[:, 2:] - boxes[:, :2]
    return size, boxes[:, :2] + 0.5 * size


def _dense_box_regression_loss(
    anchors: list[Boxes | torch.Tensor],
    box2box_transform: Box2BoxTransform,
    pred_anchor_deltas: list[torch.Tensor],
    gt_boxes: list[torch.Tensor],
    fg_mask: torch.Tensor,
    box_reg_loss_type="smooth_l1",
    smooth_l1_beta=0.0,
):
    """Returns the summed box loss of the anchors that have an object.

    Args:
        anchors: per level, R_l boxes, R in all.
        box2box_transform: gives the deltas their meaning.
        pred_anchor_deltas: per level, (N, R_l, 4).
        gt_boxes: per image, (R, 4) target boxes.
        fg_mask: (N, R) bool: the anchor has an object.
        box_reg_loss_type: "smooth_l1" of deltas or "giou" of boxes.
        smooth_l1_beta: where smooth L1 turns from square to linear; 0: L1.
    """
    tensors = [item.tensor if isinstance(item, Boxes) else item for item in anchors]
    all_anchors = cat(tensors)  # (R, 4)
    deltas = cat(pred_anchor_deltas, dim=1)  # (N, R, 4)
    if box_reg_loss_type == "smooth_l1":
        targets = [box2box_transform.get_deltas(all_anchors, boxes) for boxes in gt_boxes]
        wanted = torch.stack(targets)[fg_mask]
        return smooth_l1_loss(deltas[fg_mask], wanted, beta=smooth_l1_beta, reduction="sum")
    if box_reg_loss_type == "giou":
        decoded = torch.stack([box2box_transform.apply_deltas(d, all_anchors) for d in deltas])
        return giou_loss(decoded[fg_mask], torch.stack(gt_boxes)[fg_mask], reduction="sum")
    if box_reg_loss_type in ("diou", "ciou"):
        raise lacks(f"BBOX_REG_LOSS_TYPE {box_reg_loss_type!r}")
    raise ValueError(f"Invalid dense box regression loss type '{box_reg_loss_type}'")
