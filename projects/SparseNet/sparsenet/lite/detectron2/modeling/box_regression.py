"""Stands in for detectron2.modeling.box_regression: has Box2BoxTransform; lacks the rotated and the
linear transform and TorchScript."""

import math

import torch

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
        shift, growth = deltas.view(len(deltas), -1, 2, 2).unbind(2)  # (N, k, 2) each
        weights = deltas.new_tensor(self.weights)
        growth = (growth / weights[2:]).clamp(max=self.scale_clamp)
        new_center = shift / weights[:2] * size[:, None] + center[:, None]  # (N, k, 2)
        half = 0.5 * (torch.exp(growth) * size[:, None])
        return torch.cat([new_center - half, new_center + half], dim=-1).reshape(deltas.shape)


def _size_and_center(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 2) width and height; (N, 2) x and y."""
    size = boxes[:, 2:] - boxes[:, :2]
    return size, boxes[:, :2] + 0.5 * size
