"""Detection in files: what ``demo/demo.py`` does."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils import comm

from sparsenet.engine.processes import run_processes
from sparsenet.errors import AnnotationError, ImageReadError, OutputError
from sparsenet.files import make_folder, read_json, write_json
from sparsenet.gigapixel.image_files import find_images, result_folders
from sparsenet.gigapixel.patient_gather import all_gather
from sparsenet.gigapixel.photo_predictor import PhotoPredictor
from sparsenet.gigapixel.predictor import (
    GigapixelPredictor,
    GigapixelResult,
    dataset_classes,
)
from sparsenet.gigapixel.progress import JsonLog, OnProgress
from sparsenet.gigapixel.report import ReportOptions, save_report
from sparsenet.gigapixel.tile_rows import remove_rows
from sparsenet.modeling.trained_model import build_trained_model
from sparsenet.tiling.level_reader import ImageReader
from sparsenet.tiling.reader import open_image

logger = logging.getLogger(__name__)

# In the folder of an image: finished tile rows while it runs, and what it was made from afterwards.
_ROWS = "tile_rows"
_FINISHED = "finished.json"
_SUMMARY = "summary.json"  # of save_report


class Predictor(Protocol):
    """What detects in one image, by tiles or as a whole."""

    @property
    def class_names(self) -> Sequence[str]:
        """Names by class index; may be empty."""
        ...

    def __call__(
        self,
        image: str | os.PathLike[str] | np.ndarray | ImageReader,
        *,
        progress: bool = True,
        on_progress: OnProgress | None = None,
        rows_folder: str | os.PathLike[str] | None = None,
    ) -> GigapixelResult:
        """See :class:`GigapixelPredictor`."""
        ...

    def manifest(self, reader: ImageReader) -> dict[str, Any]:
        """What a result depends on: file, options and weights."""
        ...


@dataclass(frozen=True)
class DetectionJob:
    """What to detect in, with what, and what to write.

    Args:
        cfg: With ``MODEL.WEIGHTS``.
        inputs: Files, folders and patterns, see :func:`find_images`.
        output: Gets one folder per image.
        report: Of the reports.
        resume: Images that an earlier run has finished, with the same options and weights, are
            left; one that it has begun goes on from its finished tile rows.
        log_json: Gets a JSON line per step; None for none. Process ``n`` above 0 writes its images
            to a file of its own, with ``.n`` added.
        trust_checkpoint: Allow weights that are pickles.
        hardware: ``use_bf16``, ``channels_last``, ``use_compile`` of :class:`GigapixelPredictor`.
    """

    cfg: CfgNode
    inputs: tuple[str, ...]
    output: Path
    report: ReportOptions = field(default_factory=ReportOptions)
    resume: bool = False
    log_json: Path | None = None
    trust_checkpoint: bool = False
    hardware: dict[str, bool] = field(default_factory=dict)


@dataclass
class DetectionRun:
    """What became of each file.

    Args:
        summaries: The ``summary.json`` of each detected image, with its ``folder``.
        failures: Path and reason of each image that could not be read.
    """

    summaries: list[dict[str, Any]] = field(default_factory=list)
    failures: list[tuple[Path, str]] = field(default_factory=list)


OnResult = Callable[[dict[str, Any]], None]


def build_predictor(
    cfg: CfgNode,
    *,
    trust_checkpoint: bool = False,
    shares_rows: bool = False,
    **hardware: bool,
) -> Predictor:
    """The model of a configuration with its weights, for tiles or for whole photos.

    Args:
        cfg: ``TEST.TILE.ENABLED`` decides which.
        trust_checkpoint: Allow weights that are pickles.
        shares_rows: See :class:`GigapixelPredictor`.
        hardware: ``use_bf16``, ``channels_last``, ``use_compile``; without effect on photos.

    Raises:
        ConfigError: If ``MODEL.WEIGHTS`` is empty.
        CheckpointError: If the weights cannot be read safely or fit nothing.
    """
    model, class_names = build_trained_model(cfg, trust_checkpoint=trust_checkpoint)
    if cfg.TEST.TILE.ENABLED:
        return GigapixelPredictor.from_cfg(
            cfg, model, class_names=class_names, shares_rows=shares_rows, **hardware
        )
    return PhotoPredictor(cfg, model, class_names or dataset_classes(cfg))


def run_detection(
    job: DetectionJob, *, num_processes: int = 1, on_result: OnResult | None = None
) -> DetectionRun:
    """Detects in every image and writes one report folder for each.

    An image that cannot be read, or does not fit the mask, is noted, and the others go on. Several
    processes share the images by file or, where there are fewer images than processes, each image
    by tile rows.

    Args:
        job: What to do.
        num_processes: See :func:`run_processes`.
        on_result: Called with each summary as soon as it is there; importable, for several
            processes.

    Raises:
        SparseNetError: If a folder or pattern holds no image, the weights do not fit, the results
            cannot be written, or a process ends early.
    """
    paths = find_images(job.inputs)  # once: a folder may grow
    make_folder(job.output)
    return run_processes(_detect_share, num_processes, job, paths, on_result)


def _detect_share(
    job: DetectionJob, paths: Sequence[Path], on_result: OnResult | None
) -> DetectionRun:
    """Runs in every process; the main one gets what became of all files."""
    folders = result_folders(paths, job.output)
    rank, num_processes = comm.get_rank(), comm.get_world_size()
    shares_rows = len(paths) < num_processes and job.cfg.TEST.TILE.ENABLED
    share = slice(None) if shares_rows else slice(rank, None, num_processes)
    predictor = build_predictor(
        job.cfg, trust_checkpoint=job.trust_checkpoint, shares_rows=shares_rows, **job.hardware
    )
    writes = rank == 0 or not shares_rows
    worker = ImageDetector(job, predictor, log=_open_log(job, rank), writes=writes)
    run = DetectionRun()
    for path, folder in zip(paths[share], folders[share]):
        try:
            summary = worker.detect(path, folder)
        except (ImageReadError, AnnotationError) as error:
            if writes:
                logger.error("%s", error)
            run.failures.append((path, str(error)))
            continue
        if summary is not None:
            run.summaries.append(summary)
            if on_result is not None:
                on_result(summary)
    runs = [run] if shares_rows else all_gather(run)
    order = {str(folder): index for index, folder in enumerate(folders)}
    return DetectionRun(
        sorted((s for r in runs for s in r.summaries), key=lambda s: order[s["folder"]]),
        sorted((f for r in runs for f in r.failures), key=lambda f: paths.index(f[0])),
    )


def _open_log(job: DetectionJob, rank: int) -> JsonLog | None:
    if job.log_json is None:
        return None
    return JsonLog(f"{job.log_json}.{rank}" if rank else job.log_json)


class ImageDetector:
    """Detects in one image after the other and writes their reports.

    Args:
        job: ``report``, ``resume`` and ``TEST.TILE.MAX_PIXELS`` of it are used.
        predictor: See :func:`build_predictor`.
        log: Told of every step.
        writes: False in a process that only shares the work of one that writes.
    """

    def __init__(
        self,
        job: DetectionJob,
        predictor: Predictor,
        *,
        log: OnProgress | None = None,
        writes: bool = True,
    ) -> None:
        self._job = job
        self._predictor = predictor
        self._log = log
        self._writes = writes

    def detect(self, path: Path, folder: Path) -> dict[str, Any] | None:
        """Detects in one image, or finds that an earlier run has.

        Args:
            path: The image.
            folder: For its report.

        Returns:
            The content of ``summary.json``, with ``folder``; None where another process writes it.

        Raises:
            ImageReadError: If the image cannot be read.
            AnnotationError: If the mask cannot be read or is none of this image.
            OutputError: If the report cannot be written.
        """
        reader = open_image(path, max_pixels=self._job.cfg.TEST.TILE.MAX_PIXELS)
        made_from = self._made_from(reader)
        is_finished = read_json(folder / _FINISHED) == made_from and (folder / _SUMMARY).is_file()
        if self._job.resume and is_finished:
            if self._writes:
                logger.info("%s is finished already, see %s.", path, folder)
            return self._summary(folder)
        rows = folder / _ROWS
        if self._writes:
            _remove_file(folder / _FINISHED)
            if not self._job.resume:
                remove_rows(rows)
        result = self._predictor(
            reader,
            progress=self._job.report.progress and self._writes,
            on_progress=self._log,
            rows_folder=rows,
        )
        if self._writes:
            save_report(result, reader, folder, self._job.report)
            write_json(folder / _FINISHED, made_from)
            remove_rows(rows)
        return self._summary(folder)

    def _made_from(self, reader: ImageReader) -> dict[str, Any]:
        """All that a report depends on."""
        return {
            **self._predictor.manifest(reader),
            "class_names": list(self._predictor.class_names),
            "report": repr(replace(self._job.report, progress=False)),
        }

    def _summary(self, folder: Path) -> dict[str, Any] | None:
        return read_summary(folder) if self._writes else None


def _remove_file(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path}: what an earlier run left cannot be removed ({error}). Remove it yourself, or "
            "choose another --output."
        ) from error


def read_summary(folder: Path) -> dict[str, Any]:
    """The content of a report's ``summary.json``, with ``folder``."""
    return read_json(folder / _SUMMARY) | {"folder": str(folder)}
