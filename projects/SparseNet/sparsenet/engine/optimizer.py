"""The optimiser of Sparse R-CNN: AdamW or SGD, one learning rate for the backbone and one for the
rest, and clipping of the norm of the whole gradient."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from sparsenet.errors import ConfigError


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Builds the optimiser of ``SOLVER``.

    Every parameter has the same weight decay, norms and biases included, as in the official
    project, except those with a word of ``NO_DECAY_NAMES`` in their name, which have none.
    Parameters whose name contains "backbone" use ``BASE_LR * BACKBONE_MULTIPLIER``.

    Raises:
        ConfigError: If ``SOLVER.OPTIMIZER`` is not known.
    """
    groups = _parameter_groups(cfg, model)
    lr = cfg.SOLVER.BASE_LR
    name = cfg.SOLVER.OPTIMIZER
    clip = cfg.SOLVER.CLIP_GRADIENTS
    is_full_model = clip.ENABLED and clip.CLIP_TYPE == "full_model" and clip.CLIP_VALUE > 0
    kwargs: dict[str, Any] = {"lr": lr}
    if name == "ADAMW":
        base: type[torch.optim.Optimizer] = torch.optim.AdamW
        kwargs["fused"] = all(p.is_floating_point() for g in groups for p in g["params"])
    elif name == "SGD":
        base, kwargs["momentum"] = torch.optim.SGD, cfg.SOLVER.MOMENTUM
    else:
        raise ConfigError(f"SOLVER.OPTIMIZER must be ADAMW or SGD, got {name!r}.")
    if is_full_model:
        return clip_full_model(base, clip.CLIP_VALUE)(groups, **kwargs)
    return maybe_add_gradient_clipping(cfg, base(groups, **kwargs))


def _parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """At most four, in a fixed order: a checkpoint holds the optimiser's state by position."""
    node = cfg.SOLVER
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_spared = any(word in name for word in node.NO_DECAY_NAMES)
            groups.setdefault(("backbone" in name, is_spared), []).append(parameter)
    return [
        {
            "params": groups[is_backbone, is_spared],
            "lr": node.BASE_LR * (node.BACKBONE_MULTIPLIER if is_backbone else 1),
            "weight_decay": 0.0 if is_spared else node.WEIGHT_DECAY,
        }
        for is_backbone, is_spared in sorted(groups)
    ]


def clip_full_model(
    base: type[torch.optim.Optimizer], max_norm: float
) -> type[torch.optim.Optimizer]:
    """A subclass of an optimiser that clips the L2 norm of all gradients together before a step."""

    class FullModelClipping(base):  # type: ignore[valid-type,misc]
        def step(self, closure: Any = None) -> Any:
            parameters = [p for group in self.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            return super().step(closure)

    FullModelClipping.__name__ = base.__name__ + "WithFullModelClipping"
    return FullModelClipping
