"""One kind of batch norm for a whole model: ``MODEL.BATCH_NORM``."""

from __future__ import annotations

import torch
import torch.distributed as dist
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsenet.errors import ConfigError

BATCH_NORMS = ("", "FrozenBN", "BN", "SyncBN")
_PLAIN = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)


def set_batch_norms(model: nn.Module, kind: str) -> nn.Module:
    """Turns every 2-d batch norm into ``kind``, with its statistics and affine values.

    A norm of a layer that is frozen stays as it is, unless all are to be frozen.

    Args:
        model: Changed in place.
        kind: One of ``BATCH_NORMS``; empty changes nothing.

    Returns:
        The model.

    Raises:
        ConfigError: If the kind is not known, "SyncBN" is asked for on a CPU, or a norm is of a
            kind of its own, such as timm's with an activation inside.
    """
    if kind not in BATCH_NORMS:
        raise ConfigError(
            f"MODEL.BATCH_NORM must be one of {', '.join(BATCH_NORMS[1:])} or empty, got {kind!r}."
        )
    if kind == "SyncBN" and next(model.parameters()).device.type == "cpu":
        raise ConfigError(
            "MODEL.BATCH_NORM SyncBN needs GPUs: torch has no synchronised batch norm on CPUs. "
            "Use BN or FrozenBN."
        )
    if not kind:
        return model
    for parent in list(model.modules()):
        if kind != "FrozenBN" and _is_frozen(parent):
            continue
        for name, child in list(parent.named_children()):
            if type(child) in _PLAIN:
                parent.add_module(name, _converted(child, kind))
            elif isinstance(child, nn.BatchNorm2d):
                raise ConfigError(
                    f"MODEL.BATCH_NORM replaces plain batch norms, got a {type(child).__name__}, "
                    "which may do more, at a place named "
                    f"{name!r}. For models of timm set MODEL.TIMM.NORM instead."
                )
    return model


def share_statistics(model: nn.Module) -> None:
    """Gives the batch norms of every process the statistics of rank 0.

    In training each process gathers those of its own images; a model that is evaluated by several
    processes must be one model, and the one that rank 0 writes.
    """
    if comm.get_world_size() == 1:
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for statistic in module.buffers(recurse=False):
                dist.broadcast(statistic, src=0)


def _is_frozen(parent: nn.Module) -> bool:
    """Whether a module has parameters of its own, norms aside, and none of them learns."""
    own = [
        parameter
        for child in (parent, *parent.children())
        if not isinstance(child, _BatchNorm)
        for parameter in child.parameters(recurse=child is not parent)
    ]
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def _converted(norm: nn.Module, kind: str) -> nn.Module:
    if kind == "FrozenBN":
        return FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
    wanted = nn.SyncBatchNorm if kind == "SyncBN" else nn.BatchNorm2d
    if type(norm) is wanted:
        return norm
    replacement = wanted(norm.num_features, eps=norm.eps).to(norm.running_mean.device)
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(replacement, name).copy_(getattr(norm, name))
    return replacement.train(norm.training)
