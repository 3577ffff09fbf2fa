"""Stands in for detectron2.data.transforms.transform: has ResizeTransform; lacks the extent,
rotation and colour transforms."""

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms.transform import Transform
from PIL import Image

__all__ = ["ResizeTransform"]

_TORCH_MODES = {Image.NEAREST: "nearest", Image.BILINEAR: "bilinear", Image.BICUBIC: "bicubic"}


class ResizeTransform(Transform):
    """Resizes an image of `h` x `w` pixels to `new_h` x `new_w`."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None):
        """Args:
        h, w: size of the images that this transform takes, in pixels.
        new_h, new_w: size that it gives.
        interp: a resampling filter of PIL; None is bilinear.
        """
        super().__init__()
        self.h, self.w = h, w
        self.new_h, self.new_w = new_h, new_w
        self.interp = Image.BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resizes (h, w) or (h, w, C): uint8 by PIL (antialiased), floats by torch (not)."""
        assert img.shape[:2] == (self.h, self.w), (
            f"ResizeTransform is for images of {(self.h, self.w)} (h, w), got {img.shape[:2]}"
        )
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            return self._resize_bytes(img, interp)
        return self._resize_floats(img, interp)

    def _resize_bytes(self, img: np.ndarray, interp: int) -> np.ndarray:
        has_one_channel = (
            img.ndim == 3 and img.shape[2] == 1
        )  # PIL knows grey images as (h, w) only
        picture = Image.fromarray(img[:, :, 0] if has_one_channel else img)
        resized = np.asarray(picture.resize((self.new_w, self.new_h), interp))
        return resized[:, :, None] if has_one_channel else resized

    def _resize_floats(self, img: np.ndarray, interp: int) -> np.ndarray:
        mode = _TORCH_MODES[interp]
        planes = torch.from_numpy(np.ascontiguousarray(img)).reshape(self.h, self.w, -1)
        planes = planes.permute(2, 0, 1)[None]  # (1, C, h, w)
        resized = F.interpolate(
            planes,
            (self.new_h, self.new_w),
            mode=mode,
            align_corners=None if mode == "nearest" else False,
        )
        resized = resized[0].permute(1, 2, 0)  # (new_h, new_w, C)
        return resized.reshape(self.new_h, self.new_w, *img.shape[2:]).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scales (N, 2) points x, y in place."""
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resizes a label map by nearest neighbour."""
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self) -> "ResizeTransform":
        """Returns the transform back to the first size."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)
