"""Detection in files: what ``demo/demo.py`` does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from sparsenet.errors import ImageReadError
from sparsenet.gigapixel.exports import make_folder
from sparsenet.gigapixel.image_files import find_images, result_folders
from sparsenet.gigapixel.photo_predictor import PhotoPredictor
from sparsenet.gigapixel.predictor import (
    GigapixelPredictor,
    GigapixelResult,
    dataset_classes,
)
from sparsenet.gigapixel.report import ReportOptions, save_report
from sparsenet.modeling.trained_model import build_trained_model
from sparsenet.tiling.reader import ImageReader, open_image

logger = logging.getLogger(__name__)

Predictor = Callable[..., GigapixelResult]


@dataclass
class DetectionRun:
    """What became of each file.

    Args:
        summaries: The ``summary.json`` of each detected image, with its ``folder``.
        failures: Path and reason of each image that could not be read.
    """

    summaries: list[dict[str, Any]] = field(default_factory=list)
    failures: list[tuple[Path, str]] = field(default_factory=list)


def build_predictor(cfg: CfgNode, *, trust_checkpoint: bool = False) -> Predictor:
    """The model of a configuration with its weights, for tiles or for whole photos.

    Args:
        cfg: ``TEST.TILE.ENABLED`` decides which.
        trust_checkpoint: Allow weights that are pickles.

    Raises:
        ConfigError: If ``MODEL.WEIGHTS`` is empty.
        CheckpointError: If the weights cannot be read safely or fit nothing.
    """
    model, class_names = build_trained_model(cfg, trust_checkpoint=trust_checkpoint)
    if cfg.TEST.TILE.ENABLED:
        return GigapixelPredictor.from_cfg(cfg, model, class_names=class_names)
    return PhotoPredictor(cfg, model, class_names or dataset_classes(cfg))


def detect_files(
    predictor: Predictor,
    inputs: Sequence[str],
    output: Path,
    options: ReportOptions,
    *,
    max_pixels: float,
    on_result: Callable[[dict[str, Any]], None] = lambda summary: None,
) -> DetectionRun:
    """Detects in every image and writes one report folder for each.

    An image that cannot be read is noted, and the others go on.

    Args:
        predictor: See :func:`build_predictor`.
        inputs: Files, folders and patterns, see :func:`find_images`.
        output: Gets one folder per image.
        options: Of the reports.
        max_pixels: Larger images are refused from their header.
        on_result: Called with each summary as soon as it is there.

    Raises:
        ImageReadError: If a folder or pattern holds no image.
        OutputError: If the results cannot be written.
    """
    paths = find_images(inputs)
    make_folder(output)
    run = DetectionRun()
    for path, folder in zip(paths, result_folders(paths, output)):
        try:
            reader = open_image(path, max_pixels=max_pixels)
            summary = _detect_one(predictor, reader, folder, options)
        except ImageReadError as error:
            logger.error("%s", error)
            run.failures.append((path, str(error)))
            continue
        run.summaries.append(summary)
        on_result(summary)
    return run


def _detect_one(
    predictor: Predictor, reader: ImageReader, folder: Path, options: ReportOptions
) -> dict[str, Any]:
    result = predictor(reader, progress=options.progress)
    return {**save_report(result, reader, folder, options), "folder": str(folder)}
