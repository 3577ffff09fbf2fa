"""Stands in for detectron2.engine.hooks: has the callback, timer, writer, checkpoint, LR and
evaluation hooks; lacks PreciseBN, the profilers and TorchMemoryStats."""

import datetime
import logging
import math
import operator
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2._lacking import package_getattr
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer

from .train_loop import HookBase

__all__ = [
    "BestCheckpointer",
    "CallbackHook",
    "EvalHook",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
]

logger = logging.getLogger(__name__)

__getattr__ = package_getattr(__name__)


class CallbackHook(HookBase):
    """Calls functions of the trainer."""

    def __init__(
        self,
        *,
        before_train: Callable | None = None,
        after_train: Callable | None = None,
        before_step: Callable | None = None,
        after_step: Callable | None = None,
    ):
        self._callbacks = {
            "before_train": before_train,
            "after_train": after_train,
            "before_step": before_step,
            "after_step": after_step,
        }

    def _call(self, moment: str) -> None:
        callback = self._callbacks[moment]
        if callback is not None:
            callback(self.trainer)

    def before_train(self) -> None:
        self._call("before_train")

    def after_train(self) -> None:
        self._call("after_train")
        self._callbacks = dict.fromkeys(self._callbacks)

    def before_step(self) -> None:
        self._call("before_step")

    def after_step(self) -> None:
        self._call("after_step")


class IterationTimer(HookBase):
    """Records the seconds of each step as "time" and logs the speed at the end; goes first."""

    def __init__(self, warmup_iter: int = 3):
        """Args:
        warmup_iter: number of first steps that are not measured.
        """
        self._warmup_iter = warmup_iter
        self._step_timer = Timer()
        self._total_timer = Timer()
        self._start_time = time.perf_counter()

    def _restart(self) -> None:
        self._start_time = time.perf_counter()
        self._total_timer.reset()

    def before_train(self) -> None:
        self._restart()
        self._total_timer.pause()

    def before_step(self) -> None:
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self) -> None:
        num_done = self.trainer.storage.iter - self.trainer.start_iter + 1
        if num_done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._restart()
        self._total_timer.pause()

    def after_train(self) -> None:
        total = time.perf_counter() - self._start_time
        in_steps = self._total_timer.seconds()
        num_done = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if num_done > 0 and in_steps > 0:
            logger.info(
                f"Overall training speed: {num_done} iterations in {_clock(in_steps)} "
                f"({in_steps / num_done:.4f} s / it)"
            )
        logger.info(f"Total training time: {_clock(total)} ({_clock(total - in_steps)} on hooks)")


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class PeriodicWriter(HookBase):
    """Lets the writers write every `period` steps, in the last one and after training."""

    def __init__(self, writers: Sequence[EventWriter], period: int = 20):
        for writer in writers:
            assert isinstance(writer, EventWriter), f"a writer must be an EventWriter, got {writer}"
        self._writers = writers
        self._period = period

    def after_step(self) -> None:
        is_last = self.trainer.iter == self.trainer.max_iter - 1
        if is_last or (self.trainer.iter + 1) % self._period == 0:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's PeriodicCheckpointer as a hook: saves every `period` steps and in the last one."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class BestCheckpointer(HookBase):
    """Saves the model of the best evaluation; goes behind the EvalHook.

    Unlike Detectron2's it leaves the file last_checkpoint alone, so that a resumed run goes on from
    where it stopped and not from its best iteration.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ) -> None:
        """Args:
        eval_period: that of the EvalHook.
        checkpointer: saves the model.
        val_metric: name of the scalar, such as "bbox/AP50".
        mode: "max" or "min", what is best.
        file_prefix: name of the checkpoint.
        """
        assert mode in ("max", "min"), f"mode must be 'max' or 'min', got {mode!r}"
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._is_better = operator.gt if mode == "max" else operator.lt
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def _best_checking(self) -> None:
        latest = self.trainer.storage.latest().get(self._val_metric)
        if latest is None:
            logger.warning(f"No scalar {self._val_metric!r} was recorded: no best model is saved")
            return
        value, iteration = latest
        if not math.isfinite(value):
            return
        if self.best_metric is not None and not self._is_better(value, self.best_metric):
            logger.info(
                f"{self._val_metric} {value:0.5f} does not beat {self.best_metric:0.5f} of "
                f"iteration {self.best_iter}"
            )
            return
        self.best_metric, self.best_iter = value, iteration
        self._save(iteration)
        logger.info(f"Saved {self._file_prefix} with {self._val_metric} {value:0.5f}")

    def _save(self, iteration: int) -> None:
        checkpointer = self._checkpointer
        last = checkpointer.get_checkpoint_file() if checkpointer.has_checkpoint() else None
        checkpointer.save(self._file_prefix, iteration=iteration)
        if last is not None and checkpointer.save_to_disk:
            checkpointer.tag_last_checkpoint(os.path.basename(last))

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        is_due = self._period > 0 and next_iter % self._period == 0
        if is_due and next_iter != self.trainer.max_iter:
            self._best_checking()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._best_checking()


class LRScheduler(HookBase):
    """Records "lr" and steps the scheduler after each step."""

    def __init__(self, optimizer: Any = None, scheduler: Any = None):
        """Args:
        optimizer: None takes the trainer's.
        scheduler: torch's, or fvcore's ParamScheduler as a factor of the optimizer's LR; None
            takes the trainer's.
        """
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self) -> Any:
        """The scheduler of the arguments, or the trainer's."""
        return self._scheduler or self.trainer.scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer,
                self.scheduler,
                self.trainer.max_iter,
                last_iter=self.trainer.iter - 1,
            )
        self._best_param_group_id = LRScheduler.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: torch.optim.Optimizer) -> int:
        """Returns the index of the largest group; among single parameters, of the commonest LR."""
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in groups]
        return rates.index(Counter(rates).most_common()[0][0])

    def after_step(self) -> None:
        lr = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Returns the scheduler's state; the schedule itself comes from the config."""
        if isinstance(self.scheduler, torch.optim.lr_scheduler.LRScheduler):
            return self.scheduler.state_dict()
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the scheduler."""
        if isinstance(self.scheduler, torch.optim.lr_scheduler.LRScheduler):
            self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Evaluates every `eval_period` steps and after training, and records the results.

    All processes must have it, or none.
    """

    def __init__(
        self, eval_period: int, eval_function: Callable[[], Any], eval_after_train: bool = True
    ):
        """Args:
        eval_period: 0 evaluates after training only.
        eval_function: returns a nested dict of numbers, recorded as "task/metric"; or nothing.
        eval_after_train: evaluate after the last step.
        """
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self) -> None:
        results = self._func()
        if results:
            assert isinstance(results, dict), f"eval_function must return a dict, got {results!r}"
            scalars = flatten_results_dict(results)
            for name, value in scalars.items():
                try:
                    float(value)
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"eval_function must return a nested dict of numbers, got {name}: {value!r}"
                    ) from error
            self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)
        comm.synchronize()  # processes evaluate at different speeds

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        is_due = self._period > 0 and next_iter % self._period == 0
        if is_due and next_iter != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        del self._func
