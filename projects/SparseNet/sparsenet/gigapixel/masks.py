"""Instance masks as COCO run lengths, each of the pixels around its box.

A mask of a gigapixel image as one bitmap would not fit anywhere; cropped to its box it costs some
hundred bytes. A box of continuous coordinates is cropped to the whole pixels that it touches, see
:func:`mask_windows`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

# COCO counts the pixels of an image in 32 bits.
MAX_RUN_LENGTH_PIXELS = 2**32 - 1
# Of a mask drawn at once in float32; bounds the memory of large ones.
_BAND_PIXELS = 4_000_000


def mask_windows(boxes_xyxy: np.ndarray) -> np.ndarray:
    """(N, 4) int64 ``x1, y1, x2, y2``: the whole pixels that (N, 4) boxes touch, at least one."""
    low = np.floor(boxes_xyxy[:, :2]).astype(np.int64)
    high = np.ceil(boxes_xyxy[:, 2:]).astype(np.int64)
    return np.concatenate([low, np.maximum(high, low + 1)], axis=1)


def encode_mask(pixels: np.ndarray) -> dict[str, Any]:
    """COCO run lengths of an (h, w) bool mask."""
    run_lengths: dict[str, Any] = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
    return run_lengths


def decode_mask(run_lengths: dict[str, Any]) -> np.ndarray:
    """(h, w) bool mask of COCO run lengths."""
    pixels: np.ndarray = coco_mask.decode(run_lengths)
    return pixels.astype(bool)


def encode_roi_mask(
    probabilities: np.ndarray, box_xyxy: np.ndarray, clipped_xyxy: np.ndarray
) -> dict[str, Any]:
    """COCO run lengths of the window of a clipped box, from what a mask head says of the box.

    Detectron2's ``paste_masks_in_image`` at a threshold of 0.5, as a product of matrices, a band at
    a time: a box of a coarse tile can have 67 million pixels.

    Args:
        probabilities: (M, M) float32 in [0, 1], over the whole box.
        box_xyxy: (4,) full-image pixels.
        clipped_xyxy: (4,) the part of the box that is in the tile.
    """
    x1, y1, x2, y2 = mask_windows(clipped_xyxy[None])[0].tolist()
    rows = _bilinear_weights(y1, y2, box_xyxy[1::2], len(probabilities))
    columns = _bilinear_weights(x1, x2, box_xyxy[::2], probabilities.shape[1])
    by_column = probabilities @ columns.T  # (M, w)
    pixels = np.empty((y2 - y1, x2 - x1), dtype=bool)
    height = max(1, _BAND_PIXELS // (x2 - x1))
    for y in range(0, y2 - y1, height):
        pixels[y : y + height] = rows[y : y + height] @ by_column >= 0.5
    return encode_mask(pixels)


def _bilinear_weights(start: int, end: int, side: np.ndarray, num: int) -> np.ndarray:
    """(end - start, num) float32 what each of ``num`` cells of a box's side gives to each pixel."""
    low, high = side.astype(np.float64)
    centres = (np.arange(start, end) + 0.5 - low) / (high - low) * num - 0.5
    return (1 - np.abs(centres[:, None] - np.arange(num))).clip(min=0).astype(np.float32)


def mask_in_image(
    run_lengths: dict[str, Any], box_xyxy: np.ndarray, image_size: tuple[int, int]
) -> dict[str, Any] | list[list[float]]:
    """The same mask as COCO's segmentation of the whole image, without ever drawing the image.

    Args:
        run_lengths: Of the window of the box.
        box_xyxy: (4,) full-image pixels.
        image_size: ``(h, w)``.

    Returns:
        COCO run lengths, ``counts`` as text, ready for JSON. Where the image has more pixels than
        ``MAX_RUN_LENGTH_PIXELS``, COCO polygons ``[x, y, x, y, ...]`` without holes.
    """
    height, width = image_size
    if height * width > MAX_RUN_LENGTH_PIXELS:
        return [ring.ravel().tolist() for ring in mask_polygons(run_lengths, box_xyxy)]
    x, y = mask_windows(box_xyxy[None])[0, :2].tolist()
    pixels = decode_mask(run_lengths)
    # Runs go down the columns: a column of the window is a run of the image between two gaps.
    columns = np.flatnonzero(pixels.any(axis=0))
    padded = np.zeros((len(columns), pixels.shape[0] + 2), dtype=np.int8)
    padded[:, 1:-1] = pixels.T[columns]
    column, row = np.nonzero(np.diff(padded, axis=1))  # starts and ends in turn, column by column
    edges = (columns[column] + x) * height + row + y
    counts = np.diff(np.concatenate([[0], edges, [height * width]])).tolist()
    whole = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": whole["counts"].decode()}


