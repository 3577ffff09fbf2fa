"""Stands in for detectron2.structures.boxes: has Boxes, BoxMode and the pairwise functions; lacks
conversions of rotated boxes (XYWHA_ABS)."""

from collections.abc import Iterator
from enum import IntEnum, unique

import numpy as np
import torch
from detectron2._lacking import lacks


@unique
class BoxMode(IntEnum):
    """How four (or five) numbers describe a box; ABS are pixels, REL shares of the image side."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4  # centre, size, angle in degrees counter-clockwise

    @staticmethod
    def convert(box, from_mode: "BoxMode", to_mode: "BoxMode"):
        """Converts one box (list or tuple) or an (N, 4) array or tensor, and keeps its type."""
        if from_mode == to_mode:
            return box
        relative = {BoxMode.XYXY_REL, BoxMode.XYWH_REL}
        assert not {from_mode, to_mode} & relative, "Relative mode not yet supported!"
        if BoxMode.XYWHA_ABS in (from_mode, to_mode):
            raise lacks("Conversion of rotated boxes (BoxMode.XYWHA_ABS)")
        if isinstance(box, list | tuple):
            assert len(box) in (4, 5), "BoxMode.convert takes boxes of 4 or 5 numbers."
            converted = _convert_in_place(torch.tensor(box)[None], to_mode)
            return type(box)(converted.flatten().tolist())
        if isinstance(box, np.ndarray):
            return _convert_in_place(torch.from_numpy(box.copy()), to_mode).numpy()
        return _convert_in_place(box.clone(), to_mode)


def _convert_in_place(boxes: torch.Tensor, to_mode: BoxMode) -> torch.Tensor:
    sign = 1 if to_mode == BoxMode.XYXY_ABS else -1
    boxes[:, 2] += sign * boxes[:, 0]
    boxes[:, 3] += sign * boxes[:, 1]
    return boxes


class Boxes:
    """N boxes as one float32 tensor (N, 4) of x1, y1, x2, y2 in pixels.

    Coordinates are continuous: a box covers [x1, x2] and its width is x2 - x1.
    """

    def __init__(self, tensor: torch.Tensor):
        """Takes any (N, 4) tensor or nested list; an empty one becomes (0, 4)."""
        if not isinstance(tensor, torch.Tensor):
            tensor = torch.as_tensor(tensor, dtype=torch.float32, device="cpu")
        tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        assert tensor.dim() == 2 and tensor.size(-1) == 4, tensor.size()
        self.tensor = tensor

    def clone(self) -> "Boxes":
        """Returns a copy with its own memory."""
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device) -> "Boxes":
        """Returns the boxes on ``device``; the dtype stays float32."""
        return Boxes(self.tensor.to(device=device))

    def area(self) -> torch.Tensor:
        """Returns (N,) areas; negative where exactly one side is."""
        width, height = (self.tensor[:, 2:] - self.tensor[:, :2]).unbind(1)
        return width * height

    def clip(self, box_size: tuple[int, int]) -> None:
        """Limits the boxes, in place, to an image of ``box_size`` (height, width)."""
        assert torch.isfinite(self.tensor).all(), "Box tensor contains infinite or NaN!"
        height, width = box_size
        x1, y1, x2, y2 = self.tensor.unbind(1)
        limited = (x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height))
        self.tensor = torch.stack(limited, dim=1)

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """Returns (N,) bool: both sides are longer than ``threshold``."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def __getitem__(self, item) -> "Boxes":
        """Indexes by an int (one box), a slice, or an index or bool vector."""
        if isinstance(item, int):
            return Boxes(self.tensor[item].view(1, -1))
        selected = self.tensor[item]
        assert selected.dim() == 2, f"Indexing on Boxes with {item} failed to return a matrix!"
        return Boxes(selected)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> torch.Tensor:
        """Returns (N,) bool: the box leaves the (height, width) area by at most the threshold."""
        height, width = box_size
        x1, y1, x2, y2 = self.tensor.unbind(-1)
        near, far = -boundary_threshold, boundary_threshold
        return (x1 >= near) & (y1 >= near) & (x2 < width + far) & (y2 < height + far)

    def get_centers(self) -> torch.Tensor:
        """Returns (N, 2) centres x, y."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiplies x and y coordinates, in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: list["Boxes"]) -> "Boxes":
        """Returns all boxes in one object with its own memory."""
        assert isinstance(boxes_list, list | tuple), type(boxes_list)
        assert all(isinstance(boxes, Boxes) for boxes in boxes_list), "cat takes Boxes only."
        if not boxes_list:
            return cls(torch.empty(0))
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]))

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yields one (4,) tensor per box."""
        yield from self.tensor


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Returns (N, M) areas of overlap."""
    a, b = boxes1.tensor[:, None], boxes2.tensor[None]  # (N, 1, 4), (1, M, 4)
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    return sides.clamp(min=0).prod(dim=2)  # (N, M)


def _divide_where_positive(overlap: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return torch.where(overlap > 0, overlap / by, overlap.new_zeros(1))


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Returns (N, M) intersection over union; 0 without overlap, also for empty boxes."""
    overlap = pairwise_intersection(boxes1, boxes2)
    return _divide_where_positive(overlap, boxes1.area()[:, None] + boxes2.area() - overlap)


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Returns (N, M) intersection over the area of ``boxes2``."""
    return _divide_where_positive(pairwise_intersection(boxes1, boxes2), boxes2.area())


def pairwise_point_box_distance(points: torch.Tensor, boxes: Boxes) -> torch.Tensor:
    """Returns (N, M, 4) distances of (N, 2) points to the left, top, right and bottom sides."""
    after = points[:, None] - boxes.tensor[None, :, :2]  # (N, M, 2)
    before = boxes.tensor[None, :, 2:] - points[:, None]  # (N, M, 2)
    return torch.cat([after, before], dim=2)  # (N, M, 4)


def matched_pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Returns (N,) intersection over union of the i-th with the i-th box."""
    assert len(boxes1) == len(boxes2), (
        f"Both lists of boxes must have the same length, got {len(boxes1)} and {len(boxes2)}."
    )
    a, b = boxes1.tensor, boxes2.tensor
    sides = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
    overlap = sides.clamp(min=0).prod(dim=1)
    return overlap / (boxes1.area() + boxes2.area() - overlap)
