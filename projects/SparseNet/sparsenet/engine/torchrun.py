"""Joining the processes that ``torchrun`` started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from detectron2.utils import comm


@contextmanager
def torchrun_processes() -> Iterator[None]:
    """Within it the processes of this job know each other: NCCL on GPUs, gloo on CPUs.

    A process that torchrun did not start, or that is alone, stays alone.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    try:
        yield
    finally:
        dist.destroy_process_group()
