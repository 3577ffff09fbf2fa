"""Stands in for detectron2.solver.build: has the optimizer, its parameter groups, clipping and the
three learning-rate schedules; lacks reduce_param_groups."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


class GradientClipType(Enum):
    """SOLVER.CLIP_GRADIENTS.CLIP_TYPE: by element, or by the norm of each parameter's gradient."""

    VALUE = "value"
    NORM = "norm"


def _clipper(node: CfgNode) -> Callable[[torch.Tensor], Any]:
    value, norm_type = node.CLIP_VALUE, node.NORM_TYPE
    if GradientClipType(node.CLIP_TYPE) is GradientClipType.VALUE:
        return lambda parameter: nn.utils.clip_grad_value_(parameter, value)
    return lambda parameter: nn.utils.clip_grad_norm_(parameter, value, norm_type)


def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: type[torch.optim.Optimizer]
) -> type[torch.optim.Optimizer]:
    """Makes an optimizer class, or an optimizer in place, clip every gradient before its step.

    Without SOLVER.CLIP_GRADIENTS.ENABLED it comes back as it is.
    """
    if not cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        return optimizer
    is_instance = isinstance(optimizer, torch.optim.Optimizer)
    base = type(optimizer) if is_instance else optimizer
    assert issubclass(base, torch.optim.Optimizer), optimizer
    clip = _clipper(cfg.SOLVER.CLIP_GRADIENTS)

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                clip(parameter)
        return base.step(self, closure)

    clipping = type(f"{base.__name__}WithGradientClip", (base,), {"step": step})
    if not is_instance:
        return clipping
    optimizer.__class__ = clipping
    return optimizer


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Returns SGD with the options of SOLVER."""
    node = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=node.BASE_LR,
        weight_decay_norm=node.WEIGHT_DECAY_NORM,
        bias_lr_factor=node.BIAS_LR_FACTOR,
        weight_decay_bias=node.WEIGHT_DECAY_BIAS,
    )
    optimizer = torch.optim.SGD(
        groups,
        lr=node.BASE_LR,
        momentum=node.MOMENTUM,
        weight_decay=node.WEIGHT_DECAY,
        nesterov=node.NESTEROV,
        foreach=True,
    )
    return maybe_add_gradient_clipping(cfg, optimizer)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Returns the trainable parameters in as few groups as their options allow.

    Args:
        model: may share parameters; each is listed once.
        base_lr: of all groups; None: the optimizer's.
        weight_decay: of all groups; None: the optimizer's.
        weight_decay_norm: of norm layers; None: as the others.
        bias_lr_factor: multiplies ``base_lr`` for parameters called "bias".
        weight_decay_bias: of parameters called "bias"; None: as the others.
        lr_factor_func: full parameter name -> factor of ``base_lr``.
        overrides: last part of a parameter's name -> options that win over all others.
    """
    shared = {"lr": base_lr, "weight_decay": weight_decay}
    shared = {name: value for name, value in shared.items() if value is not None}
    overrides = dict(overrides or {})
    bias = _bias_options(base_lr, bias_lr_factor, weight_decay_bias)
    if bias:
        if "bias" in overrides:
            raise ValueError("Conflicting overrides for 'bias'")
        overrides["bias"] = bias
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func requires base_lr")
    groups: dict[tuple, list[nn.Parameter]] = defaultdict(list)
    for module_name, module, name, parameter in _trainable_parameters(model):
        options = dict(shared)
        if isinstance(module, _NORMS) and weight_decay_norm is not None:
            options["weight_decay"] = weight_decay_norm
        if lr_factor_func is not None:
            options["lr"] *= lr_factor_func(f"{module_name}.{name}")
        options.update(overrides.get(name, {}))
        groups[tuple(options.items())].append(parameter)
    return [{**dict(options), "params": parameters} for options, parameters in groups.items()]


def _bias_options(base_lr, factor, weight_decay) -> dict[str, float]:
    options = {}
    if factor is not None and factor != 1.0:
        if base_lr is None:
            raise ValueError("bias_lr_factor requires base_lr")
        options["lr"] = base_lr * factor
    if weight_decay is not None:
        options["weight_decay"] = weight_decay
    return options


def _trainable_parameters(model) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    seen = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield module_name, module, name, parameter


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Returns the schedule of SOLVER, stepped once per iteration."""
    node = cfg.SOLVER
    schedule = WarmupParamScheduler(
        _schedule(node),
        node.WARMUP_FACTOR,
        min(node.WARMUP_ITERS / node.MAX_ITER, 1.0),
        node.WARMUP_METHOD,
        node.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=node.MAX_ITER)


def _schedule(node: CfgNode) -> ParamScheduler:
    name = node.LR_SCHEDULER_NAME
    if name == "WarmupMultiStepLR":
        steps = [step for step in node.STEPS if step <= node.MAX_ITER]
        if len(steps) < len(node.STEPS):
            logging.getLogger(__name__).warning(
                "SOLVER.STEPS contains values larger than SOLVER.MAX_ITER. They are ignored."
            )
        values = [node.GAMMA**k for k in range(len(steps) + 1)]
        return MultiStepParamScheduler(values, num_updates=node.MAX_ITER, milestones=steps)
    if name == "WarmupCosineLR":
        end = node.BASE_LR_END / node.BASE_LR
        assert 0.0 <= end <= 1.0, (
            f"SOLVER.BASE_LR_END must lie between 0 and BASE_LR, is {end} of it."
        )
        return CosineParamScheduler(1, end)
    if name == "WarmupStepWithFixedGammaLR":
        return StepWithFixedGammaParamScheduler(
            base_value=1.0, num_decays=node.NUM_DECAYS, gamma=node.GAMMA, num_updates=node.MAX_ITER
        )
    raise ValueError(f"Unknown LR scheduler: {name}")
