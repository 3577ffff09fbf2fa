"""Exchange between processes that may wait for one another for hours."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from detectron2.utils import comm

T = TypeVar("T")

# How long a process waits for another, which may be at a gigapixel image for hours. One that fails
# ends all at once. PyTorch counts milliseconds, in places in 32 bits: less than 24.8 days.
PATIENCE = timedelta(days=20)


def all_gather(value: T) -> list[T]:
    """The picklable ``value`` of every process, in every process, however late the last one is."""
    if comm.get_world_size() == 1:
        return [value]
    gathered: list[T] = comm.all_gather(value, patient_group())
    return gathered


@functools.lru_cache
def patient_group() -> Any:
    """Detectron2's own group for objects gives up after 30 minutes on GPUs, whatever it is told.

    All processes must call this together for the first time, while none is late.
    """
    return dist.new_group(backend="gloo", timeout=PATIENCE)
