"""Evaluation of letterboxed images: any detector of Detectron2 sees squares, and answers in pixels
of the whole image."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.structures import Boxes, Instances
from torch import nn

from sparsenet.data.augmentation import Letterbox
from sparsenet.data.image_transforms import LetterboxTransform


def letterbox_mapper(cfg: CfgNode) -> DatasetMapper:
    """A mapper for evaluation that fits images into squares of ``INPUT.LETTERBOX``."""
    fill = tuple(float(round(level)) for level in cfg.MODEL.PIXEL_MEAN)
    augmentation = Letterbox(cfg.INPUT.LETTERBOX, fill)
    return DatasetMapper(False, augmentations=[augmentation], image_format=cfg.INPUT.FORMAT)


class LetterboxedDetector(nn.Module):
    """A detector whose inputs are squares, made by :func:`letterbox_mapper`.

    Detectron2's models scale their detections from the square to ``height`` and ``width``, as if
    it were the image; here the border is taken away again.

    Args:
        model: The detector.
        side: Of the squares, pixels.
    """

    def __init__(self, model: nn.Module, side: int) -> None:
        super().__init__()
        self.model = model
        self.side = side

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Detections in pixels of the images; empty boxes are dropped."""
        outputs = self.model(batched_inputs)
        return [{"instances": undo_letterbox(out["instances"], self.side)} for out in outputs]


def undo_letterbox(instances: Instances, side: int) -> Instances:
    """Detections of an image whose square was stretched to its size.

    Args:
        instances: With ``pred_boxes`` and perhaps ``pred_masks`` (N, h, w); changed in place.
        side: Of the square, pixels.

    Returns:
        Those that have an area inside the image.
    """
    height, width = instances.image_size
    box = LetterboxTransform(height, width, side)
    # The image's rectangle inside the stretched square.
    unit = torch.tensor([width, height, width, height], dtype=torch.float32) / side
    corner = torch.tensor([box.left, box.top, box.left, box.top]) * unit
    extent = torch.tensor([box.new_width, box.new_height] * 2) * unit
    target = torch.tensor([width, height, width, height])
    boxes = instances.pred_boxes.tensor
    moved = (boxes - corner.to(boxes)) * (target / extent).to(boxes)
    instances.pred_boxes = Boxes(moved)
    instances.pred_boxes.clip((height, width))
    if instances.has("pred_masks"):
        instances.pred_masks = _stretched(instances.pred_masks, corner[:2], extent[:2])
    return instances[instances.pred_boxes.nonempty()]


def _stretched(masks: torch.Tensor, corner: torch.Tensor, extent: torch.Tensor) -> torch.Tensor:
    """Masks (N, h, w) bool: the rectangle at ``corner`` of size ``extent``, in pixels, enlarged."""
    height, width = masks.shape[1:]
    size = torch.tensor([width, height])
    scale, shift = extent / size, (2 * corner + extent) / size - 1
    theta = torch.tensor([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]]).to(masks.device)
    grid = F.affine_grid(theta[None], [1, 1, height, width], align_corners=False)
    planes = masks[None].float()  # (1, N, h, w)
    return F.grid_sample(planes, grid.float(), align_corners=False)[0] >= 0.5
