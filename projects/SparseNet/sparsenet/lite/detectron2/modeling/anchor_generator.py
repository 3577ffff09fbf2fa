"""Stands in for detectron2.modeling.anchor_generator: has DefaultAnchorGenerator, registry and
builder; lacks rotated anchors."""

import math

import torch
from detectron2._lacking import package_getattr
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes
from detectron2.utils.registry import Registry
from torch import nn

__all__ = ["DefaultAnchorGenerator", "build_anchor_generator"]

__getattr__ = package_getattr(__name__)

ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")  # name -> class of (cfg, shapes)


class BufferList(nn.Module):
    """A list of tensors that move with the module and are not saved."""

    def __init__(self, buffers):
        super().__init__()
        for i, buffer in enumerate(buffers):
            self.register_buffer(str(i), buffer, persistent=False)

    def __len__(self):
        return len(self._buffers)

    def __iter__(self):
        return iter(self._buffers.values())


def _per_level(values, num_levels: int, name: str) -> list:
    """One list per level; a single list of numbers, or a single level's list, is for all."""
    assert isinstance(values, list | tuple), f"{name} must be a list, got {values}."
    assert len(values), f"{name} must not be empty."
    if not isinstance(values[0], list | tuple):
        return [values] * num_levels
    if len(values) == 1:
        return list(values) * num_levels
    assert len(values) == num_levels, (
        f"{name} must have one list per feature map: got {len(values)}, not {num_levels}."
    )
    return values


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """Boxes of several sizes and shapes around every cell of the feature maps."""

    box_dim: int = 4

    @configurable
    def __init__(self, *, sizes, aspect_ratios, strides, offset=0.5):
        """Takes what the anchors look like and where they lie.

        Args:
            sizes: square roots of the areas in input pixels: a list per level, or one for all.
            aspect_ratios: heights over widths, in the same form.
            strides: of the levels.
            offset: centre of the first anchor, in strides from the image's corner; in [0, 1).
        """
        super().__init__()
        self.strides = strides
        self.num_features = len(strides)
        sizes = _per_level(sizes, self.num_features, "sizes")
        ratios = _per_level(aspect_ratios, self.num_features, "aspect_ratios")
        self.cell_anchors = BufferList(
            self.generate_cell_anchors(s, r).float() for s, r in zip(sizes, ratios)
        )
        self.offset = offset
        assert 0.0 <= self.offset < 1.0, self.offset

    @classmethod
    def from_config(cls, cfg, input_shape: list[ShapeSpec]):
        node = cfg.MODEL.ANCHOR_GENERATOR
        return {
            "sizes": node.SIZES,
            "aspect_ratios": node.ASPECT_RATIOS,
            "strides": [shape.stride for shape in input_shape],
            "offset": node.OFFSET,
        }

    @property
    def num_cell_anchors(self):
        """Old name of ``num_anchors``."""
        return self.num_anchors

    @property
    def num_anchors(self):
        """Anchors per cell, for each level."""
        return [len(anchors) for anchors in self.cell_anchors]

    def generate_cell_anchors(self, sizes=(32, 64, 128, 256, 512), aspect_ratios=(0.5, 1, 2)):
        """Returns (len(sizes) * len(aspect_ratios), 4) xyxy boxes around the origin, by size."""
        anchors = []
        for size in sizes:
            for ratio in aspect_ratios:
                width = math.sqrt(size**2.0 / ratio)
                half_width, half_height = width / 2.0, ratio * width / 2.0
                anchors.append([-half_width, -half_height, half_width, half_height])
        return torch.tensor(anchors)

    def _grid_anchors(self, grid_sizes) -> list[torch.Tensor]:
        return [
            (_centers(size, stride, self.offset, base)[:, None] + base).reshape(-1, 4)
            for size, stride, base in zip(grid_sizes, self.strides, self.cell_anchors)
        ]  # (H*W*A, 4) each

    def forward(self, features: list[torch.Tensor]):
        """Returns the Boxes (H * W * A, 4) of each (N, C, H, W) map: rows, then columns, then the
        anchors of a cell."""
        return [Boxes(anchors) for anchors in self._grid_anchors([f.shape[-2:] for f in features])]


def _centers(size, stride: int, offset: float, like: torch.Tensor) -> torch.Tensor:
    """(H*W, 4) x, y, x, y of the cells' anchor centres, row by row."""
    start = offset * stride
    ys, xs = (
        torch.arange(start, start + side * stride, step=stride, dtype=like.dtype)[:side]
        for side in size
    )
    grid_y, grid_x = torch.meshgrid(ys.to(like.device), xs.to(like.device), indexing="ij")
    points = torch.stack([grid_x, grid_y], dim=-1).reshape(-1, 2)  # (H*W, 2)
    return points.repeat(1, 2)


def build_anchor_generator(cfg, input_shape):
    """Returns the generator named by MODEL.ANCHOR_GENERATOR.NAME for a list of ShapeSpec."""
    return ANCHOR_GENERATOR_REGISTRY.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, input_shape)
