"""Which downsample's word counts for objects of which size.

A detector is good at objects of some range of tile pixels (``OBJECT_SIZE_RANGE``). Small objects
are therefore left to fine downsamples and large ones to coarse ones. A hard limit loses objects
near it (each side measures its box a little beyond) or keeps both; here a box loses score by how
much worse its downsample is, in octaves, than the best one that looked at the same place. Where
only one looked, its boxes keep their scores, whatever their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.options import TileOptions
from sparsenet.gigapixel.selection import LevelSelection


def octaves_outside(
    sides: np.ndarray, downsamples: np.ndarray | int, size_range: tuple[float, float]
) -> np.ndarray:
    """By how many octaves objects are too small or too large for a downsample; 0 inside the range.

    Args:
        sides: (N,) longer sides, full-image pixels.
        downsamples: (N,) or one.
        size_range: Smallest and largest longer side in tile pixels.
    """
    low, high = size_range
    in_tile = np.maximum(sides, 1e-6) / downsamples
    too_small = np.log2(max(low, 1e-6) / in_tile)
    return np.maximum(0.0, np.maximum(too_small, np.log2(in_tile / high)))


def hand_over(
    detections: Detections, levels: Sequence[LevelSelection], options: TileOptions
) -> Detections:
    """Lowers the scores of boxes that a better-suited downsample was asked about as well.

    A box that is ``e`` octaves further outside the range than at the best downsample with a tile
    around the box's centre keeps ``1 - e / hand_over`` of its score, or nothing.

    Args:
        detections: Of all tiles, not merged.
        levels: Which tiles of each grid ran.
        options: ``object_size_range``, ``hand_over`` and ``score_threshold``.

    Returns:
        The detections that still reach the score threshold.
    """
    boxes = detections.boxes_xyxy.astype(np.float64)
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0.0)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    own = octaves_outside(sides, detections.downsamples, options.object_size_range)
    best = own.copy()
    for level in levels:
        there = octaves_outside(sides, level.grid.downsample, options.object_size_range)
        best = np.where(level.covers(centres), np.minimum(best, there), best)
    # The smallest positive width makes a hard limit of 0 without dividing by it.
    weight = (1 - (own - best) / max(options.hand_over, 1e-9)).clip(0, 1)
    weighted = replace(detections, scores=detections.scores * weight)
    return weighted[(weight > 0) & (weighted.scores >= options.score_threshold)]
