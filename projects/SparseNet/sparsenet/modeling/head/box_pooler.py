"""Detectron2's ROIPooler, faster on CPUs where the operator is known."""

import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor

from sparsenet.ops.roi_pool import FeatureTable, feature_table, roi_align_pyramid


class BoxPooler(ROIPooler):
    """Pools equally many boxes per image; same arguments and results as ``ROIPooler``.

    On a CPU, ROIAlignV2 with a fixed sampling ratio runs as ``roi_align_pyramid``. Everything else,
    and tracing, goes to Detectron2's operators.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scales: tuple[float, ...],
        sampling_ratio: int,
        pooler_type: str,
    ) -> None:
        super().__init__(output_size, scales, sampling_ratio, pooler_type)
        self.scales, self.sampling_ratio = tuple(scales), sampling_ratio
        self._has_cpu_form = pooler_type == "ROIAlignV2" and sampling_ratio > 0

    def prepare(self, x: list[Tensor]) -> list[Tensor] | FeatureTable:
        """What ``forward`` takes in place of the maps, to pool from them several times."""
        is_plain = not (torch.jit.is_tracing() or torch.compiler.is_compiling())
        if self._has_cpu_form and is_plain and x[0].device.type == "cpu":
            return feature_table(x)
        return x

    def forward(self, x: list[Tensor] | FeatureTable, box_lists: list[Boxes]) -> Tensor:
        """
        Args:
            x: maps (N, C, H, W), finest first, or what ``prepare`` made of them.
            box_lists: N boxes of P rows each, pixels of the network's input.

        Returns:
            (N·P, C, h, w), image-major.
        """
        x = x if isinstance(x, FeatureTable) else self.prepare(x)
        if not isinstance(x, FeatureTable):
            return super().forward(x, box_lists)
        boxes = torch.stack([boxes.tensor for boxes in box_lists])  # (N, P, 4)
        levels = assign_boxes_to_levels(
            box_lists,
            self.min_level,
            self.max_level,
            self.canonical_box_size,
            self.canonical_level,
        ).clamp(0, len(x.sides) - 1)  # the level of a box that is not finite is any number
        return roi_align_pyramid(
            x,
            boxes,
            levels.view(boxes.shape[:2]),
            scales=self.scales,
            output_size=self.output_size,
            sampling_ratio=self.sampling_ratio,
        )
