"""Ordinary photos through the model as a whole, as Detectron2's predictor does it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from torch import nn

from sparsenet.errors import ConfigError, ImageReadError
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.options import TileOptions
from sparsenet.gigapixel.progress import OnProgress, ProgressTracker
from sparsenet.gigapixel.result import GigapixelResult
from sparsenet.gigapixel.tile_batch import tile_detections
from sparsenet.gigapixel.tile_rows import model_settings, run_manifest, weights_hash
from sparsenet.gigapixel.tile_runner import detect_unpasted
from sparsenet.tiling.grid import Tile
from sparsenet.tiling.level_reader import ImageReader
from sparsenet.tiling.reader import ArrayReader, open_image
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
        self._sides = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        self._resize = ResizeShortestEdge([self._sides[0], self._sides[0]], self._sides[1])
        self._options = TileOptions(score_threshold=cfg.TEST.TILE.SCORE_THRESHOLD)
        self._settings = model_settings(cfg)
        self._weights: str | None = None  # their hash, once it was needed

    def __call__(
        self,
        image: str | os.PathLike[str] | np.ndarray | ImageReader,
        *,
        progress: bool = False,
        on_progress: OnProgress | None = None,
        rows_folder: str | os.PathLike[str] | None = None,
    ) -> GigapixelResult:
        """Detects the objects of one photo.

        Args:
            image: A file, (h, w, 3) uint8 RGB pixels, or an open reader.
            progress: Not used: a photo takes one step.
            on_progress: Told of the beginning and the end.
            rows_folder: Not used, for the same reason.

        Raises:
            ImageReadError: If the image cannot be read, or needs tiles.
            ConfigError: If the photo exceeds the GPU's memory.
        """
        start = time.perf_counter()
        reader = _open(image)
        tracker = ProgressTracker(reader.path, [on_progress] if on_progress else [])
        tracker.select(1, 0, {})
        height, width = reader.size
        pixels = reader.read(Window(0, 0, width, height))
        resized = self._resize.get_transform(pixels).apply_image(pixels)
        if self._is_bgr:
            resized = resized[:, :, ::-1]
        decoded = time.perf_counter()
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        instances = self._detect({"image": tensor, "height": height, "width": width})
        detections = self._to_detections(instances, (height, width))
        end = time.perf_counter()
        timings = {
            "decode": decoded - start,
            "detect": end - decoded,
            "merge": 0.0,
            "total": end - start,
        }
        num_pixels = resized.shape[0] * resized.shape[1]
        tracker.add(1, num_pixels)
        tracker.end({"seconds": timings, "num_detections": len(detections)})
        return GigapixelResult(detections, timings, 1, num_pixels)

    def manifest(self, reader: ImageReader) -> dict[str, Any]:
        """See :meth:`GigapixelPredictor.manifest`."""
        if self._weights is None:
            self._weights = weights_hash(self.model)
        settings = (self._sides, self._is_bgr, self._options.score_threshold, self._settings)
        return run_manifest(reader.path, settings, self._weights)

    def _detect(self, item: dict[str, Any]) -> Any:
        """The model's ``Instances`` in full-image pixels."""
        try:
            with torch.inference_mode():
                return detect_unpasted(self.model, [item])[0]["instances"]
        except torch.cuda.OutOfMemoryError as error:
            height, width = item["image"].shape[1:]
            raise ConfigError(
                f"The GPU's memory must hold the resized photo, {width} × {height} pixels do not "
                f"fit. Lower INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST, now {self._sides}."
            ) from error

    def _to_detections(self, instances: Any, image_size: tuple[int, int]) -> Detections:
        height, width = image_size
        photo = Tile(0, 0, Window(0, 0, width, height), downsample=1, seams=(False,) * 4)
        found = tile_detections(instances, photo, 0, self._options, image_size=image_size)
        found = replace(found, class_names=self.class_names)
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
