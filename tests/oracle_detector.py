"""A detector that knows the truth: isolates tiling and merging from any network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.tile_batch import reaches_seam
from sparsenet.tiling.grid import Tile, TileGrid


@dataclass(frozen=True)
class Noise:
    """How far from perfect the detector is.

    Args:
        jitter: Each side moves by up to this share of the box's width or height.
        miss: Chance that a tile misses an object.
        false_per_tile: Mean number of random boxes per tile.
        infer_truncated: Judge truncation by the distance from the seam, as a real detector must,
            instead of knowing it.
    """

    jitter: float = 0.0
    miss: float = 0.0
    false_per_tile: float = 0.0
    infer_truncated: bool = False


PERFECT = Noise()


def perspective_crowd(
    rng: np.random.Generator, image_size: tuple[int, int], num_objects: int, tallest: float = 400
) -> np.ndarray:
    """(N, 4) upright figures that grow towards the bottom of the image; no pair has IoU > 0.45."""
    height, width = image_size
    depth = rng.uniform(0.05, 1, num_objects)
    tall = tallest * depth * rng.uniform(0.8, 1.0, num_objects)
    wide = tall * rng.uniform(0.3, 0.45, num_objects)
    x = rng.uniform(0, width - wide)
    y = (height - tall) * depth
    boxes = np.stack([x, y, x + wide, y + tall], axis=1)
    return without_near_twins(boxes)


def without_near_twins(boxes: np.ndarray, max_iou: float = 0.45) -> np.ndarray:
    """Drops the later box of every pair above ``max_iou``: no IoU-based rule could keep both."""
    kept: list[int] = []
    for i, box in enumerate(boxes):
        others = boxes[kept]
        if not kept or pairwise_iou(box[None], others).max() <= max_iou:
            kept.append(i)
    return boxes[kept]


def pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) IoU of XYXY boxes."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (bottom_right - top_left).clip(min=0).prod(-1)
    area_a, area_b = ((c[:, 2:] - c[:, :2]).prod(-1) for c in (a, b))
    return shared / (area_a[:, None] + area_b[None] - shared)


def detect_tiles(
    truth: np.ndarray,
    grids: Sequence[TileGrid],
    rng: np.random.Generator,
    noise: Noise = PERFECT,
    min_visible: float = 0.25,
) -> Detections:
    """What the detector sees in every tile of every grid, before merging; one class.

    Args:
        truth: (N, 4), full-image pixels.
        grids: Grids of one image.
        rng: Source of scores and noise.
        noise: Imperfections.
        min_visible: An object whose share inside a tile is smaller is not seen there.
    """
    parts = []
    for tile_id, tile in enumerate(tile for grid in grids for tile in grid):
        boxes, is_cut = _see(truth, tile, min_visible)
        seen = rng.uniform(size=len(boxes)) >= noise.miss
        boxes, is_cut = _jitter(boxes[seen], tile, rng, noise.jitter), is_cut[seen]
        scores = rng.uniform(0.5, 1.0, len(boxes))
        false = _random_boxes(tile, rng, rng.poisson(noise.false_per_tile))
        boxes = np.concatenate([boxes, false])
        scores = np.concatenate([scores, rng.uniform(0.05, 0.4, len(false))])
        is_cut = np.concatenate([is_cut, np.zeros(len(false), dtype=bool)])
        if noise.infer_truncated:
            is_cut = reaches_seam(boxes, tile)
        parts.append((boxes, scores, is_cut, np.full(len(boxes), tile_id)))
    boxes, scores, is_cut, tile_ids = (np.concatenate(column) for column in zip(*parts))
    return Detections(
        boxes_xyxy=boxes.astype(np.float32),
        scores=scores.astype(np.float32),
        classes=np.zeros(len(boxes), dtype=np.int64),
        truncated=is_cut,
        tile_ids=tile_ids.astype(np.int64),
        image_size=grids[0].image_size,
        class_names=("person",),
    )


def tile_windows(grids: Sequence[TileGrid]) -> np.ndarray:
    """(T, 4) the windows of all tiles, in the order of ``detect_tiles``."""
    return np.array([tile.window.xyxy for grid in grids for tile in grid], dtype=np.float64)


def count_matches(truth: np.ndarray, found: np.ndarray) -> int:
    """Objects with a found box of IoU above 0.5, each box used once, best pairs first."""
    if not len(found):
        return 0
    iou = pairwise_iou(truth, found.astype(np.float64))
    rows, columns = np.nonzero(iou > 0.5)
    taken_rows, taken_columns = set(), set()
    for k in np.argsort(-iou[rows, columns]):
        if rows[k] not in taken_rows and columns[k] not in taken_columns:
            taken_rows.add(rows[k])
            taken_columns.add(columns[k])
    return len(taken_rows)


def _see(truth: np.ndarray, tile: Tile, min_visible: float) -> tuple[np.ndarray, np.ndarray]:
    x1, y1, x2, y2 = tile.window.xyxy
    low, high = np.array([x1, y1, x1, y1]), np.array([x2, y2, x2, y2])
    inside = truth.clip(low, high)
    share = (inside[:, 2:] - inside[:, :2]).prod(-1) / (truth[:, 2:] - truth[:, :2]).prod(-1)
    tall_enough = (inside[:, 3] - inside[:, 1]) >= 4 * tile.downsample
    seen = (share > 0) & (share >= min_visible) & tall_enough
    return inside[seen], (inside != truth).any(axis=1)[seen]


def _jitter(boxes: np.ndarray, tile: Tile, rng: np.random.Generator, amount: float) -> np.ndarray:
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    moved = boxes + rng.uniform(-amount, amount, boxes.shape) * sides
    x1, y1, x2, y2 = tile.window.xyxy
    return moved.clip([x1, y1, x1, y1], [x2, y2, x2, y2])


def _random_boxes(tile: Tile, rng: np.random.Generator, count: int) -> np.ndarray:
    x1, y1, x2, y2 = tile.window.xyxy
    size = rng.uniform(20, 200, (count, 1)) * [0.4, 1.0]
    corner = rng.uniform([x1, y1], [x2, y2], (count, 2))
    return np.concatenate([corner, corner + size], axis=1).clip([x1, y1, x1, y1], [x2, y2, x2, y2])
