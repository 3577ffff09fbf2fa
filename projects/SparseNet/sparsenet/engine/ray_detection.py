"""Detection in many images on many machines, on Ray Data.

Each worker of the cluster is an actor with a predictor of its own. Images are handed out one by
one, so that a slow machine delays nobody. Each writes the report folder of its image, on a file
system that all machines share; a run that was interrupted goes on from what is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
from sparsenet.errors import AnnotationError, ImageReadError, MissingDependencyError
from sparsenet.files import make_folder
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
        SparseNetError: If a folder or pattern holds no image, or the results cannot be written.
        ProcessError: If no cluster is found, or a worker fails.
        MissingDependencyError: If Ray is not installed.
    """
    ray = _import_ray()
    paths = [path.absolute() for path in find_images(job.inputs)]
    folders = result_folders(paths, make_folder(job.output).absolute())
    job = replace(job, resume=True, report=replace(job.report, progress=False), log_json=None)
    items = [{"path": str(path), "folder": str(folder)} for path, folder in zip(paths, folders)]
    run = DetectionRun()
    with _cluster(ray, workers.address):
        done = ray.data.from_items(items, override_num_blocks=len(items)).map(
            _Worker,
            fn_constructor_args=(job,),
            concurrency=workers.num_workers,
            num_gpus=workers.num_gpus,
            num_cpus=workers.num_cpus,
        )
        for row in done.iter_rows():
            _note(row, run, on_result)
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
        except (ImageReadError, AnnotationError) as raised:
            error = str(raised)
        return {**row, "error": error}


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Joins a cluster and leaves it again, unless the caller has joined one; tells what failed."""
    is_ours = not ray.is_initialized()
    if is_ours:
        _join_cluster(ray, address)
    try:
        yield
    except ray.exceptions.RayError as error:
        raise ProcessError(
            f"All workers must finish, one did not: {error} Run again to go on from what is done."
        ) from error
    finally:
        if is_ours:
            ray.shutdown()


def _join_cluster(ray: Any, address: str | None) -> None:
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, SystemExit) as error:  # the latter where nothing answers
        raise ProcessError(
            f"--address must be that of a running Ray cluster, none was found at {address!r} "
            f"({error}). Start one with `ray start --head`, or leave --address out."
        ) from error


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
