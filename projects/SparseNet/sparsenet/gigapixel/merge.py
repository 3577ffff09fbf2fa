"""Detections of many overlapping tiles -> detections of one image.

Objects near a seam are seen several times: whole in one tile, cut in its neighbours. Plain IoU-NMS
leaves the cut parts as phantoms; merging boxes that touch swallows neighbours in a crowd. The seam
rule uses what the tiling knows, namely which boxes were cut:

1. Per class, boxes are visited *whole ones first, then by score*; ties are broken by coordinates,
   so that the result does not depend on the order in which tiles arrive.
2. A visited box that is still alive removes every later box with an IoU above ``iou_threshold``.
3. If the two come from different tiles and the later one is *truncated*, it is also removed when
   more than ``containment_threshold`` of its area lies inside the visited box: it is a part of it.

Survivors are input boxes, unchanged: nothing is enlarged, averaged or rescored. Boxes of one tile
meet rule 2 only, so merging one tile is plain NMS. Tiles of different downsamples are different
tiles: a large object that is whole at a coarse level removes its fine fragments by rule 3.

An object larger than the overlap at every level may be whole in no tile. Of its parts, those lying
in a better part go by rule 3; parts that only share a strip both stay, since no box may be enlarged
to join them. The remedy is a coarser level in ``TEST.TILE.DOWNSAMPLES``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparsenet.errors import ConfigError, MissingDependencyError
from sparsenet.gigapixel.detections import Detections

# Boxes of the ranking looked up at once; bounds the pairs held in memory.
_BLOCK = 4096


def merge_detections(
    detections: Detections,
    *,
    iou_threshold: float = 0.5,
    containment_threshold: float = 0.7,
    max_detections: int | None = None,
) -> Detections:
    """Removes the duplicates that overlapping tiles and levels leave, by the seam rule.

    Args:
        detections: Boxes of all tiles in full-image pixels, with ``truncated`` and ``tile_ids``.
        iou_threshold: Two boxes of a class with a larger IoU are one object.
        containment_threshold: A truncated box with a larger share inside a box of another tile is
            a part of that one.
        max_detections: Keep at most this many, best scores first. None keeps all.

    Returns:
        A subset of the input, sorted by falling score.

    Raises:
        ConfigError: If a threshold is outside (0, 1] or ``max_detections`` is negative.
        MissingDependencyError: If shapely is not installed.
    """
    for name, value in (
        ("iou_threshold", iou_threshold),
        ("containment_threshold", containment_threshold),
    ):
        if not 0 < value <= 1:
            raise ConfigError(
                f"{name} must be in (0, 1], got {value}. Usual values are 0.5 and 0.7."
            )
    if max_detections is not None and max_detections < 0:
        raise ConfigError(f"max_detections must be None or at least 0, got {max_detections}.")

    kept = [
        members[_keep_one_class(detections[members], iou_threshold, containment_threshold)]
        for members in _indices_by_class(detections.classes)
    ]
    survivors = detections[np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)]
    order = _visiting_order(survivors, whole_first=False)
    return survivors[order[:max_detections]]


def _indices_by_class(classes: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(classes == c) for c in np.unique(classes)]


def _visiting_order(detections: Detections, whole_first: bool) -> np.ndarray:
    """Indices from best to worst by a key that never depends on the input's order.

    Larger boxes go first among equal scores: of two equally certain parts the larger stays.
    """
    boxes = detections.boxes_xyxy.astype(np.float64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    keys = [detections.tile_ids, detections.classes, *boxes.T[::-1], -area, detections.truncated]
    keys.append(-detections.scores)  # the last key is the most significant one
    if whole_first:
        keys.append(detections.truncated)
    return np.lexsort(keys)


def _keep_one_class(
    detections: Detections, iou_threshold: float, containment_threshold: float
) -> np.ndarray:
    """Indices of the survivors among detections of one class.

    Goes down the ranking in blocks, so that boxes removed by an earlier block are never looked up:
    200,000 boxes of 10,000 objects then cost little more than the 10,000 survivors.
    """
    order = _visiting_order(detections, whole_first=True)
    ranked = detections[order]
    find_overlapping = _overlap_index(ranked.boxes_xyxy)
    alive = bytearray(b"\x01") * len(ranked)
    is_alive = np.frombuffer(alive, dtype=np.uint8)  # the same memory: each form where it is fast
    for start in range(0, len(ranked), _BLOCK):
        block = start + np.flatnonzero(is_alive[start : start + _BLOCK])
        winners, losers = find_overlapping(block)
        is_open = (winners < losers) & (is_alive[losers] == 1)
        winners, losers = winners[is_open], losers[is_open]
        removes = _removes(ranked, winners, losers, iou_threshold, containment_threshold)
        _greedy(alive, winners[removes], losers[removes])
    return order[is_alive == 1]


def _overlap_index(boxes_xyxy: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function from box indices (K,) to all pairs ``(i, j)`` of touching boxes: two (P,) arrays.

    The tree holds the boxes from left to right: neighbours in space are then neighbours in memory.
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


def _removes(
    ranked: Detections,
    winners: np.ndarray,
    losers: np.ndarray,
    iou_threshold: float,
    containment_threshold: float,
) -> np.ndarray:
    """(P,) whether the winner of a pair, if alive, removes the loser."""
    boxes = ranked.boxes_xyxy.astype(np.float64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    a, b = boxes[winners], boxes[losers]
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    shared = width.clip(min=0) * height.clip(min=0)
    is_same = shared > iou_threshold * (area[winners] + area[losers] - shared)
    is_part = (
        ranked.truncated[losers]
        & (ranked.tile_ids[winners] != ranked.tile_ids[losers])
        & (shared > containment_threshold * area[losers])
    )
    return is_same | is_part


def _greedy(alive: bytearray, winners: np.ndarray, losers: np.ndarray) -> None:
    """Clears the loser of every pair whose winner is alive when its turn comes, in place.

    A plain loop over the few real conflicts: rounds of array operations would be quadratic in the
    length of a chain of overlapping boxes.
    """
    order = np.argsort(winners, kind="stable")
    for winner, loser in zip(winners[order].tolist(), losers[order].tolist()):
        if alive[winner]:
            alive[loser] = 0
