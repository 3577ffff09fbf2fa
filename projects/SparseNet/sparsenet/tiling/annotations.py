"""Boxes against windows: how much of an object a tile shows."""

from __future__ import annotations

import numpy as np

from sparsenet.tiling.window import Window


def clip_boxes(boxes_xyxy: np.ndarray, window: Window) -> np.ndarray:
    """Cuts boxes at a window's sides.

    Args:
        boxes_xyxy: (N, 4), full-image pixels.
        window: Full-image pixels.

    Returns:
        (N, 4) of the same dtype, full-image pixels; a box outside collapses onto the window's side.
    """
    low = np.array([window.x, window.y] * 2, dtype=boxes_xyxy.dtype)
    high = np.array([window.x2, window.y2] * 2, dtype=boxes_xyxy.dtype)
    return np.clip(boxes_xyxy, low, high)


def visible_share(boxes_xyxy: np.ndarray, window: Window) -> np.ndarray:
    """Share of each box's area that lies inside a window.

    Args:
        boxes_xyxy: (N, 4), full-image pixels.
        window: Full-image pixels.

    Returns:
        (N,) in [0, 1]; 0 for boxes without area.
    """
    area = _area(boxes_xyxy)
    share = _area(clip_boxes(boxes_xyxy, window)) / np.where(area > 0, area, 1)
    return np.where(area > 0, share, 0).astype(area.dtype)


def _area(boxes_xyxy: np.ndarray) -> np.ndarray:
    sides = np.clip(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0, None).astype(np.float64)
    return sides[:, 0] * sides[:, 1]
