"""Which of many boxes of one image touch, without looking at every pair."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparsenet.errors import MissingDependencyError

# A function from box indices (K,) to all pairs ``(i, j)`` of touching boxes: two (P,) arrays.
FindTouching = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def touching_boxes(boxes_xyxy: np.ndarray) -> FindTouching:
    """Makes the function that finds the boxes of (N, 4) that touch given ones.

    The tree holds the boxes from left to right: neighbours in space are then neighbours in memory.

    Raises:
        MissingDependencyError: If shapely is not installed.
    """
    try:
        import shapely
    except ImportError as error:
        raise MissingDependencyError(
            "Merging tiles needs shapely, which is not installed. "
            "Install it with `pip install 'sparsenet[gigapixel]'`."
        ) from error
    by_x = np.argsort(boxes_xyxy[:, 0], kind="stable")
    place = np.empty_like(by_x)
    place[by_x] = np.arange(len(by_x))
    geometries = shapely.box(*boxes_xyxy[by_x].astype(np.float64).T)
    tree = shapely.STRtree(geometries)

    def find(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        queried = np.sort(place[indices])
        first, second = tree.query(geometries[queried])
        return by_x[queried[first]], by_x[second]

    return find


def box_area(boxes_xyxy: np.ndarray) -> np.ndarray:
    """(N,) float64 areas of (N, 4) boxes; 0 where a box is turned inside out."""
    sides = boxes_xyxy[:, 2:].astype(np.float64) - boxes_xyxy[:, :2]
    area: np.ndarray = sides.clip(min=0).prod(axis=1)
    return area


def cut_boxes(boxes_xyxy: np.ndarray, others_xyxy: np.ndarray) -> np.ndarray:
    """(P, 4) what each of (P, 4) boxes shares with its partner; inside out where nothing."""
    low = np.maximum(boxes_xyxy[:, :2], others_xyxy[:, :2])
    high = np.minimum(boxes_xyxy[:, 2:], others_xyxy[:, 2:])
    return np.concatenate([low, high], axis=1)
