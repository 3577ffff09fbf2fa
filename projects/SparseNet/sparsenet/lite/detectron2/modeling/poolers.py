"""Stands in for detectron2.modeling.poolers: has ROIPooler (ROIAlign, ROIAlignV2, ROIPool); lacks
rotated boxes and FX tracing."""

import math

import torch
from detectron2._lacking import lacks
from detectron2.layers import ROIAlign, cat, nonzero_tuple, shapes_to_tensor
from detectron2.structures import Boxes
from torch import nn
from torchvision.ops import RoIPool

__all__ = ["ROIPooler"]


def assign_boxes_to_levels(
    box_lists: list[Boxes],
    min_level: int,
    max_level: int,
    canonical_box_size: int,
    canonical_level: int,
) -> torch.Tensor:
    """Returns (M,) int64: the feature level of each box, counted from ``min_level``.

    A box of ``canonical_box_size`` (square root of its area, pixels) goes to ``canonical_level``,
    one twice as large to the next (FPN, arXiv 1612.03144, equation 1); level k has stride 2**k.
    """
    sizes = torch.sqrt(cat([boxes.area() for boxes in box_lists]))
    # 1e-8 sends empty boxes to the lowest level instead of to minus infinity.
    levels = torch.floor(canonical_level + torch.log2(sizes / canonical_box_size + 1e-8))
    return levels.clamp(min_level, max_level).to(torch.int64) - min_level


def convert_boxes_to_pooler_format(box_lists: list[Boxes]) -> torch.Tensor:
    """Returns (M, 5) rows of image index, x1, y1, x2, y2."""
    boxes = torch.cat([item.tensor for item in box_lists])
    counts = shapes_to_tensor([item.__len__() for item in box_lists]).to(boxes.device)
    images = torch.arange(len(box_lists), dtype=boxes.dtype, device=boxes.device)
    return cat([images.repeat_interleave(counts)[:, None], boxes], dim=1)


def _level_pooler(pooler_type: str, output_size, scale: float, sampling_ratio: int) -> nn.Module:
    if pooler_type in ("ROIAlign", "ROIAlignV2"):
        return ROIAlign(output_size, scale, sampling_ratio, aligned=pooler_type == "ROIAlignV2")
    if pooler_type == "ROIPool":
        return RoIPool(output_size, spatial_scale=scale)
    if pooler_type == "ROIAlignRotated":
        raise lacks("ROIPooler(pooler_type='ROIAlignRotated')")
    raise ValueError(f"Unknown pooler type: {pooler_type}")


class ROIPooler(nn.Module):
    """Pools each box from the feature level that suits its size."""

    def __init__(
        self,
        output_size,
        scales,
        sampling_ratio,
        pooler_type,
        canonical_box_size=224,
        canonical_level=4,
    ):
        """Takes the output side (or (h, w)), 1 / stride of each level from fine to coarse, samples
        per bin, the kind of pooling, and where a box of canonical size goes."""
        super().__init__()
        if isinstance(output_size, int):
            output_size = (output_size, output_size)
        assert len(output_size) == 2 and all(isinstance(side, int) for side in output_size), (
            f"output_size must be one or two integers, got {output_size}."
        )
        self.output_size = output_size
        self.level_poolers = nn.ModuleList(
            _level_pooler(pooler_type, output_size, scale, sampling_ratio) for scale in scales
        )
        first, last = -math.log2(scales[0]), -math.log2(scales[-1])
        assert first.is_integer() and last.is_integer(), "Featuremap stride is not power of 2!"
        self.min_level, self.max_level = int(first), int(last)
        assert len(scales) == self.max_level - self.min_level + 1, (
            "[ROIPooler] Sizes of input featuremaps do not form a pyramid!"
        )
        assert 0 <= self.min_level <= self.max_level, f"Levels must be positive: {scales}."
        assert canonical_box_size > 0, canonical_box_size
        self.canonical_level = canonical_level
        self.canonical_box_size = canonical_box_size

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """Pools the boxes of all images.

        Args:
            x: one (N, C, H, W) map per level.
            box_lists: N Boxes in input pixels.

        Returns:
            (M, C, h, w): the boxes of the first image first.
        """
        assert isinstance(x, list) and isinstance(box_lists, list), (
            "Arguments to pooler must be lists"
        )
        assert len(x) == len(self.level_poolers), f"{len(x)} maps, {len(self.level_poolers)} levels"
        assert len(box_lists) == x[0].size(0), f"{len(box_lists)} box lists, batch {x[0].size(0)}"
        if len(box_lists) == 0:
            return x[0].new_zeros((0, x[0].shape[1], *self.output_size))
        rois = convert_boxes_to_pooler_format(box_lists)  # (M, 5)
        if len(self.level_poolers) == 1:
            return self.level_poolers[0](x[0], rois)
        levels = assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        pooled = x[0].new_zeros((rois.shape[0], x[0].shape[1], *self.output_size))  # (M, C, h, w)
        for level, pooler in enumerate(self.level_poolers):
            (rows,) = nonzero_tuple(levels == level)
            pooled.index_put_((rows,), pooler(x[level], rois[rows]))
        return pooled
