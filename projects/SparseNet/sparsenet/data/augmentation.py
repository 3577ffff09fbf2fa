"""Augmentations, each drawn from a given generator (never from a global one)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from detectron2.data import transforms as T

from sparsenet.data.image_transforms import (
    BlurTransform,
    Fill,
    HSVTransform,
    LetterboxTransform,
    NoiseTransform,
    PerspectiveTransform,
    centred_homography,
)
from sparsenet.errors import ConfigError

# ITU-R BT.601 luma, the grey that saturation mixes with.
_LUMA = np.array([0.299, 0.587, 0.114])


def jitter_color(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Multiplies brightness, contrast and saturation by factors in ``1 ± strength``.

    Args:
        image: (h, w, 3) uint8, RGB.
        strength: In [0, 1); 0 leaves the image (three numbers are drawn all the same).
        rng: Source of the three factors.

    Returns:
        (h, w, 3) uint8, RGB.
    """
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, size=3)
    if strength == 0:
        return image
    # All three are one colour matrix: with luma y = l·p and its mean m over the image,
    # out = b * (c * (s * p + (1 - s) * y) + (1 - c) * m).
    matrix = np.empty((3, 4))
    matrix[:, :3] = contrast * (saturation * np.eye(3) + (1 - saturation) * _LUMA)
    matrix[:, 3] = (1 - contrast) * (_LUMA @ np.array(cv2.mean(image)[:3]))
    return cv2.transform(image, brightness * matrix)


def flip_boxes(boxes_xyxy: np.ndarray, width: int) -> np.ndarray:
    """Boxes (N, 4) of a horizontally mirrored image of this width, in pixels; a copy."""
    flipped = boxes_xyxy.copy()
    flipped[:, [0, 2]] = width - boxes_xyxy[:, [2, 0]]
    return flipped


class SeededAugmentation(T.Augmentation):
    """An augmentation that happens with some probability, and draws from a generator of its own.

    Detectron2 calls ``get_transform``, which seeds the generator by one draw from numpy's global
    one; code that must not depend on global state calls ``draw``.

    Args:
        prob: Probability, in [0, 1]; 0 switches it off.
    """

    def __init__(self, prob: float) -> None:
        super().__init__()
        if not 0 <= prob <= 1:
            raise ConfigError(
                f"The probability of {type(self).__name__} must be in [0, 1], got {prob}. "
                "See INPUT.AUG."
            )
        self.prob = prob

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Detectron2's entry."""
        return self.draw(image.shape[:2], np.random.default_rng(np.random.randint(2**31)))

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> T.Transform:
        """The transform for an image of (h, w), or one that does nothing."""
        return self._draw(size, rng) if rng.random() < self.prob else T.NoOpTransform()

    def _draw(self, size: tuple[int, int], rng: np.random.Generator) -> T.Transform:
        raise NotImplementedError


class Letterbox(SeededAugmentation):
    """Fits images into a square of fixed side, centred; see :class:`LetterboxTransform`."""

    def __init__(self, side: int, fill: Fill = (0.0, 0.0, 0.0)) -> None:
        super().__init__(1.0)
        self.side, self.fill = side, fill

    def _draw(self, size: tuple[int, int], rng: np.random.Generator) -> T.Transform:
        return LetterboxTransform(*size, self.side, self.fill)


class RandomHSV(SeededAugmentation):
    """Multiplies hue, saturation and value by factors in ``1 ± gain``."""

    def __init__(
        self, prob: float, gains: Sequence[float] = (0.014, 0.68, 0.36), image_format: str = "RGB"
    ) -> None:
        super().__init__(prob)
        self.gains, self.image_format = gains, image_format

    def _draw(self, size: tuple[int, int], rng: np.random.Generator) -> T.Transform:
        factors = 1 + rng.uniform(-1, 1, 3) * np.asarray(self.gains)
        return HSVTransform(tuple(factors), self.image_format)


class RandomBlur(SeededAugmentation):
    """A Gaussian, median or box filter over 3 × 3 or 5 × 5 pixels."""

    def _draw(self, size: tuple[int, int], rng: np.random.Generator) -> T.Transform:
        kind = BlurTransform.KINDS[rng.integers(len(BlurTransform.KINDS))]
        return BlurTransform(kind, int(rng.choice((3, 5))))


class RandomNoise(SeededAugmentation):
    """Gaussian noise with a standard deviation from ``sigma``, grey levels."""

    def __init__(self, prob: float, sigma: tuple[float, float] = (1.0, 15.0)) -> None:
        super().__init__(prob)
        self.sigma = sigma

    def _draw(self, size: tuple[int, int], rng: np.random.Generator) -> T.Transform:
        return NoiseTransform(rng.uniform(*self.sigma), int(rng.integers(2**31)))


class RandomSideCrop(SeededAugmentation):
    """Cuts out a part whose sides are at least ``min_share`` of the image's, each for itself."""

    def __init__(self, prob: float, min_share: float = 0.6) -> None:
        super().__init__(prob)
        if not 0 < min_share <= 1:
            raise ConfigError(f"INPUT.AUG.CROP.MIN_SHARE must be in (0, 1], got {min_share}.")
        self.min_share = min_share

    def _draw(self, size: tuple[int, int], rng: np.random.Generator) -> T.Transform:
        height, width = (max(1, round(side * rng.uniform(self.min_share, 1))) for side in size)
        y, x = rng.integers(size[0] - height + 1), rng.integers(size[1] - width + 1)
        return T.CropTransform(int(x), int(y), width, height, size[1], size[0])


@dataclass(frozen=True)
class AffineRanges:
    """Ranges of a random affine or perspective map; see :func:`centred_homography`.

    Args:
        degrees: Rotation in ± degrees.
        scale: Smallest and largest factor.
        translate: Shift in ± shares of the sides.
        shear: In ± degrees.
        perspective: In ± change of the depth over half the longer side; 0 keeps it affine.
    """

    degrees: float = 10.0
    scale: tuple[float, float] = (0.8, 1.2)
    translate: float = 0.0
    shear: float = 0.0
    perspective: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] or not 0 <= self.perspective < 0.5:
            raise ConfigError(
                "The SCALE of INPUT.AUG must be two positive rising numbers and PERSPECTIVE in "
                f"[0, 0.5), got {self.scale} and {self.perspective}."
            )


class RandomPerspective(SeededAugmentation):
    """Turns, scales, shifts, shears and tilts an image about its centre.

    Args:
        prob: Probability.
        ranges: What to draw from.
        fill: Grey levels beyond the image.
        new_size: (h, w) of the output; None keeps that of the input.
    """

    def __init__(
        self,
        prob: float,
        ranges: AffineRanges,
        fill: Fill = (0.0, 0.0, 0.0),
        new_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(prob)
        self.ranges, self.fill, self.new_size = ranges, fill, new_size

    def _draw(self, size: tuple[int, int], rng: np.random.Generator) -> T.Transform:
        ranges, new_size = self.ranges, self.new_size or size
        matrix = centred_homography(
            size,
            new_size,
            degrees=rng.uniform(-1, 1) * ranges.degrees,
            scale=rng.uniform(*ranges.scale),
            shift=tuple(rng.uniform(-1, 1, 2) * ranges.translate),
            shear=tuple(rng.uniform(-1, 1, 2) * ranges.shear),
            perspective=tuple(rng.uniform(-1, 1, 2) * ranges.perspective * 2 / max(size)),
        )
        return PerspectiveTransform(matrix, size, new_size, self.fill)
