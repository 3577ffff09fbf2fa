"""A detector without weights: bright connected areas on a dark ground are the objects."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from scipy import ndimage
from torch import nn


class BlobDetector(nn.Module):
    """Finds connected areas above a grey level in one channel; the middle channel tells the class.

    Args:
        channel: The channel that is looked at.
        threshold: Grey level.
        smallest: Areas with a shorter side than this many tile pixels are not seen.
        largest: Areas with a longer side than this many tile pixels are not seen.
    """

    def __init__(self, channel=0, threshold=128, smallest=2, largest=10_000):
        super().__init__()
        self.channel, self.threshold = channel, threshold
        self.smallest, self.largest = smallest, largest
        self.inputs: list[list[torch.Tensor]] = []  # of every call

    def forward(self, inputs):
        self.inputs.append([item["image"] for item in inputs])
        return [{"instances": self.find(item["image"])} for item in inputs]

    def find(self, image: torch.Tensor) -> Instances:
        bright = image[self.channel].numpy() > self.threshold
        areas = ndimage.find_objects(ndimage.label(bright)[0])
        boxes = [[x.start, y.start, x.stop, y.stop] for y, x in areas]
        boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        sides = boxes[:, 2:] - boxes[:, :2]
        boxes = boxes[(sides.min(1) >= self.smallest) & (sides.max(1) <= self.largest)]
        sides = boxes[:, 2:] - boxes[:, :2]
        centres = ((boxes[:, :2] + boxes[:, 2:]) // 2).astype(int)
        return Instances(
            image.shape[-2:],
            pred_boxes=Boxes(torch.from_numpy(boxes)),
            scores=torch.from_numpy(0.5 + 0.4 / (1 + np.exp(-sides.mean(1) / 50))).float(),
            pred_classes=(image[1, centres[:, 1], centres[:, 0]] > self.threshold).long(),
        )


def plant(image_size, boxes, colour=(250, 20, 20), seed=0) -> np.ndarray:
    """(h, w, 3) uint8: dark noise with filled rectangles at whole-pixel ``boxes``."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (*image_size, 3), dtype=np.uint8)
    for x, y, x2, y2 in boxes:
        pixels[y:y2, x:x2] = colour
    return pixels


def scattered_boxes(image_size, num, side_range, seed=0, gap=6) -> np.ndarray:
    """(n <= num, 4) int64 boxes at least ``gap`` pixels apart."""
    rng = np.random.default_rng(seed)
    height, width = image_size
    taken = np.zeros(image_size, dtype=bool)
    boxes = []
    for _ in range(num):
        h, w = rng.integers(*side_range, 2)
        x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
        around = (slice(max(0, y - gap), y + h + gap), slice(max(0, x - gap), x + w + gap))
        if not taken[around].any():
            taken[around] = True
            boxes.append([x, y, x + w, y + h])
    return np.array(boxes)
