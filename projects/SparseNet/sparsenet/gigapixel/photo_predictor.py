"""Ordinary photos through the model as a whole, as Detectron2's predictor does it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from torch import nn

from sparsenet.errors import ImageReadError
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.predictor import GigapixelResult
from sparsenet.tiling.reader import ArrayReader, ImageReader, open_image
from sparsenet.tiling.window import Window

# A photo is held in memory, resized to some 1333 pixels; objects of a larger image would vanish.
MAX_PHOTO_PIXELS = 100_000_000


class PhotoPredictor:
    """Detects in an image that is resized as a whole (``INPUT.MIN_SIZE_TEST``), without tiles.

    The counterpart of :class:`~sparsenet.gigapixel.predictor.GigapixelPredictor` for
    ``TEST.TILE.ENABLED: False``, with the same result.

    Args:
        cfg: The configuration.
        model: A detector with its weights, on its device; put into evaluation mode.
        class_names: Names by class index; may be empty.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, class_names: Sequence[str] = ()) -> None:
        self.model = model.eval()
        self.class_names = tuple(class_names)
        self._is_bgr = cfg.INPUT.FORMAT == "BGR"
        self._resize = ResizeShortestEdge(
            [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST
        )
        self._score_threshold = cfg.TEST.TILE.SCORE_THRESHOLD

    def __call__(
        self, image: str | os.PathLike[str] | np.ndarray | ImageReader, *, progress: bool = False
    ) -> GigapixelResult:
        """Detects the objects of one photo.

        Args:
            image: A file, (h, w, 3) uint8 RGB pixels, or an open reader.
            progress: Not used: a photo takes one step.

        Raises:
            ImageReadError: If the image cannot be read, or needs tiles.
        """
        start = time.perf_counter()
        reader = _open(image)
        height, width = reader.size
        pixels = reader.read(Window(0, 0, width, height))
        resized = self._resize.get_transform(pixels).apply_image(pixels)
        if self._is_bgr:
            resized = resized[:, :, ::-1]
        decoded = time.perf_counter()
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        with torch.inference_mode():
            output = self.model([{"image": tensor, "height": height, "width": width}])[0]
        detections = self._to_detections(output["instances"].to("cpu"), (height, width))
        end = time.perf_counter()
        timings = {
            "decode": decoded - start,
            "detect": end - decoded,
            "merge": 0.0,
            "total": end - start,
        }
        return GigapixelResult(detections, timings, 1, resized.shape[0] * resized.shape[1])

    def _to_detections(self, instances: object, image_size: tuple[int, int]) -> Detections:
        scores = instances.scores.numpy()  # type: ignore[attr-defined]
        found = Detections(
            boxes_xyxy=instances.pred_boxes.tensor.numpy(),  # type: ignore[attr-defined]
            scores=scores,
            classes=instances.pred_classes.numpy(),  # type: ignore[attr-defined]
            truncated=np.zeros(len(scores), dtype=bool),
            tile_ids=np.zeros(len(scores), dtype=np.int64),
            image_size=image_size,
            class_names=self.class_names,
        )
        found = found.above(self._score_threshold)
        return found[np.argsort(-found.scores, kind="stable")]


def _open(image: str | os.PathLike[str] | np.ndarray | ImageReader) -> ImageReader:
    if isinstance(image, np.ndarray):
        return ArrayReader(image)
    reader = open_image(image) if isinstance(image, (str, os.PathLike)) else image
    height, width = reader.size
    if height * width > MAX_PHOTO_PIXELS:
        raise ImageReadError(
            f"{reader.path}: {width} × {height} pixels are too many to be detected in as one photo "
            f"(limit {MAX_PHOTO_PIXELS:,}). Set TEST.TILE.ENABLED True to go tile by tile."
        )
    return reader
