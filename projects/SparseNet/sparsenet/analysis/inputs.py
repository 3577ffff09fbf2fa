"""Inputs to measure a detector with, in Detectron2's form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from sparsenet.errors import ConfigError
from sparsenet.tiling.reader import open_image
from sparsenet.tiling.window import Window

DEFAULT_SIZE = (800, 1280)  # the size at which the papers of the sparse backbones state FLOPs


def default_input_size(cfg: CfgNode) -> tuple[int, int]:
    """(h, w): a tile where the configuration detects in tiles, otherwise 800 × 1280."""
    return (cfg.TEST.TILE.SIZE,) * 2 if cfg.TEST.TILE.ENABLED else DEFAULT_SIZE


def random_example(size: tuple[int, int], seed: int = 0) -> dict[str, Any]:
    """Noise (3, h, w), uint8, as one element of a detector's batch.

    Raises:
        ConfigError: If a side is below one pixel.
    """
    if min(size) < 1:
        raise ConfigError(f"--input-size must be two positive numbers of pixels, got {size}.")
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    return {"image": image, "height": size[0], "width": size[1]}


def image_example(
    path: str | Path,
    size: tuple[int, int],
    image_format: str = "RGB",
    *,
    downsample: float | None = None,
) -> dict[str, Any]:
    """The centre of an image file, resized to ``size``.

    Args:
        size: (h, w), pixels.
        image_format: "RGB" or "BGR".
        downsample: full-image pixels per pixel of the example; None, or where the image is too
            small for it, takes the largest part that has the aspect ratio of ``size``.

    Raises:
        ImageReadError: If the file cannot be read.
    """
    reader = open_image(path)
    full_height, full_width = reader.size
    largest = min(full_height / size[0], full_width / size[1])
    scale = min(downsample or largest, largest)
    height, width = max(1, int(size[0] * scale)), max(1, int(size[1] * scale))
    window = Window((full_width - width) // 2, (full_height - height) // 2, width, height)
    pixels = reader.read(window, max(1.0, scale))
    pixels = cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    pixels = pixels if image_format == "RGB" else pixels[:, :, ::-1]
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # (3, h, w)
    return {"image": image, "height": size[0], "width": size[1]}


def with_random_objects(
    example: dict[str, Any], num_objects: int, num_classes: int, seed: int = 0
) -> dict[str, Any]:
    """The example with ``instances`` for a training step: boxes of 2 to 20 % of the sides."""
    rng = np.random.default_rng(seed)
    size = example["image"].shape[-2:]
    sides = np.array([size[1], size[0]])
    extent = rng.uniform(0.02, 0.2, (num_objects, 2)) * sides
    corner = rng.random((num_objects, 2)) * (sides - extent)
    boxes = np.concatenate([corner, corner + extent], axis=1).astype(np.float32)
    instances = Instances(tuple(size))
    instances.gt_boxes = Boxes(torch.from_numpy(boxes))
    instances.gt_classes = torch.from_numpy(rng.integers(0, num_classes, num_objects))
    return {**example, "instances": instances}


def random_batch(
    cfg: CfgNode, size: tuple[int, int], *, batch_size: int, num_objects: int
) -> list[dict[str, Any]]:
    """Different noise images with random objects of the classes of ``MODEL.SparseRCNN``."""
    num_classes = cfg.MODEL.SparseRCNN.NUM_CLASSES
    return [
        with_random_objects(random_example(size, seed), num_objects, num_classes, seed)
        for seed in range(batch_size)
    ]
