"""Stands in for detectron2.data.transforms.augmentation_impl: has Resize, ResizeShortestEdge,
RandomApply, RandomFlip, the random crops, brightness, contrast and saturation; lacks the others.

All draws come from numpy's global generator, in the order of the real ones."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import (
    BlendTransform,
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    VFlipTransform,
)
from PIL import Image

from .augmentation import Augmentation, _as_augmentation
from .transform import ResizeTransform

__all__ = [
    "RandomApply",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomCrop_CategoryAreaConstraint",
    "RandomFlip",
    "RandomSaturation",
    "Resize",
    "ResizeShortestEdge",
]

_CROP_TRIALS = 10


class RandomApply(Augmentation):
    """Applies a transform or an augmentation with a probability."""

    def __init__(self, tfm_or_aug: Transform | Augmentation, prob=0.5):
        super().__init__()
        self.aug = _as_augmentation(tfm_or_aug)
        assert 0.0 <= prob <= 1.0, f"prob must be in [0, 1], got {prob}"
        self.prob = prob

    def get_transform(self, *args: Any) -> Transform:
        return self.aug.get_transform(*args) if self._is_drawn() else NoOpTransform()

    def __call__(self, aug_input: Any) -> Transform:
        return self.aug(aug_input) if self._is_drawn() else NoOpTransform()

    def _is_drawn(self) -> bool:
        return self._rand_range() < self.prob


class RandomFlip(Augmentation):
    """Flips with a probability, in one direction."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False):
        super().__init__()
        if horizontal == vertical:
            raise ValueError(
                f"RandomFlip: exactly one of horizontal and vertical must be True, got "
                f"{horizontal} and {vertical}; use two RandomFlip for both"
            )
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class Resize(Augmentation):
    """Resizes to a fixed size."""

    def __init__(self, shape: int | Sequence[int], interp: int = Image.BILINEAR):
        """Args:
        shape: (h, w), or one number for both.
        interp: a resampling filter of PIL.
        """
        shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Resizes so that the short side is as drawn, unless the long side would exceed `max_size`."""

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.BILINEAR,
    ):
        """Args:
        short_edge_length: "range": lowest and highest length; "choice": the lengths to draw from.
        max_size: the longest allowed long side, in pixels.
        sample_style: "range" or "choice".
        interp: a resampling filter of PIL.
        """
        super().__init__()
        assert sample_style in ("range", "choice"), (
            f"sample_style must be 'range' or 'choice', got {sample_style!r}"
        )
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        self.is_range = sample_style == "range"
        assert not self.is_range or len(short_edge_length) == 2, (
            f"sample_style 'range' needs two lengths, got {short_edge_length}"
        )
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if self.is_range:
            size = np.random.randint(self.short_edge_length[0], self.short_edge_length[1] + 1)
        else:
            size = np.random.choice(self.short_edge_length)
        if size == 0:
            return NoOpTransform()
        new_size = self.get_output_shape(height, width, size, self.max_size)
        return ResizeTransform(height, width, *new_size, self.interp)

    @staticmethod
    def get_output_shape(
        oldh: int, oldw: int, short_edge_length: int, max_size: int
    ) -> tuple[int, int]:
        """Returns the (h, w) after the resize, rounded to the nearest pixel."""
        short = float(short_edge_length)
        scale = short / min(oldh, oldw)
        new_h, new_w = (short, scale * oldw) if oldh < oldw else (scale * oldh, short)
        if max(new_h, new_w) > max_size:
            shrink = max_size * 1.0 / max(new_h, new_w)
            new_h, new_w = new_h * shrink, new_w * shrink
        return int(new_h + 0.5), int(new_w + 0.5)


class RandomCrop(Augmentation):
    """Cuts a rectangle out at a random place."""

    def __init__(self, crop_type: str, crop_size: Sequence[float]):
        """Args:
        crop_type: "relative", "relative_range", "absolute" or "absolute_range".
        crop_size: two numbers. "relative": shares of (h, w). "relative_range": their least
            values, drawn up to 1. "absolute": (h, w) in pixels. "absolute_range": least and
            greatest side in pixels, drawn for h and w apart. Never more than the image.
        """
        super().__init__()
        assert crop_type in ("relative_range", "relative", "absolute", "absolute_range"), (
            "crop_type must be relative, relative_range, absolute or absolute_range, got "
            f"{crop_type!r}"
        )
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((height, width))
        assert height >= crop_h and width >= crop_w, (
            f"the crop {(crop_h, crop_w)} must fit the image {(height, width)}; check crop_size"
        )
        top = np.random.randint(height - crop_h + 1)
        left = np.random.randint(width - crop_w + 1)
        return CropTransform(left, top, crop_w, crop_h)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Returns the (h, w) of the next crop of an image of `image_size`."""
        height, width = image_size
        if self.crop_type == "absolute":
            return min(self.crop_size[0], height), min(self.crop_size[1], width)
        if self.crop_type == "absolute_range":
            least, most = self.crop_size
            assert least <= most, (
                f"absolute_range needs least <= greatest side, got {self.crop_size}"
            )
            crop_h = np.random.randint(min(height, least), min(height, most) + 1)
            crop_w = np.random.randint(min(width, least), min(width, most) + 1)
            return crop_h, crop_w
        shares = self.crop_size
        if self.crop_type == "relative_range":
            least_shares = np.asarray(shares, dtype=np.float32)
            shares = least_shares + np.random.rand(2) * (1 - least_shares)
        return int(height * shares[0] + 0.5), int(width * shares[1] + 0.5)


