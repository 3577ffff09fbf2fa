"""Axis-aligned rectangles in full-image pixels.

A :class:`Window` is a value: half-open, integer, immutable. Free functions and methods return new
windows; nothing here reads an image. The idea follows rasterio's ``windows`` module.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import index

import numpy as np

from sparsenet.errors import ConfigError


@dataclass(frozen=True, order=True)
class Window:
    """The pixels ``[x, x + width) × [y, y + height)`` of an image at full resolution.

    Args:
        x: First column, in pixels; may be negative before :meth:`clip`.
        y: First row, in pixels.
        width: Number of columns, at least 0.
        height: Number of rows, at least 0.

    Raises:
        ConfigError: If a field is not an integer or a side is negative.
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        for name in ("x", "y", "width", "height"):
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, index(value))
            except TypeError:
                raise ConfigError(
                    f"Window.{name} must be an integer number of pixels, got {value!r}. "
                    "Round it first; windows are exact."
                ) from None
        if self.width < 0 or self.height < 0:
            raise ConfigError(
                f"A window's sides must be at least 0, got {self.width} × {self.height} (w × h)."
            )

    @property
    def x2(self) -> int:
        """First column to the right of the window."""
        return self.x + self.width

    @property
    def y2(self) -> int:
        """First row below the window."""
        return self.y + self.height

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self.height, self.width

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        """``(x, y, x2, y2)``."""
        return self.x, self.y, self.x2, self.y2

    def intersection(self, other: Window) -> Window:
        """The common pixels; an empty window (area 0) where there are none."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        x2, y2 = min(self.x2, other.x2), min(self.y2, other.y2)
        return Window(x, y, max(0, x2 - x), max(0, y2 - y))

    def union(self, other: Window) -> Window:
        """The smallest window that covers both."""
        x, y = min(self.x, other.x), min(self.y, other.y)
        return Window(x, y, max(self.x2, other.x2) - x, max(self.y2, other.y2) - y)

    def shift(self, dx: int, dy: int) -> Window:
        """The same size, moved by ``(dx, dy)`` pixels."""
        return Window(self.x + dx, self.y + dy, self.width, self.height)

    def clip(self, image_size: tuple[int, int]) -> Window:
        """The part inside an image of ``(height, width)`` pixels."""
        return self.intersection(Window(0, 0, image_size[1], image_size[0]))

    def contains(self, other: Window) -> bool:
        """Whether every pixel of ``other`` is in this window."""
        return (
            self.x <= other.x and self.y <= other.y and other.x2 <= self.x2 and other.y2 <= self.y2
        )


def boxes_to_tile(boxes_xyxy: np.ndarray, window: Window, downsample: float) -> np.ndarray:
    """Moves boxes from the full image into a tile's pixels.

    Args:
        boxes_xyxy: (N, 4), full-image pixels.
        window: The tile's window, full-image pixels.
        downsample: Full-image pixels per tile pixel.

    Returns:
        (N, 4), tile pixels, not clipped.
    """
    return (boxes_xyxy - np.array([window.x, window.y] * 2, dtype=boxes_xyxy.dtype)) / downsample


def boxes_to_image(boxes_xyxy: np.ndarray, window: Window, downsample: float) -> np.ndarray:
    """Moves boxes from a tile's pixels into the full image: undoes :func:`boxes_to_tile`."""
    return boxes_xyxy * downsample + np.array([window.x, window.y] * 2, dtype=boxes_xyxy.dtype)
