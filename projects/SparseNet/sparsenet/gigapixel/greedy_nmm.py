"""Greedy non-maximum merging, SAHI's default, to compare the seam rule with.

From the best score down, a box takes all worse boxes that overlap it and grows over them, one by
one, as long as they still match. Boxes are enlarged, so that neighbours in a crowd become one.

Differs from SAHI 0.12 (MIT, https://github.com/obss/sahi) in: ties between equal scores are broken
by coordinates. Akyon, Altinuc, Temizel, "Slicing Aided Hyper Inference", arXiv 2202.06934.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparsenet.gigapixel.box_pairs import box_area, cut_boxes, touching_boxes
from sparsenet.gigapixel.detections import Detections


def join_greedily(ranked: Detections, threshold: float) -> Detections:
    """Joins the detections of one class that overlap.

    Args:
        ranked: Of one class, best first, without masks.
        threshold: Two boxes match from this share of the smaller one on.

    Returns:
        The best of each group, its box grown over the others; best first.
    """
    boxes = ranked.boxes_xyxy.astype(np.float64)
    partners = _matches(boxes, threshold)
    is_taken = np.zeros(len(boxes), dtype=bool)
    kept = []
    for number, matches in enumerate(partners):
        if is_taken[number]:
            continue
        kept.append(number)
        for other in matches:
            if not is_taken[other] and other > number:
                is_taken[other] = True
                pair = boxes[[number]], boxes[[other]]
                if _match(*pair, threshold)[0]:
                    boxes[number, :2] = np.minimum(boxes[number, :2], boxes[other, :2])
                    boxes[number, 2:] = np.maximum(boxes[number, 2:], boxes[other, 2:])
    index = np.array(kept, dtype=np.int64)
    return replace(ranked[index], boxes_xyxy=boxes[index])


def _matches(boxes: np.ndarray, threshold: float) -> list[list[int]]:
    """For every box, in order, the worse boxes that match it before anything grows."""
    first, second = touching_boxes(boxes)(np.arange(len(boxes)))
    first, second = first[first < second], second[first < second]
    is_match = _match(boxes[first], boxes[second], threshold)
    partners: list[list[int]] = [[] for _ in boxes]
    order = np.lexsort([second[is_match], first[is_match]])
    for better, worse in zip(first[is_match][order].tolist(), second[is_match][order].tolist()):
        partners[better].append(worse)
    return partners


def _match(a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    """(P,) whether the pairs share at least ``threshold`` of the smaller box."""
    is_match: np.ndarray = box_area(cut_boxes(a, b)) >= threshold * np.minimum(
        box_area(a), box_area(b)
    )
    return is_match