class RandomCrop_CategoryAreaConstraint(Augmentation):
    """A RandomCrop in which, if ten draws find such a place, no class of the label map has more
    than a given share."""

    def __init__(
        self,
        crop_type: str,
        crop_size,
        single_category_max_area: float = 1.0,
        ignored_category: int | None = None,
    ):
        """Args:
        crop_type, crop_size: of RandomCrop.
        single_category_max_area: the largest share; 1: any.
        ignored_category: a label that may take more, and does not count.
        """
        self.crop_aug = RandomCrop(crop_type, crop_size)
        self._init(locals())

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> Transform:
        if self.single_category_max_area >= 1.0:
            return self.crop_aug.get_transform(image)
        height, width = sem_seg.shape
        for _ in range(_CROP_TRIALS):
            crop_h, crop_w = self.crop_aug.get_crop_size((height, width))
            top = np.random.randint(height - crop_h + 1)
            left = np.random.randint(width - crop_w + 1)
            inside = sem_seg[top : top + crop_h, left : left + crop_w]
            labels, counts = np.unique(inside, return_counts=True)
            if self.ignored_category is not None:
                counts = counts[labels != self.ignored_category]
            if len(counts) > 1 and counts.max() < counts.sum() * self.single_category_max_area:
                break
        return CropTransform(left, top, crop_w, crop_h)


class _RandomBlend(Augmentation):
    """Moves the image from, or beyond, some other picture by a factor drawn from a range; 1 keeps
    it."""

    def __init__(self, intensity_min: float, intensity_max: float):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        factor = np.random.uniform(self.intensity_min, self.intensity_max)
        other = self._other(image)
        return BlendTransform(src_image=other, src_weight=1 - factor, dst_weight=factor)

    def _other(self, image: np.ndarray) -> Any:
        raise NotImplementedError


class RandomContrast(_RandomBlend):
    """Against the mean of the image."""

    def _other(self, image: np.ndarray) -> Any:
        return image.mean()


class RandomBrightness(_RandomBlend):
    """Against black."""

    def _other(self, image: np.ndarray) -> Any:
        return 0


class RandomSaturation(_RandomBlend):
    """Against the grey image; takes RGB."""

    def _other(self, image: np.ndarray) -> Any:
        assert image.shape[-1] == 3, f"RandomSaturation needs an RGB image, got {image.shape}"
        return image.dot([0.299, 0.587, 0.114])[:, :, np.newaxis]  # (h, w, 1)
