"""What tile selection misses, told by the probes: tiles that ran although nothing was expected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.options import TileOptions
from sparsenet.gigapixel.selection import LevelSelection, Reason


def count_probe_hits(
    merged: Detections, found: Detections, levels: Sequence[LevelSelection], options: TileOptions
) -> int:
    """Probe tiles that brought in an object which no other tile had found.

    Args:
        merged: Detections of the image.
        found: Those of all tiles, from which they were merged.
        levels: Which tiles ran, in the order of their numbers.
        options: ``select.threshold`` and ``merge_iou``.
    """
    reasons = np.concatenate([level.reasons.ravel() for level in levels])
    of_probe = merged[reasons[merged.tile_ids] == Reason.PROBE].above(options.select.threshold)
    others = found[reasons[found.tile_ids] != Reason.PROBE].boxes_xyxy
    is_new = [_best_iou(box, others) <= options.merge_iou for box in of_probe.boxes_xyxy]
    return len(np.unique(of_probe.tile_ids[np.array(is_new, dtype=bool)]))


def _best_iou(box: np.ndarray, others: np.ndarray) -> float:
    """The largest IoU of a box with (N, 4) others; 0 without any."""
    shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = shared.clip(min=0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    return float((common / ((box[2:] - box[:2]).prod() + areas - common)).max(initial=0.0))
