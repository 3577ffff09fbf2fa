"""Stands in for detectron2.utils.comm: has ranks, barriers and collectives; lacks nothing."""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_LOCAL_PROCESS_GROUP = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Returns the number of processes, 1 outside of distributed runs."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """Returns the number of this process among all, 0 outside of distributed runs."""
    return dist.get_rank() if _is_distributed() else 0


@functools.lru_cache
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Creates the group of this machine's processes; every process calls it, once."""
    global _LOCAL_PROCESS_GROUP
    assert _LOCAL_PROCESS_GROUP is None, "The local process group exists already."
    world_size = get_world_size()
    assert world_size % num_workers_per_machine == 0, (
        f"{world_size} processes do not divide into machines of {num_workers_per_machine}."
    )
    for first in range(0, world_size, num_workers_per_machine):
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)  # every process takes part in creating every group
        if get_rank() in ranks:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group():
    """Returns the process group of this machine."""
    assert _LOCAL_PROCESS_GROUP is not None, (
        "There is no local process group: start processes with detectron2.engine.launch, or call "
        "comm.create_local_process_group(num_workers_per_machine) after init_process_group."
    )
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Returns the number of this process on its machine."""
    return dist.get_rank(group=get_local_process_group()) if _is_distributed() else 0


def get_local_size() -> int:
    """Returns the number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _is_distributed() else 1


def is_main_process() -> bool:
    """Tells whether this is rank 0."""
    return get_rank() == 0


def synchronize() -> None:
    """Waits until all processes are here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.lru_cache
def _get_global_gloo_group():
    """Objects travel through the CPU, so that they take no GPU memory."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD


def _group_for(group: Any) -> tuple[Any, int]:
    """The group to use and its size; size 1 means that nothing needs to be sent."""
    if get_world_size() == 1:
        return None, 1
    group = _get_global_gloo_group() if group is None else group
    return group, dist.get_world_size(group)


def all_gather(data: Any, group=None) -> list[Any]:
    """Returns the picklable ``data`` of every process, on every process."""
    group, size = _group_for(group)
    if size == 1:
        return [data]
    gathered = [None] * size
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data: Any, dst: int = 0, group=None) -> list[Any]:
    """Returns the ``data`` of every process on rank ``dst``, and an empty list elsewhere."""
    group, size = _group_for(group)
    if size == 1:
        return [data]
    gathered = [None] * size if dist.get_rank(group) == dst else None
    dist.gather_object(data, gathered, dst=dst, group=group)
    return gathered or []


def shared_random_seed() -> int:
    """Returns rank 0's draw of a seed; all processes must call it."""
    return all_gather(np.random.randint(2**31))[0]


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True):
    """Returns the scalars summed (or averaged) over processes; only rank 0's result counts."""
    world_size = get_world_size()
    if world_size < 2:
        return input_dict
    names = sorted(input_dict)  # the same order in every process
    with torch.no_grad():
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        if average and get_rank() == 0:
            values /= world_size
    return dict(zip(names, values))
