"""Stands in for detectron2.structures.masks: has BitMasks, PolygonMasks, ROIMasks and their
functions; lacks BitMasks.from_roi_masks, which cannot know the boxes."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.layers.roi_align import ROIAlign
from detectron2.structures.boxes import Boxes

__all__ = ["BitMasks", "PolygonMasks", "ROIMasks", "polygons_to_bitmask"]

_MIN_SIDE = 0.1  # pixels; keeps the enlargement of degenerate boxes finite


def polygon_area(x, y):
    """Area enclosed by the points of arrays ``x`` and ``y``."""
    return 0.5 * np.abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))


def polygons_to_bitmask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Paints polygons [x0, y0, x1, y1, ...] together into a bool (height, width) mask."""
    if len(polygons) == 0:
        return np.zeros((height, width), dtype=bool)
    rles = mask_util.frPyObjects([np.asarray(p).tolist() for p in polygons], height, width)
    return mask_util.decode(mask_util.merge(rles)).astype(bool)


def rasterize_polygons_within_box(
    polygons: list[np.ndarray], box: np.ndarray, mask_size: int
) -> torch.Tensor:
    """Paints polygons into a bool (mask_size, mask_size) tensor that covers an xyxy box."""
    x1, y1, x2, y2 = box
    scale = mask_size / np.maximum([x2 - x1, y2 - y1], _MIN_SIDE)
    moved = [((np.reshape(p, (-1, 2)) - (x1, y1)) * scale).reshape(-1) for p in polygons]
    return torch.from_numpy(polygons_to_bitmask(moved, mask_size, mask_size))


class BitMasks:
    """N masks of whole images as one bool tensor (N, H, W)."""

    def __init__(self, tensor: torch.Tensor | np.ndarray):
        if not isinstance(tensor, torch.Tensor):
            tensor = torch.as_tensor(tensor, device="cpu")
        tensor = tensor.to(torch.bool)
        assert tensor.dim() == 3, tensor.size()
        self.image_size = tensor.shape[1:]
        self.tensor = tensor

    def to(self, *args: Any, **kwargs: Any) -> "BitMasks":
        """Returns the masks moved by ``Tensor.to``."""
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    def __getitem__(self, item: int | slice | torch.Tensor) -> "BitMasks":
        """Indexes by an int (one mask), a slice, or an index or bool vector."""
        if isinstance(item, int):
            return BitMasks(self.tensor[item].unsqueeze(0))
        selected = self.tensor[item]
        assert selected.dim() == 3, f"Indexing on BitMasks with {item} gave {selected.shape}!"
        return BitMasks(selected)

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yields one (H, W) mask per object."""
        yield from self.tensor

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self.tensor)})"

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def nonempty(self) -> torch.Tensor:
        """Returns (N,) bool: the mask has a pixel."""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def from_polygon_masks(
        polygon_masks: "PolygonMasks | list[list[np.ndarray]]", height: int, width: int
    ) -> "BitMasks":
        """Paints each object's polygons into a (height, width) mask."""
        if isinstance(polygon_masks, PolygonMasks):
            polygon_masks = polygon_masks.polygons
        masks = [polygons_to_bitmask(polygons, height, width) for polygons in polygon_masks]
        if not masks:
            return BitMasks(torch.empty(0, height, width, dtype=torch.bool))
        return BitMasks(torch.stack([torch.from_numpy(mask) for mask in masks]))

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Samples the i-th mask inside the i-th of (N, 4) xyxy boxes; (N, size, size) bool."""
        assert len(boxes) == len(self), f"{len(boxes)} != {len(self)}"
        device = self.tensor.device
        rows = torch.arange(len(boxes), device=device, dtype=boxes.dtype)[:, None]
        rois = torch.cat([rows, boxes.to(device)], dim=1)  # (N, 5)
        align = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
        sampled = align(self.tensor[:, None].to(torch.float32), rois)  # (N, 1, size, size)
        return sampled[:, 0] >= 0.5  # (N, size, size)

    def get_bounding_boxes(self) -> Boxes:
        """Returns the tightest boxes; those of empty masks are zeros."""
        boxes = torch.zeros(len(self), 4, dtype=torch.float32)
        for i, mask in enumerate(self.tensor):
            xs, ys = mask.any(dim=0).nonzero(), mask.any(dim=1).nonzero()
            if len(xs):
                boxes[i] = torch.tensor([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1])
        return Boxes(boxes)

    @staticmethod
    def cat(bitmasks_list: list["BitMasks"]) -> "BitMasks":
        """Returns all masks in one object."""
        assert isinstance(bitmasks_list, list | tuple), type(bitmasks_list)
        assert len(bitmasks_list) > 0, "cat needs at least one BitMasks."
        assert all(isinstance(masks, BitMasks) for masks in bitmasks_list), "cat takes BitMasks."
        return BitMasks(torch.cat([masks.tensor for masks in bitmasks_list]))


class PolygonMasks:
    """N objects, each a list of polygons: float64 arrays [x0, y0, x1, y1, ...] in pixels."""

    def __init__(self, polygons: list[list[torch.Tensor | np.ndarray]]):
        if not isinstance(polygons, list):
            raise ValueError(
                f"PolygonMasks takes a list of lists of polygons, got {type(polygons)}."
            )
        self.polygons = [_checked_polygons(of_object) for of_object in polygons]

    def to(self, *args: Any, **kwargs: Any) -> "PolygonMasks":
        """Returns itself; polygons stay in the memory of the host."""
        return self

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def get_bounding_boxes(self) -> Boxes:
        """Returns the tightest boxes around each object's polygons."""
        boxes = torch.zeros(len(self.polygons), 4, dtype=torch.float32)
        for i, polygons in enumerate(self.polygons):
            low, high = np.full(2, np.inf), np.zeros(2)
            for polygon in polygons:
                points = polygon.reshape(-1, 2).astype(np.float32)
                low = np.minimum(low, points.min(axis=0))
                high = np.maximum(high, points.max(axis=0))
            boxes[i] = torch.tensor([*low, *high])
        return Boxes(boxes)

    def nonempty(self) -> torch.Tensor:
        """Returns (N,) bool: the object has a polygon."""
        return torch.tensor([len(polygons) > 0 for polygons in self.polygons], dtype=torch.bool)

    def __getitem__(self, item: int | slice | list[int] | torch.Tensor) -> "PolygonMasks":
        """Indexes by an int (one object), a slice, a list, or an index or bool vector."""
        if isinstance(item, int):
            return PolygonMasks([self.polygons[item]])
        if isinstance(item, slice):
            return PolygonMasks(self.polygons[item])
        if isinstance(item, torch.Tensor):
            assert item.dim() == 1, item.shape
            item = (item.nonzero()[:, 0] if item.dtype == torch.bool else item).tolist()
        return PolygonMasks([self.polygons[i] for i in item])

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        """Yields each object's polygons."""
        return iter(self.polygons)

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self.polygons)})"

    def __len__(self) -> int:
        return len(self.polygons)

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Paints the i-th object inside the i-th of (N, 4) xyxy boxes; (N, size, size) bool."""
        assert len(boxes) == len(self), f"{len(boxes)} != {len(self)}"
        corners = boxes.to("cpu").numpy().astype(np.float64)
        masks = [
            rasterize_polygons_within_box(polygons, box, mask_size)
            for polygons, box in zip(self.polygons, corners)
        ]
        if not masks:
            return torch.empty(0, mask_size, mask_size, dtype=torch.bool, device=boxes.device)
        return torch.stack(masks).to(boxes.device)

    def area(self):
        """Returns (N,) areas: sums over each object's polygons."""
        areas = [sum(polygon_area(p[0::2], p[1::2]) for p in of_one) for of_one in self.polygons]
        return torch.tensor(areas)

    @staticmethod
    def cat(polymasks_list: list["PolygonMasks"]) -> "PolygonMasks":
        """Returns all objects in one."""
        assert isinstance(polymasks_list, list | tuple), type(polymasks_list)
        assert len(polymasks_list) > 0, "cat needs at least one PolygonMasks."
        assert all(isinstance(masks, PolygonMasks) for masks in polymasks_list), (
            "cat takes PolygonMasks."
        )
        return PolygonMasks(list(itertools.chain.from_iterable(m.polygons for m in polymasks_list)))


