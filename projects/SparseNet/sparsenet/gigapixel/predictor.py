"""Detection in images of any size: stream, batch, detect, merge.

A thread decodes the file once, from top to bottom, and cuts tiles of all downsamples; the model
runs on batches of them meanwhile; the boxes go back to full-image pixels and are merged by the seam
rule. Memory does not grow with the height of the image.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn
from tqdm import tqdm

from sparsenet.config import load_config
from sparsenet.errors import ConfigError
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.merge import merge_detections
from sparsenet.gigapixel.options import TileOptions
from sparsenet.gigapixel.prefetch import Prefetcher
from sparsenet.gigapixel.tile_batch import TileBatch, pack_tiles, tile_detections
from sparsenet.modeling.trained_model import build_trained_model
from sparsenet.tiling import ArrayReader, ImageReader, Tile, TileGrid, open_image, stream_tiles

logger = logging.getLogger(__name__)

# A tile in which more than this share of the proposals are detections may have lost some.
_SATURATION = 0.9


@dataclass(frozen=True)
class GigapixelResult:
    """What was found in one image, and what it took.

    Args:
        detections: Merged, best first, full-image pixels.
        timings: Seconds by part. ``decode`` (reading, shrinking and cutting) and ``detect`` (the
            model) run at the same time, so that their sum may exceed ``total``; ``merge`` follows.
        num_tiles: Tiles that went through the model.
        num_tile_pixels: Pixels that went through the model, padding included.
    """

    detections: Detections
    timings: dict[str, float]
    num_tiles: int
    num_tile_pixels: int


@dataclass(eq=False)
class GigapixelPredictor:
    """Detects objects in whole images with any Detectron2 model.

    The model takes ``list[{"image": (3, H, W) uint8 tensor, "height", "width"}]`` and returns
    ``list[{"instances": Instances}]`` with ``pred_boxes``, ``scores`` and ``pred_classes``. It is
    put into evaluation mode. All tiles have one shape; what lies beyond the image border is filled
    with ``pad_value``, and boxes are clipped to the image.

    Args:
        model: The detector.
        class_names: Names by class index; may be empty.
        tile: Tiles and merging.
        image_format: Channel order that the model expects, "RGB" or "BGR".
        pad_value: Three grey levels in ``image_format`` order; the model's pixel mean is neutral.
        num_proposals: Detections that the model can return per tile; a tile that uses more than
            90 % of them is warned of. None does not check.
        device: Where the model is moved to; None leaves it where it is.
        use_bf16: Runs the model under autocast to bfloat16.
        channels_last: Lays out the model's weights for faster convolutions.
    """

    model: nn.Module
    class_names: Sequence[str] = ()
    tile: TileOptions = field(default_factory=TileOptions)
    image_format: str = "RGB"
    pad_value: Sequence[float] = (0.0, 0.0, 0.0)
    num_proposals: int | None = None
    device: str | torch.device | None = None
    use_bf16: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.image_format not in ("RGB", "BGR"):
            raise ConfigError(f"image_format must be RGB or BGR, got {self.image_format!r}.")
        if self.device is not None:
            self.model.to(self.device)
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.model.eval()
        self._batch_limit = self.tile.batch_size
        self._has_warned = False

    @classmethod
    def from_cfg(
        cls,
        cfg: CfgNode,
        model: nn.Module | None = None,
        *,
        class_names: Sequence[str] | None = None,
        **options: Any,
    ) -> GigapixelPredictor:
        """Makes a predictor from a configuration.

        Args:
            cfg: With the keys of :func:`sparsenet.config.add_sparsenet_config`.
            model: A model with its weights; None builds one and loads ``cfg.MODEL.WEIGHTS``.
            class_names: None takes those stored with the weights, or of the test dataset.
            options: ``device``, ``use_bf16``, ``channels_last``.

        Raises:
            ConfigError: If a model is to be built and ``MODEL.WEIGHTS`` is empty.
            CheckpointError: If the weights cannot be read or fit nothing.
        """
        stored: Sequence[str] = ()
        if model is None:
            model, stored = build_trained_model(cfg)
        is_sparse_rcnn = cfg.MODEL.META_ARCHITECTURE == "SparseRCNN"
        return cls(
            model,
            class_names=tuple(class_names or stored or dataset_classes(cfg)),
            tile=TileOptions.from_cfg(cfg),
            image_format=cfg.INPUT.FORMAT,
            pad_value=tuple(cfg.MODEL.PIXEL_MEAN),
            num_proposals=cfg.MODEL.SparseRCNN.NUM_PROPOSALS if is_sparse_rcnn else None,
            **options,
        )

    @classmethod
    def from_config_file(
        cls,
        config_file: str | os.PathLike[str],
        *,
        weights: str | os.PathLike[str] | None = None,
        opts: Sequence[str] = (),
        **options: Any,
    ) -> GigapixelPredictor:
        """Makes a predictor from a YAML file.

        Args:
            config_file: A file of ``configs/``.
            weights: Replaces ``MODEL.WEIGHTS``.
            opts: ``KEY VALUE ...``, as on the command line.
            options: ``class_names``, ``device``, ``use_bf16``, ``channels_last``.
        """
        cfg = load_config(str(config_file), opts)
        if weights is not None:
            cfg.MODEL.WEIGHTS = str(weights)
        if not torch.cuda.is_available() and cfg.MODEL.DEVICE == "cuda":
            cfg.MODEL.DEVICE = "cpu"
        cfg.freeze()
        return cls.from_cfg(cfg, **options)

    def __call__(
        self, image: str | os.PathLike[str] | np.ndarray | ImageReader, *, progress: bool = True
    ) -> GigapixelResult:
        """Detects the objects of one image.

        Args:
            image: A file, (h, w, 3) uint8 RGB pixels, or an open reader.
            progress: Shows a progress bar.

        Raises:
            ImageReadError: If the image cannot be read, is truncated, or too large.
        """
        start = time.perf_counter()
        reader = self._open(image)
        grids = self.tile.grids(reader.size)
        found, timings = self._detect_tiles(reader, grids, progress)
        before_merge = time.perf_counter()
        merged = merge_detections(
            found,
            iou_threshold=self.tile.merge_iou,
            containment_threshold=self.tile.merge_containment,
            max_detections=self.tile.max_detections,
        )
        end = time.perf_counter()
        timings |= {"merge": end - before_merge, "total": end - start}
        num_tiles = sum(len(grid) for grid in grids)
        return GigapixelResult(merged, timings, num_tiles, num_tiles * self.tile.size**2)

    def _detect_tiles(
        self, reader: ImageReader, grids: list[TileGrid], progress: bool
    ) -> tuple[Detections, dict[str, float]]:
        """All tiles' detections, not merged, and the seconds of decoding and of the model."""
        parts = [Detections.empty(reader.size)]
        detect_seconds = 0.0
        batches = Prefetcher(
            pack_tiles(
                stream_tiles(reader, grids),
                batch_size=self.tile.batch_size,
                size=self.tile.size,
                image_format=self.image_format,
                pad_value=self.pad_value,
            )
        )
        num_tiles = sum(len(grid) for grid in grids)
        name = os.path.basename(reader.path)
        with batches, tqdm(total=num_tiles, unit="tile", desc=name, disable=not progress) as bar:
            for batch in batches:
                before = time.perf_counter()
                parts += self._detect(batch, reader.size)
                detect_seconds += time.perf_counter() - before
                bar.update(len(batch.tiles))
        timings = {"decode": batches.busy_seconds, "detect": detect_seconds}
        return replace(Detections.cat(parts), class_names=tuple(self.class_names)), timings

    def _open(self, image: str | os.PathLike[str] | np.ndarray | ImageReader) -> ImageReader:
        if isinstance(image, np.ndarray):
            return ArrayReader(image)
        if isinstance(image, (str, os.PathLike)):
            return open_image(image, max_pixels=self.tile.max_pixels)
        return image

    def _detect(self, batch: TileBatch, image_size: tuple[int, int]) -> list[Detections]:
        """Runs the model on as many tiles at once as the memory has been found to hold."""
        found: list[Detections] = []
        while len(found) < len(batch.tiles):
            part = batch.part(len(found), len(found) + self._batch_limit)
            outputs = self._try_model(part)
            if outputs is None:
                self._halve_batches(len(part.tiles))
                continue
            for output, tile_id, tile in zip(outputs, part.tile_ids, part.tiles):
                detections = tile_detections(
                    output["instances"], tile, tile_id, self.tile, image_size=image_size
                )
                self._check_saturation(len(detections), tile)
                found.append(detections)
        return found

    def _try_model(self, batch: TileBatch) -> list[dict[str, Any]] | None:
        """The model's outputs, or None where several tiles at once exceed the GPU's memory."""
        try:
            return self._run_model(batch.pixels)
        except torch.cuda.OutOfMemoryError:
            if len(batch.tiles) == 1:
                raise
            return None

    def _halve_batches(self, num_tiles: int) -> None:
        torch.cuda.empty_cache()
        self._batch_limit = num_tiles // 2
        logger.warning(
            "Out of GPU memory with %d tiles at once; going on with %d. Set "
            "TEST.TILE.BATCH_SIZE to it to save the attempt.",
            num_tiles,
            self._batch_limit,
        )

    def _run_model(self, pixels: torch.Tensor) -> list[dict[str, Any]]:
        height, width = pixels.shape[-2:]
        inputs = [{"image": image, "height": height, "width": width} for image in pixels]
        device = next((p.device.type for p in self.model.parameters()), "cpu")
        with (
            torch.inference_mode(),
            torch.autocast(device, dtype=torch.bfloat16, enabled=self.use_bf16),
        ):
            return self.model(inputs)

    def _check_saturation(self, num_found: int, tile: Tile) -> None:
        if self.num_proposals is None or self._has_warned:
            return
        if num_found > _SATURATION * self.num_proposals:
            self._has_warned = True
            logger.warning(
                "A tile is saturated: %d of %d proposals are detections above the score threshold "
                "%g in %s at downsample %d, so some objects may be missing. Use smaller tiles "
                "(TEST.TILE.SIZE), a finer downsample, or a model with more proposals.",
                num_found,
                self.num_proposals,
                self.tile.score_threshold,
                tile.window,
                tile.downsample,
            )


def dataset_classes(cfg: CfgNode) -> Sequence[str]:
    """Class names of the first test or training dataset that has some registered."""
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        classes = MetadataCatalog.get(name).get("thing_classes", None)
        if classes:
            return tuple(classes)
    return ()
