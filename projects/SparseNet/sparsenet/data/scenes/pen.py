"""Drawing of anti-aliased sprites in units of their own height.

OpenCV's anti-aliasing mixes all four channels with what is there, so on an empty canvas the colours
come out premultiplied by alpha; :func:`finish` shades them and divides it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

Point = tuple[float, float]
Colour = tuple[int, int, int]

_SHIFT = 4  # fractional bits of OpenCV's coordinates
# Sprites are drawn twice as large as needed, within these canvas heights, then averaged down.
_CANVAS_HEIGHTS = (128, 1200)


class Pen:
    """A canvas whose unit is its height: x from ``-aspect / 2`` to ``aspect / 2``, y from 0 to 1.

    Args:
        height: Height of the finished sprite in pixels.
        aspect: Width over height.
    """

    def __init__(self, height: int, aspect: float) -> None:
        self.unit = int(np.clip(2 * height, *_CANVAS_HEIGHTS))
        self.aspect = aspect
        self.canvas = np.zeros((self.unit, max(2, round(self.unit * aspect)), 4), np.uint8)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled polygon."""
        fixed = np.array([self._fixed(p) for p in points], np.int32)
        cv2.fillPoly(self.canvas, [fixed], (*colour, 255), cv2.LINE_AA, _SHIFT)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """A filled rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def ellipse(self, centre: Point, radii: Point, colour: Colour, arc: Point = (0, 360)) -> None:
        """A filled ellipse, or its sector between two angles in degrees, clockwise from right."""
        axes = tuple(max(1, round(r * self.unit * (1 << _SHIFT))) for r in radii)
        cv2.ellipse(
            self.canvas, self._fixed(centre), axes, 0, arc[0], arc[1],
            (*colour, 255), -1, cv2.LINE_AA, _SHIFT,
        )  # fmt: skip

    def limb(self, points: Sequence[Point], widths: Sequence[float], colour: Colour) -> None:
        """A rounded tube through ``points`` with a diameter at each, lighter along its middle."""
        for shade, share in ((0.82, 1.0), (1.0, 0.66)):
            tone = scaled(colour, shade)
            for (a, b), (u, v) in zip(pairwise(points), pairwise(widths), strict=True):
                self._tube(a, b, (u * share, v * share), tone)

    def _tube(self, a: Point, b: Point, widths: Point, colour: Colour) -> None:
        direction = np.subtract(b, a)
        normal = np.array([-direction[1], direction[0]]) / max(1e-9, float(np.hypot(*direction)))
        u, v = normal * widths[0] / 2, normal * widths[1] / 2
        corners = [np.add(a, u), np.add(b, v), np.subtract(b, v), np.subtract(a, u)]
        self.polygon([(float(c[0]), float(c[1])) for c in corners], colour)
        self.ellipse(a, (widths[0] / 2, widths[0] / 2), colour)
        self.ellipse(b, (widths[1] / 2, widths[1] / 2), colour)

    def _fixed(self, point: Point) -> tuple[int, int]:
        x, y = point[0] + self.aspect / 2, point[1]
        return round(x * self.unit * (1 << _SHIFT)), round(y * self.unit * (1 << _SHIFT))


def scaled(colour: Colour, factor: float) -> Colour:
    """The colour made brighter (factor above 1) or darker."""
    r, g, b = (int(np.clip(c * factor, 0, 255)) for c in colour)
    return r, g, b


def pick(rng: np.random.Generator, colours: Sequence[Colour], jitter: float = 14) -> Colour:
    """One of the colours, a little changed."""
    r, g, b = np.clip(
        np.array(colours[int(rng.integers(len(colours)))]) + rng.normal(0, jitter, 3), 0, 255
    )
    return int(r), int(g), int(b)


def sprite_size(height: int, aspect: float) -> tuple[int, int]:
    """``(height, width)`` in pixels of a sprite whose width over height is ``aspect``."""
    return height, max(2, round(height * aspect))


def finish(
    canvas: np.ndarray, size: tuple[int, int], rng: np.random.Generator, *, folds: float
) -> np.ndarray:
    """Brings a premultiplied canvas to its size and shades it.

    Args:
        canvas: Premultiplied RGBA, uint8.
        size: ``(height, width)`` of the result in pixels.
        rng: Draws light and noise.
        folds: Strength of soft irregular shading: cloth and leaves have more of it than metal.

    Returns:
        RGBA uint8, not premultiplied.
    """
    sprite = cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_AREA)
    colours, alpha = np.ascontiguousarray(sprite[..., :3]), sprite[..., 3]
    edge = (alpha > 0) & (alpha < 255)  # everywhere else the colours are right already
    colours[edge] = np.minimum(255, colours[edge] * (255.0 / alpha[edge][:, None]))
    light = cv2.merge([_light(size, rng, folds)] * 3)
    colours = cv2.multiply(colours, light, scale=1 / 128)
    colours = cv2.add(colours, _grain(size, rng), dtype=cv2.CV_8U)
    return np.dstack([colours, alpha])


def _light(size: tuple[int, int], rng: np.random.Generator, folds: float) -> np.ndarray:
    """Side light, sky light and folds: one factor per pixel, uint8 in units of 1/128."""
    rows, columns = 28, 20
    side = rng.uniform(-0.18, 0.18)
    across = np.linspace(1 - side, 1 + side, columns)[None]
    down = np.linspace(1.08, 0.92, rows)[:, None]
    uneven = cv2.resize(rng.normal(1, folds, (14, 9)), (columns, rows))
    light = across * down * uneven * rng.uniform(0.78, 1.15)
    coarse = np.clip(np.rint(light * 128), 0, 255).astype(np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def _grain(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Camera noise, int16, the same in all three channels; a repeated patch on large sprites."""
    patch = np.rint(rng.normal(0, 4, (min(size[0], 256), min(size[1], 256)))).astype(np.int16)
    repeats = -(-size[0] // patch.shape[0]), -(-size[1] // patch.shape[1])
    grain = np.tile(patch, repeats)[: size[0], : size[1]]
    return cv2.merge([grain] * 3)
