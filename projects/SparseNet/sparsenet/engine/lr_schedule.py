"""Learning-rate schedules: Detectron2's, and the polynomial one of semantic segmentation."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler, build_lr_scheduler
from fvcore.common.param_scheduler import ParamScheduler

POLYNOMIAL = "WarmupPolyLR"


class PolynomialDecay(ParamScheduler):
    """``end + (1 - end) · (1 - where) ** power``, ``where`` being the share that is done."""

    def __init__(self, power: float, end: float) -> None:
        self.power = power
        self.end = end

    def __call__(self, where: float) -> float:
        return self.end + (1 - self.end) * (1 - where) ** self.power


def build_schedule(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
    """Detectron2's schedule of ``SOLVER``, or with ``WarmupPolyLR`` the polynomial one.

    That falls to ``BASE_LR_END`` with the power ``POLY_LR_POWER``.
    """
    node = cfg.SOLVER
    if node.LR_SCHEDULER_NAME != POLYNOMIAL:
        return build_lr_scheduler(cfg, optimizer)
    schedule = WarmupParamScheduler(
        PolynomialDecay(node.POLY_LR_POWER, node.BASE_LR_END / node.BASE_LR),
        node.WARMUP_FACTOR,
        min(node.WARMUP_ITERS / node.MAX_ITER, 1.0),
        node.WARMUP_METHOD,
        node.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=node.MAX_ITER)
