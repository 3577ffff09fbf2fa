"""A function in several processes of ``torch.distributed``, with its result and its errors."""

from __future__ import annotations

import logging
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from detectron2.engine import launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from sparsenet.errors import ConfigError, SparseNetError
from sparsenet.gigapixel.patient_gather import PATIENCE, patient_group

T = TypeVar("T")


class ProcessError(SparseNetError, RuntimeError):
    """A process that ended before its work was done."""


def run_processes(function: Callable[..., T], num_processes: int, *args: object) -> T:
    """Calls ``function(*args)`` in every process and returns what it returns in the main one.

    One process per GPU where there are GPUs (NCCL), otherwise on the CPU (gloo), whose cores are
    shared out. With one process the function runs in the calling process. When a process fails, the
    others are ended: none waits for it. They log at the level of the calling process; what is less
    than a warning only the main one.

    Args:
        function: Importable from the other processes, as are its arguments.
        num_processes: At least 1; no more than GPUs, where there are any.

    Raises:
        SparseNetError: What a process raised.
        ProcessError: If one ended without an error of ours, with its traceback or its signal.
        ConfigError: If there are fewer GPUs than processes.
    """
    num_gpus = torch.cuda.device_count()
    if num_processes < 1 or 0 < num_gpus < num_processes:
        raise ConfigError(
            f"The number of processes must be at least 1 and at most the number of GPUs, {num_gpus}"
            f" here, got {num_processes}. Set CUDA_VISIBLE_DEVICES='' to run on the CPU."
        )
    if num_processes == 1:
        return function(*args)
    with tempfile.TemporaryDirectory(prefix="sparsenet-") as folder:
        try:
            launch(
                _call,
                num_processes,
                dist_url="auto",
                args=(function, args, folder, num_processes, logging.getLogger().level),
                timeout=PATIENCE,
            )
        except (ProcessRaisedException, ProcessExitedException) as error:
            raise _reason(Path(folder), error) from None
        result: T = pickle.loads((Path(folder) / "result").read_bytes())  # our own, just written
        return result


def _call(
    function: Callable[..., object],
    args: tuple[object, ...],
    folder: str,
    num_processes: int,
    log_level: int,
) -> None:
    """Runs in every process; leaves result or error in a folder."""
    logging.basicConfig(
        level=log_level if comm.is_main_process() else max(log_level, logging.WARNING),
        format="%(levelname)s %(name)s: %(message)s",
    )
    patient_group()  # now, while no process is late
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_processes))
    try:
        result = function(*args)
    except SparseNetError as error:
        (Path(folder) / f"error_{comm.get_rank()}").write_bytes(pickle.dumps(error))
        raise
    if comm.is_main_process():
        (Path(folder) / "result").write_bytes(pickle.dumps(result))
    comm.synchronize()  # the process that holds the meeting place must not leave first


def _reason(folder: Path, error: Exception) -> SparseNetError:
    """The error that began it: others may follow from processes that lost their partner."""
    for path in sorted(folder.glob("error_*")):
        raised: SparseNetError = pickle.loads(path.read_bytes())  # our own, just written
        return raised
    return ProcessError(
        f"All processes must finish, one did not: {error} Use fewer processes if memory ran out."
    )
