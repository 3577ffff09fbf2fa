"""Detection in images of any size: select, stream, batch, detect, hand over, merge.

A thread decodes the file from top to bottom and cuts the tiles that were selected; the model runs
on batches of them meanwhile; the boxes go back to full-image pixels, each downsample keeps what it
is good at, and the seam rule merges the rest. Memory does not grow with the height of the image.
Finished tile rows can be kept on disk, and the rows shared out among processes.
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
from detectron2.utils import comm

from sparsenet.config import load_config
from sparsenet.errors import ConfigError
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.hand_over import hand_over
from sparsenet.gigapixel.image_run import ImageRun, TileModel
from sparsenet.gigapixel.merge import merge_detections
from sparsenet.gigapixel.options import TileOptions
from sparsenet.gigapixel.probes import count_probe_hits
from sparsenet.gigapixel.progress import OnProgress, ProgressBar, ProgressTracker
from sparsenet.gigapixel.result import GigapixelResult
from sparsenet.gigapixel.selection import TileSelection
from sparsenet.gigapixel.tile_batch import numbered_tile, tile_windows
from sparsenet.gigapixel.tile_rows import (
    RowStore,
    file_hash,
    model_settings,
    run_manifest,
    weights_hash,
)
from sparsenet.gigapixel.tile_runner import Model, RunOptions, TileRunner
from sparsenet.modeling.trained_model import build_trained_model
from sparsenet.tiling import ArrayReader, ImageReader, TileGrid, open_image

__all__ = ["GigapixelPredictor", "GigapixelResult", "dataset_classes"]

logger = logging.getLogger(__name__)

# A tile with more than this share of the detections that a model can return may have lost some.
_SATURATION = 0.9

# Tile options that change no result, and those that matter only once all tile rows are there.
_WITHOUT_EFFECT = ("batch_size",)
_AFTER_ROWS = (
    "merge",
    "merge_iou",
    "merge_containment",
    "max_detections",
    "hand_over",
    "max_pixels",
)


@dataclass(eq=False)
class GigapixelPredictor:
    """Detects objects in whole images with any Detectron2 model.

    The model takes ``list[{"image": (3, H, W) uint8 tensor, "height", "width"}]`` and returns
    ``list[{"instances": Instances}]`` with ``pred_boxes``, ``scores`` and ``pred_classes``, and
    optionally ``pred_masks``. An ``nn.Module`` is put into evaluation mode; any other callable is
    called as it is. All tiles have one shape; what lies beyond the image border is filled
    with ``pad_value``, and boxes are clipped to the image.

    Args:
        model: The detector.
        class_names: Names by class index; may be empty.
        tile: Tiles, their selection, and merging.
        image_format: Channel order that the model expects, "RGB" or "BGR".
        pad_value: Three grey levels in ``image_format`` order; the model's pixel mean is neutral.
        num_proposals: Detections that the model can return per tile, such as the proposals of
            Sparse R-CNN; tiles that use more than 90 % of them are warned of. None does not check.
        device: See :class:`~sparsenet.gigapixel.tile_runner.RunOptions`, as the next three.
        use_bf16: Runs the model under autocast to bfloat16.
        channels_last: Lays out the model's weights for faster convolutions.
        use_compile: Compiles the model's backbone.
        shares_rows: Each process of ``torch.distributed`` runs a share of the tile rows; all must
            be called with the same images and return the same results. False: each process runs
            its images alone.
        settings: What else than its weights decides on the model's outputs; for ``rows_folder``,
            which needs it where the model has no weights: name the detector, its file and options.
    """

    model: Model
    class_names: Sequence[str] = ()
    tile: TileOptions = field(default_factory=TileOptions)
    image_format: str = "RGB"
    pad_value: Sequence[float] = (0.0, 0.0, 0.0)
    num_proposals: int | None = None
    device: str | torch.device | None = None
    use_bf16: bool = False
    channels_last: bool = False
    use_compile: bool = False
    shares_rows: bool = False
    settings: str = ""

    def __post_init__(self) -> None:
        if self.image_format not in ("RGB", "BGR"):
            raise ConfigError(f"image_format must be RGB or BGR, got {self.image_format!r}.")
        options = RunOptions(self.device, self.use_bf16, self.channels_last, self.use_compile)
        self._model = TileModel(
            runner=TileRunner(self.model, options, self.tile.batch_size),
            image_format=self.image_format,
            pad_value=tuple(self.pad_value),
            expects_objects=self.tile.select.mode == "coarse_to_fine",
        )
        self._weights: str | None = None  # their hash, once it was needed

    @classmethod
    def from_cfg(
        cls,
        cfg: CfgNode,
        model: Model | None = None,
        *,
        class_names: Sequence[str] | None = None,
        **options: Any,
    ) -> GigapixelPredictor:
        """Makes a predictor from a configuration.

        Args:
            cfg: With the keys of :func:`sparsenet.config.add_sparsenet_config`.
            model: A model with its weights; None builds one and loads ``cfg.MODEL.WEIGHTS``.
            class_names: None takes those stored with the weights, or of the test dataset.
            options: ``device``, ``use_bf16``, ``channels_last``, ``use_compile``, ``shares_rows``.

        Raises:
            ConfigError: If a model is to be built and ``MODEL.WEIGHTS`` is empty.
            CheckpointError: If the weights cannot be read or fit nothing.
        """
        stored: Sequence[str] = ()
        if model is None:
            model, stored = build_trained_model(cfg)
        is_sparse_rcnn = cfg.MODEL.META_ARCHITECTURE == "SparseRCNN"
        limit = max(0, cfg.TEST.DETECTIONS_PER_IMAGE) or None  # -1: no limit
        return cls(
            model,
            class_names=tuple(class_names or stored or dataset_classes(cfg)),
            tile=TileOptions.from_cfg(cfg),
            image_format=cfg.INPUT.FORMAT,
            pad_value=tuple(cfg.MODEL.PIXEL_MEAN),
            num_proposals=cfg.MODEL.SparseRCNN.NUM_PROPOSALS if is_sparse_rcnn else limit,
            settings=model_settings(cfg),
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
            options: ``class_names`` and those of :meth:`from_cfg`.
        """
        cfg = load_config(str(config_file), opts)
        if weights is not None:
            cfg.MODEL.WEIGHTS = str(weights)
        if not torch.cuda.is_available() and cfg.MODEL.DEVICE == "cuda":
            cfg.MODEL.DEVICE = "cpu"
        cfg.freeze()
        return cls.from_cfg(cfg, **options)

    def __call__(
        self,
        image: str | os.PathLike[str] | np.ndarray | ImageReader,
        *,
        progress: bool = True,
        on_progress: OnProgress | None = None,
        rows_folder: str | os.PathLike[str] | None = None,
    ) -> GigapixelResult:
        """Detects the objects of one image.

        Args:
            image: A file, (h, w, 3) uint8 RGB pixels, or an open reader.
            progress: Shows a progress bar.
            on_progress: Called with every :class:`~sparsenet.gigapixel.progress.ProgressEvent`.
            rows_folder: Keeps finished tile rows there, and goes on from those that an earlier run
                of the same file, options and weights left. None keeps nothing.

        Raises:
            ImageReadError: If the image cannot be read, is truncated, or too large.
            AnnotationError: If the mask cannot be read or does not meet the image.
            ConfigError: If ``rows_folder`` is given and the image is no file, or the model has
                neither weights nor ``settings``; if a tile exceeds the GPU's memory.
            OutputError: If it cannot be written.
        """
        start = time.perf_counter()
        reader = self._open(image)
        store = self._open_store(reader, rows_folder) if rows_folder is not None else None
        bar = ProgressBar() if progress else None
        tracker = ProgressTracker(reader.path, [f for f in (bar, on_progress) if f is not None])
        try:
            run = ImageRun(
                reader, self._model, self.tile, tracker, store=store, shares_rows=self.shares_rows
            )
            run.detect()
            result = self._merge(run, start)
            tracker.end({"seconds": result.timings, "num_detections": len(result)})
        finally:
            if bar is not None:
                bar.close()
        return result

    def _open(self, image: str | os.PathLike[str] | np.ndarray | ImageReader) -> ImageReader:
        if isinstance(image, np.ndarray):
            return ArrayReader(image)
        if isinstance(image, (str, os.PathLike)):
            return open_image(image, max_pixels=self.tile.max_pixels)
        return image

    def manifest(self, reader: ImageReader) -> dict[str, Any]:
        """What a result depends on: the image file, the options and the weights.

        Raises:
            ConfigError: If the image is no file, or nothing tells the model from others.
        """
        return self._manifest(reader, _WITHOUT_EFFECT)

    def _manifest(self, reader: ImageReader, ignored: Sequence[str]) -> dict[str, Any]:
        """:meth:`manifest`, the same for all values of the ignored tile options."""
        if not os.path.exists(reader.path):
            raise ConfigError(
                f"Only tile rows of an image file can be kept, got {reader.path}. Pass a file, or "
                "rows_folder=None."
            )
        if self._weights is None:
            self._weights = weights_hash(self.model)
        if not (self._weights or self.settings):
            raise ConfigError(
                "Tile rows can only be kept of a model that can be told from others, got one "
                "without weights. Say what it is, GigapixelPredictor(..., settings='yolox_nano, "
                "score 0.3'), or pass rows_folder=None."
            )
        settings = (
            replace(self.tile, **{name: getattr(TileOptions, name) for name in ignored}),
            self.image_format,
            tuple(self.pad_value),
            self.use_bf16,
            self.settings,
            file_hash(self.tile.select.mask),
        )
        return run_manifest(reader.path, settings, self._weights)

    def _open_store(self, reader: ImageReader, folder: str | os.PathLike[str]) -> RowStore:
        manifest = self._manifest(reader, _WITHOUT_EFFECT + _AFTER_ROWS)
        if not self.shares_rows:
            return RowStore(folder, manifest)
        if comm.is_main_process():  # prepares the folder, the others find it prepared
            RowStore(folder, manifest)
        comm.synchronize()
        return RowStore(folder, manifest)

    def _merge(self, run: ImageRun, start: float) -> GigapixelResult:
        """The detections of all tiles -> those of the image, with what they took."""
        before = time.perf_counter()
        empty = Detections.empty(run.reader.size)
        found = Detections.cat([empty, *(row.detections for row in run.rows)])
        found = replace(found, class_names=tuple(self.class_names))
        num_saturated = self._count_saturated(found, run.grids)
        handed = hand_over(found, run.levels, self.tile)
        merged = merge_detections(
            handed,
            method=self.tile.merge,
            iou_threshold=self.tile.merge_iou,
            containment_threshold=self.tile.merge_containment,
            max_detections=self.tile.max_detections,
            tile_windows=tile_windows(run.grids),
        )
        end = time.perf_counter()
        num_probes_hit = count_probe_hits(merged, handed, run.levels, self.tile)
        selection = TileSelection(tuple(run.levels), num_probes_hit)
        return GigapixelResult(
            merged,
            timings={**run.seconds, "merge": end - before, "total": end - start},
            num_tiles=selection.num_kept,
            num_tile_pixels=selection.num_kept_pixels,
            selection=selection,
            num_saturated_tiles=num_saturated,
        )

    def _count_saturated(self, found: Detections, grids: Sequence[TileGrid]) -> int:
        """The number of tiles with nearly all detections that they can have; warns of them once."""
        if self.num_proposals is None or not len(found):
            return 0
        counts = np.bincount(found.tile_ids)
        num_saturated = int((counts > _SATURATION * self.num_proposals).sum())
        if num_saturated and (comm.is_main_process() or not self.shares_rows):
            worst = numbered_tile(int(counts.argmax()), grids)
            logger.warning(
                "%d tiles are saturated: up to %d detections above the score threshold %g, of %d "
                "that the model can return, so some objects may be missing; most in %s at "
                "downsample %d. Use smaller tiles (TEST.TILE.SIZE), a finer downsample, or a model "
                "with more proposals (other than Sparse R-CNN: TEST.DETECTIONS_PER_IMAGE).",
                num_saturated,
                counts.max(),
                self.tile.score_threshold,
                self.num_proposals,
                worst.window,
                worst.downsample,
            )
        return num_saturated


def dataset_classes(cfg: CfgNode) -> Sequence[str]:
    """Class names of the first test or training dataset that has some registered."""
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        classes = MetadataCatalog.get(name).get("thing_classes", None)
        if classes:
            return tuple(classes)
    return ()
