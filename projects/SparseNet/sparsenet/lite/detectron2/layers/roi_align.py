"""Stands in for detectron2.layers.roi_align: has ROIAlign over torchvision's; lacks nothing."""

import torch
from torch import nn
from torchvision.ops import roi_align


class ROIAlign(nn.Module):
    """Samples boxes of a feature map to a fixed size."""

    def __init__(self, output_size, spatial_scale, sampling_ratio, aligned=True):
        """Takes output (h, w), the factor from box to map coordinates, samples per bin and side
        (0: as many as cells), and whether cell centres lie at half coordinates (True) or at
        whole ones (False, Detectron's first version)."""
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Pools (M, 5) rows of image index, x1, y1, x2, y2 from (N, C, H, W) to (M, C, h, w)."""
        assert rois.dim() == 2 and rois.size(1) == 5, rois.shape
        options = (self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)
        return roi_align(input, rois.to(dtype=input.dtype), *options)

    def __repr__(self) -> str:
        return (
            f"ROIAlign(output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned})"
        )
