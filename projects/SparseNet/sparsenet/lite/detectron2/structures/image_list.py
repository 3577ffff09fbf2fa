"""Stands in for detectron2.structures.image_list: has ImageList; lacks tracing of sizes."""

from typing import Any

import torch


class ImageList:
    """Images of different sizes in one padded tensor.

    Attributes:
        tensor: (N, C, H, W), or (N, H, W).
        image_sizes: the (h, w) of each image without padding.
    """

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx) -> torch.Tensor:
        """Returns one image without its padding."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        """Returns the list with the tensor moved or cast."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: list[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> "ImageList":
        """Pads images at the right and bottom to one common size.

        Args:
            tensors: (C, h, w) each, or (h, w); all with the same leading sizes.
            size_divisibility: the common sides become multiples of it; 0 or 1: no rounding.
            padding_constraints: may hold "square_size" (side of the padded square, 0: none) and
                "size_divisibility", which then wins over the argument.
        """
        assert isinstance(tensors, tuple | list) and len(tensors) > 0, "from_tensors needs images."
        for tensor in tensors:
            assert isinstance(tensor, torch.Tensor), type(tensor)
            assert tensor.shape[:-2] == tensors[0].shape[:-2], tensor.shape
        sizes = [(tensor.shape[-2], tensor.shape[-1]) for tensor in tensors]
        height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
        constraints = padding_constraints or {}
        if constraints.get("square_size", 0) > 0:
            height = width = constraints["square_size"]
        stride = max(constraints.get("size_divisibility", size_divisibility), 1)
        height, width = (-(-side // stride) * stride for side in (height, width))
        shape = (len(tensors), *tensors[0].shape[:-2], height, width)
        batch = tensors[0].new_full(shape, pad_value)
        for i, tensor in enumerate(tensors):
            batch[i, ..., : tensor.shape[-2], : tensor.shape[-1]].copy_(tensor)
        return ImageList(batch, sizes)
