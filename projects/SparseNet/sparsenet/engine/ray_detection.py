"""Detection in many images on many machines, on Ray Data.

Each worker of the cluster is an actor with a predictor of its own. Images are handed out one by
one, so that a slow machine delays nobody. Each writes the report folder of its image, on a file
system that all machines share; a run that was interrupted goes on from what is there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsenet.engine.detection import (
    DetectionJob,
    DetectionRun,
    ImageDetector,
    OnResult,
    build_predictor,
    read_summary,
)
from sparsenet.engine.processes import ProcessError
from sparsenet.errors import ImageReadError, MissingDependencyError
from sparsenet.gigapixel.exports.files import make_folder
from sparsenet.gigapixel.image_files import find_images, result_folders


@dataclass(frozen=True)
class RayWorkers:
    """The workers.

    Args:
        num_workers: Actors, each with a model.
        num_gpus: GPUs of each; a fraction lets several share one.
        num_cpus: Cores of each.
        address: Of a running cluster, or "auto"; None starts one on this machine.
    """

    num_workers: int = 1
    num_gpus: float = 0
    num_cpus: float = 1
    address: str | None = None


def run_ray_detection(
    job: DetectionJob, workers: RayWorkers, *, on_result: OnResult | None = None
) -> DetectionRun:
    """Detects in every image of a job with the workers of a Ray cluster.

    Images that an earlier run has finished are left, whatever ``job.resume`` says.

    Args:
        job: Paths must mean the same on all machines.
        workers: How many, and with what.
        on_result: Called here with each summary as it comes.

    Raises:
        SparseNetError: If a folder or pattern holds no image, the results cannot be written, or a
            worker fails.
        MissingDependencyError: If Ray is not installed.
    """
    ray = _import_ray()
    paths = [path.resolve() for path in find_images(job.inputs)]
    folders = result_folders(paths, make_folder(job.output).resolve())
    job = replace(job, resume=True, report=replace(job.report, progress=False), log_json=None)
    items = [{"path": str(path), "folder": str(folder)} for path, folder in zip(paths, folders)]
    run = DetectionRun()
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(address=workers.address, log_to_driver=False)
    try:
        done = ray.data.from_items(items, override_num_blocks=len(items)).map(
            _Worker,
            fn_constructor_args=(job,),
            concurrency=workers.num_workers,
            num_gpus=workers.num_gpus,
            num_cpus=workers.num_cpus,
        )
        for row in done.iter_rows():
            _note(row, run, on_result)
    except ray.exceptions.RayError as error:
        raise ProcessError(
            f"All workers must finish, one did not: {error} Run again to go on from what is done."
        ) from error
    finally:
        if is_ours:
            ray.shutdown()
    return run


def _note(row: dict[str, Any], run: DetectionRun, on_result: OnResult | None) -> None:
    """Adds what became of one image to a run."""
    if row["error"]:
        run.failures.append((Path(row["path"]), row["error"]))
        return
    summary = read_summary(Path(row["folder"]))
    run.summaries.append(summary)
    if on_result is not None:
        on_result(summary)


class _Worker:
    """A Ray actor: one model, one image after the other."""

    def __init__(self, job: DetectionJob) -> None:
        predictor = build_predictor(job.cfg, trust_checkpoint=job.trust_checkpoint, **job.hardware)
        self._detector = ImageDetector(job, predictor)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        error = ""
        try:
            self._detector.detect(Path(row["path"]), Path(row["folder"]))
        except ImageReadError as raised:
            error = str(raised)
        return {**row, "error": error}


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            f"Detection on several machines needs Ray, which is not installed ({error}). "
            "Install it with `pip install 'sparsenet[ray]'`."
        ) from error
    return ray
