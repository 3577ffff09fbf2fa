"""Transforms that Detectron2 lacks: letterbox, perspective, and changes of colour and sharpness.

Coordinates are continuous: pixel ``i`` covers ``[i, i + 1)``.
"""

from __future__ import annotations

import cv2
import numpy as np
from detectron2.data import transforms as T

Fill = tuple[float, ...]
HUES = 180  # OpenCV's hues of 8-bit images


class LetterboxTransform(T.Transform):
    """Resizes an image to fit a square and centres it there.

    Args:
        height: Of the images that it takes, pixels.
        width: Likewise.
        side: Of the square, pixels.
        fill: Grey levels of the rest, one per channel.
    """

    def __init__(self, height: int, width: int, side: int, fill: Fill = (0.0, 0.0, 0.0)) -> None:
        super().__init__()
        self.height, self.width, self.side, self.fill = height, width, side, fill
        scale = side / max(height, width)
        self.new_height = min(side, max(1, round(height * scale)))
        self.new_width = min(side, max(1, round(width * scale)))
        # An odd rest puts its last pixel on the right and at the bottom.
        self.top = (side - self.new_height) // 2
        self.left = (side - self.new_width) // 2

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(h, w, C) or (h, w) to (side, side, C) or (side, side)."""
        shrinks = self.new_height < self.height
        return self._place(img, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR, self.fill)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """As an image, by nearest neighbour; 0 around it."""
        return self._place(segmentation, cv2.INTER_NEAREST_EXACT, (0.0,))

    def _place(self, img: np.ndarray, interpolation: int, fill: Fill) -> np.ndarray:
        assert img.shape[:2] == (self.height, self.width), (
            f"LetterboxTransform is for images of {(self.height, self.width)}, got {img.shape[:2]}"
        )
        canvas = np.empty((self.side, self.side, *img.shape[2:]), img.dtype)
        canvas[:] = np.array(fill if img.ndim == 3 else fill[0]).astype(img.dtype)
        inside = canvas[self.top :, self.left :][: self.new_height, : self.new_width]
        size = (self.new_width, self.new_height)
        inside[:] = cv2.resize(img, size, interpolation=interpolation).reshape(inside.shape)
        return canvas

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scales and shifts (N, 2) points x, y."""
        factors = (self.new_width / self.width, self.new_height / self.height)
        return coords * np.array(factors) + np.array((self.left, self.top))

    def inverse(self) -> T.Transform:
        """Cuts the image out of the square and resizes it back."""
        cut = T.CropTransform(
            self.left, self.top, self.new_width, self.new_height, self.side, self.side
        )
        size = (self.new_height, self.new_width, self.height, self.width)
        return T.TransformList([cut, T.ResizeTransform(*size)])


class PerspectiveTransform(T.Transform):
    """Maps an image by a homography.

    Args:
        matrix: (3, 3), from points (x, y, 1) of the input to points of the output.
        size: (h, w) of the input, pixels.
        new_size: (h, w) of the output.
        fill: Grey levels where the input does not reach.
    """

    def __init__(
        self,
        matrix: np.ndarray,
        size: tuple[int, int],
        new_size: tuple[int, int],
        fill: Fill = (0.0, 0.0, 0.0),
    ) -> None:
        super().__init__()
        self.matrix, self.size, self.new_size, self.fill = matrix, size, new_size, fill

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Bilinear."""
        return self._warp(img, cv2.INTER_LINEAR, self.fill)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Nearest neighbour; 0 where the input does not reach."""
        return self._warp(segmentation, cv2.INTER_NEAREST, (0.0,) * 3)

    def _warp(self, img: np.ndarray, interpolation: int, fill: Fill) -> np.ndarray:
        # OpenCV's coordinates are those of pixel centres.
        matrix = _translation(-0.5, -0.5) @ self.matrix @ _translation(0.5, 0.5)
        size = self.new_size[::-1]
        return cv2.warpPerspective(img, matrix, size, flags=interpolation, borderValue=fill)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Maps (N, 2) points x, y."""
        points = np.column_stack([coords, np.ones(len(coords))]) @ self.matrix.T  # (N, 3)
        return points[:, :2] / points[:, 2:]

    def inverse(self) -> T.Transform:
        """The map back."""
        matrix = np.linalg.inv(self.matrix)
        return PerspectiveTransform(matrix, self.new_size, self.size, self.fill)


class PixelTransform(T.Transform):
    """A transform of values that leaves every point where it is."""

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """The points as they are."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """The map as it is."""
        return segmentation


class HSVTransform(PixelTransform):
    """Multiplies hue, saturation and value; hue goes round.

    Args:
        factors: Of the three.
        image_format: "RGB" or "BGR".
    """

    def __init__(self, factors: tuple[float, float, float], image_format: str = "RGB") -> None:
        super().__init__()
        self.factors, self.image_format = factors, image_format

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8."""
        is_rgb = self.image_format == "RGB"
        hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV if is_rgb else cv2.COLOR_BGR2HSV)
        levels = np.arange(256)[:, None] * np.array(self.factors)  # (256, 3)
        levels[:, 0] %= HUES
        table = levels.clip(0, 255).astype(np.uint8)[None]  # (1, 256, 3)
        hsv = cv2.LUT(hsv, table)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB if is_rgb else cv2.COLOR_HSV2BGR)


class BlurTransform(PixelTransform):
    """Smooths an image.

    Args:
        kind: "gaussian", "median" or "box".
        kernel: Odd side of the neighbourhood, pixels.
    """

    KINDS = ("gaussian", "median", "box")

    def __init__(self, kind: str, kernel: int) -> None:
        super().__init__()
        self.kind, self.kernel = kind, kernel

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(h, w, C) uint8."""
        if self.kind == "median":
            return cv2.medianBlur(img, self.kernel)
        size = (self.kernel, self.kernel)
        return cv2.GaussianBlur(img, size, 0) if self.kind == "gaussian" else cv2.blur(img, size)


class NoiseTransform(PixelTransform):
    """Adds Gaussian noise, the same at every call.

    Args:
        sigma: Standard deviation, grey levels.
        seed: Of the noise.
    """

    def __init__(self, sigma: float, seed: int) -> None:
        super().__init__()
        self.sigma, self.seed = sigma, seed

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(h, w, C) uint8."""
        noise = np.random.default_rng(self.seed).standard_normal(img.shape, np.float32)
        return (img + self.sigma * noise).round().clip(0, 255).astype(np.uint8)


def centred_homography(
    size: tuple[int, int],
    new_size: tuple[int, int],
    *,
    degrees: float = 0.0,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    shear: tuple[float, float] = (0.0, 0.0),
    perspective: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """A (3, 3) matrix that moves an image about its centre, to the centre of another.

    Args:
        size: (h, w) of the input, pixels.
        new_size: (h, w) of the output.
        degrees: Clockwise rotation as the image is seen.
        scale: Output pixels per input pixel.
        shift: Of the centre in x and y, shares of the output's width and height.
        shear: Degrees in x and y.
        perspective: Change of the depth per pixel in x and y.
    """
    angle = np.deg2rad(degrees)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    shear_x, shear_y = np.tan(np.deg2rad(shear))
    shearing = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
    depth = np.array([[1, 0, 0], [0, 1, 0], [*perspective, 1]])
    to_centre = _translation(-size[1] / 2, -size[0] / 2)
    back = _translation(new_size[1] * (0.5 + shift[0]), new_size[0] * (0.5 + shift[1]))
    return back @ shearing @ rotation @ depth @ to_centre


def _translation(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0, x], [0, 1.0, y], [0, 0, 1.0]])
