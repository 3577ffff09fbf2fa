"""Exponential moving average of the weights, as a hook of the trainer.

The decay rises from 0 to its final value, so that the average forgets the first, random weights:
``decay · (1 - exp(-n / ramp))`` at step ``n``, as in the unofficial Sparse R-CNN of liangheming and
in YOLO. Every floating tensor of the state is averaged, statistics of batch norms too; integers are
copied.

Checkpoints hold the average as the model, so that everything that reads weights takes it; the
weights that training goes on from are in the state of the hook.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from sparsenet.errors import ConfigError


def ema_decay(num_updates: int, decay: float, ramp: float) -> float:
    """Share of the old average in update ``num_updates``, which counts from 1."""
    return decay * -math.expm1(-num_updates / ramp)


class EMAHook(HookBase):
    """Averages the weights after every step.

    Put it before the hooks that save or evaluate.

    Args:
        model: not wrapped for distributed training; all processes hold the same average, statistics
            of batch norms aside, of which rank 0's are evaluated and saved.
        decay: final decay, in [0, 1).
        ramp: steps over which the decay rises; positive.

    Raises:
        ConfigError: If a value is out of range.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, ramp: float = 2000.0) -> None:
        if not 0 <= decay < 1 or ramp <= 0:
            raise ConfigError(
                "SOLVER.EMA.DECAY must be in [0, 1) and RAMP positive, got "
                f"{decay} and {ramp}. The usual values are 0.9999 and 2000."
            )
        self.model = model
        self.decay = decay
        self.ramp = ramp
        self.num_updates = 0
        self.average: dict[str, Tensor] = {}

    def before_train(self) -> None:
        """Starts from the weights that training starts from, unless a checkpoint was resumed."""
        if not self.average:
            self.average = _copy(self.model.state_dict())

    def after_step(self) -> None:
        """Moves the average towards the new weights."""
        self.num_updates += 1
        decay = ema_decay(self.num_updates, self.decay, self.ramp)
        averages, values = [], []
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                averages.append(self.average[key])
                values.append(value)
            else:
                self.average[key].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the model has the average as its weights."""
        training_weights = _copy(self.model.state_dict())
        self.model.load_state_dict(self.average)
        try:
            yield
        finally:
            self.model.load_state_dict(training_weights)

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs beside the average, which is the checkpoint's model."""
        return {"num_updates": self.num_updates, "training_weights": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint whose model, the average, has just been loaded."""
        self.average = _copy(self.model.state_dict())
        self.num_updates = state["num_updates"]
        self.model.load_state_dict(state["training_weights"])


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in state.items()}
