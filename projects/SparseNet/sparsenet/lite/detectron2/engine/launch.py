"""Stands in for detectron2.engine.launch: has launch and DEFAULT_TIMEOUT; lacks nothing."""

import logging
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)

logger = logging.getLogger(__name__)


def _find_free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("", 0))  # the system picks a port; another process may still take it before us
        return sock.getsockname()[1]


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Runs `main_func(*args)` in one process per GPU; must be called on every machine of the job.

    The processes speak NCCL where CUDA is available and Gloo otherwise. With one process in all,
    `main_func` runs in the calling process.

    Args:
        main_func: importable from the spawned processes.
        num_gpus_per_machine: number of processes on each machine.
        num_machines: number of machines.
        machine_rank: which of them this is, from 0.
        dist_url: where the processes meet, such as "tcp://10.0.0.1:8686", the same on all machines;
            "auto" takes a free port of this machine.
        args: of `main_func`.
        timeout: of the collective operations.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, (
            f"dist_url 'auto' works on one machine, got num_machines={num_machines}; "
            "give tcp://HOST:PORT of machine 0"
        )
        dist_url = f"tcp://127.0.0.1:{_find_free_port()}"
    elif num_machines > 1 and str(dist_url).startswith("file://"):
        logger.warning("file:// is unreliable across machines; use tcp://HOST:PORT as dist_url")
    mp.start_processes(
        _run_process,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
        daemon=False,
    )


def _run_process(
    local_rank: int,
    main_func: Callable[..., Any],
    world_size: int,
    num_processes: int,
    machine_rank: int,
    dist_url: str | None,
    args: tuple,
    timeout: timedelta,
) -> None:
    """Joins the job as process `local_rank` of this machine and runs `main_func`."""
    has_gpu = torch.cuda.is_available()
    assert not has_gpu or num_processes <= torch.cuda.device_count(), (
        f"{num_processes} processes need as many GPUs, but this machine has "
        f"{torch.cuda.device_count()}; lower --num-gpus or hide the GPUs (CUDA_VISIBLE_DEVICES='')"
    )
    try:
        dist.init_process_group(
            backend="NCCL" if has_gpu else "GLOO",
            init_method=dist_url,
            world_size=world_size,
            rank=machine_rank * num_processes + local_rank,
            timeout=timeout,
        )
    except Exception:
        logger.error(f"Could not join the other processes at {dist_url}")
        raise
    comm.create_local_process_group(num_processes)
    if has_gpu:
        torch.cuda.set_device(local_rank)
    comm.synchronize()  # all have joined: no collective below waits for a late one
    main_func(*args)
