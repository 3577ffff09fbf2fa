"""Augmentations of tiles, each drawn from a given generator (never from a global one)."""

from __future__ import annotations

import cv2
import numpy as np

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
