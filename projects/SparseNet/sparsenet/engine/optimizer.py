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
    project. Parameters whose name contains "backbone" use ``BASE_LR * BACKBONE_MULTIPLIER``.

    Raises:
        ConfigError: If ``SOLVER.OPTIMIZER`` is not known.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    lr, decay = cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY
    groups = [
        {"params": [p for n, p in named if "backbone" not in n], "lr": lr},
        {
            "params": [p for n, p in named if "backbone" in n],
            "lr": lr * cfg.SOLVER.BACKBONE_MULTIPLIER,
        },
    ]
    groups = [{**g, "weight_decay": decay} for g in groups if g["params"]]
    name = cfg.SOLVER.OPTIMIZER
    clip = cfg.SOLVER.CLIP_GRADIENTS
    is_full_model = clip.ENABLED and clip.CLIP_TYPE == "full_model" and clip.CLIP_VALUE > 0
    kwargs: dict[str, Any] = {"lr": lr}
    if name == "ADAMW":
        base: type[torch.optim.Optimizer] = torch.optim.AdamW
        kwargs["fused"] = all(p.is_floating_point() for _, p in named)
    elif name == "SGD":
        base, kwargs["momentum"] = torch.optim.SGD, cfg.SOLVER.MOMENTUM
    else:
        raise ConfigError(f"SOLVER.OPTIMIZER must be ADAMW or SGD, got {name!r}.")
    if is_full_model:
        return clip_full_model(base, clip.CLIP_VALUE)(groups, **kwargs)
    return maybe_add_gradient_clipping(cfg, base(groups, **kwargs))


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