def _checked_polygons(polygons: list[torch.Tensor | np.ndarray]) -> list[np.ndarray]:
    if not isinstance(polygons, list):
        raise ValueError(f"Each object needs a list of polygons, got {type(polygons)}.")
    arrays = [
        np.asarray(p.cpu() if isinstance(p, torch.Tensor) else p).astype("float64")
        for p in polygons
    ]
    for array in arrays:
        if len(array) % 2 != 0 or len(array) < 6:
            raise ValueError(
                f"A polygon needs an even number of coordinates, 6 or more, got {len(array)}."
            )
    return arrays


class ROIMasks:
    """N masks (N, M, M) that each cover one box, not the image."""

    def __init__(self, tensor: torch.Tensor):
        if tensor.dim() != 3:
            raise ValueError(f"ROIMasks must have 3 dimensions, got shape {tuple(tensor.shape)}.")
        self.tensor = tensor

    def to(self, device: torch.device) -> "ROIMasks":
        """Returns the masks on ``device``."""
        return ROIMasks(self.tensor.to(device))

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    def __len__(self):
        return self.tensor.shape[0]

    def __getitem__(self, item) -> "ROIMasks":
        """Indexes by a slice, or an index or bool vector."""
        selected = self.tensor[item]
        if selected.dim() != 3:
            raise ValueError(f"Indexing on ROIMasks with {item} gave shape {selected.shape}!")
        return ROIMasks(selected)

    def __repr__(self) -> str:
        return f"ROIMasks(num_instances={len(self.tensor)})"

    def to_bitmasks(self, boxes: torch.Tensor, height, width, threshold=0.5):
        """Pastes each mask at its box into a (height, width) image; see
        ``paste_masks_in_image``."""
        pasted = paste_masks_in_image(self.tensor, boxes, (height, width), threshold=threshold)
        return BitMasks(pasted)
