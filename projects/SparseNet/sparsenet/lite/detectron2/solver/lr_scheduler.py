"""Stands in for detectron2.solver.lr_scheduler: has LRMultiplier, WarmupParamScheduler; lacks the
deprecated classes."""

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim.lr_scheduler import LRScheduler


class WarmupParamScheduler(CompositeParamScheduler):
    """A schedule whose first part is replaced by a rise."""

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ):
        """Takes the schedule and how to start it.

        Args:
            scheduler: used after the warm-up.
            warmup_factor: the first value is this share of the schedule's first one.
            warmup_length: share of the training.
            warmup_method: "linear" to the value that follows, or "constant".
            rescale_interval: squeeze the whole schedule behind the warm-up instead of cutting it.
        """
        start = warmup_factor * scheduler(0.0)
        if warmup_method == "linear":
            end = scheduler(0.0 if rescale_interval else warmup_length)
            warmup = LinearParamScheduler(start, end)
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(start)
        else:
            raise ValueError(f"Unknown warmup method: {warmup_method}")
        super().__init__(
            [warmup, scheduler],
            lengths=[warmup_length, 1 - warmup_length],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
        )


class LRMultiplier(LRScheduler):
    """Multiplies the first learning rate of every group by a schedule of iteration / max_iter."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        multiplier: ParamScheduler,
        max_iter: int,
        last_iter: int = -1,
    ):
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(
                "_LRMultiplier(multiplier=) must be an instance of fvcore ParamScheduler. "
                f"Got {multiplier} instead."
            )
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self):
        """Returns base rates and iteration; the schedule itself comes from the config again."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base * factor for base in self.base_lrs]