def mask_polygons(
    run_lengths: dict[str, Any], box_xyxy: np.ndarray, *, tolerance: float = 0.0
) -> list[np.ndarray]:
    """Outlines of a mask, largest first; holes are left out.

    Args:
        run_lengths: Of the window of the box.
        box_xyxy: (4,) full-image pixels.
        tolerance: Corners are left out as long as the outline moves by no more pixels.

    Returns:
        (K, 2) float64 x, y arrays of at least three points in full-image pixels. They run around
        the outer edges of the pixels, so that their area is that of the mask. Empty for an empty
        mask.
    """
    pixels = decode_mask(run_lengths).astype(np.uint8)
    # Contours run through pixel centres. At twice the size, shifted, they run along pixel edges.
    padded = np.pad(pixels, 1).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(padded, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    origin = mask_windows(box_xyxy[None])[0, :2]
    rings = [np.round(contour[:, 0] / 2.0 + 0.25) - 1 + origin for contour in contours]
    if tolerance:
        rings = [
            cv2.approxPolyDP(ring.astype(np.float32), tolerance, closed=True)[:, 0]
            for ring in rings
        ]
    rings = [ring for ring in rings if len(ring) >= 3]
    return sorted(rings, key=lambda ring: -cv2.contourArea(ring.astype(np.float32)))


def mask_areas(masks: np.ndarray) -> np.ndarray:
    """(N,) float64 pixels of (N,) run lengths."""
    # One by one: pycocotools fails for lists of more than 255 with numpy 2.
    return np.array([coco_mask.area(mask) for mask in masks], dtype=np.float64)


def shared_mask_areas(
    masks: np.ndarray, boxes_xyxy: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """(P,) float64 pixels that the masks of each pair share.

    Args:
        masks: (N,) run lengths.
        boxes_xyxy: (N, 4) their boxes, full-image pixels.
        first: (P,) indices.
        second: (P,) indices of their partners.
    """
    windows = mask_windows(boxes_xyxy)
    shared = np.zeros(len(first))
    for pair, (i, j) in enumerate(zip(first.tolist(), second.tolist())):
        x1, y1 = np.maximum(windows[i, :2], windows[j, :2])
        x2, y2 = np.minimum(windows[i, 2:], windows[j, 2:])
        if x1 < x2 and y1 < y2:
            a, b = (
                decode_mask(masks[k])[y1 - y : y2 - y, x1 - x : x2 - x]
                for k, (x, y) in ((i, windows[i, :2]), (j, windows[j, :2]))
            )
            shared[pair] = np.count_nonzero(a & b)
    return shared


def mask_areas_within(
    masks: np.ndarray, boxes_xyxy: np.ndarray, windows_xyxy: np.ndarray
) -> np.ndarray:
    """(N,) float64 pixels of each mask inside a window of its own.

    Args:
        masks: (N,) run lengths.
        boxes_xyxy: (N, 4) their boxes, full-image pixels.
        windows_xyxy: (N, 4) whole full-image pixels.
    """
    low = mask_windows(boxes_xyxy)[:, [0, 1, 0, 1]]
    cuts = (windows_xyxy.astype(np.int64) - low).clip(min=0).tolist()
    areas = [
        np.count_nonzero(decode_mask(mask)[y1:y2, x1:x2])
        for mask, (x1, y1, x2, y2) in zip(masks, cuts)
    ]
    return np.array(areas, dtype=np.float64)
