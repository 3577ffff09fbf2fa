"""Stands in for detectron2.engine.train_loop: has HookBase, TrainerBase, SimpleTrainer and
AMPTrainer; lacks nothing."""

import concurrent.futures
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch.nn.parallel import DataParallel, DistributedDataParallel

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]

logger = logging.getLogger(__name__)


class HookBase:
    """Something that a trainer calls around its steps; each method may be overridden.

    `trainer` is set at registration and does not keep the trainer alive.
    """

    trainer: "TrainerBase" = None

    def before_train(self) -> None:
        """Runs before the first step."""

    def after_train(self) -> None:
        """Runs after the last step, also when a step failed."""

    def before_step(self) -> None:
        """Runs before each step; should take no time."""

    def after_backward(self) -> None:
        """Runs between the backward pass and the optimizer's step."""

    def after_step(self) -> None:
        """Runs after each step."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint should keep; a hook with state has a `load_state_dict` too."""
        return {}


class TrainerBase:
    """A loop of steps with hooks around them.

    `iter` is the current iteration, from `start_iter` to `max_iter` - 1 (and `max_iter` once all is
    done); `storage` collects the metrics.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: Sequence[HookBase | None]) -> None:
        """Appends hooks, which run in this order; None is left out."""
        for hook in hooks:
            if hook is None:
                continue
            assert isinstance(hook, HookBase), f"a hook must be a HookBase, got {hook!r}"
            hook.trainer = weakref.proxy(self)
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Runs the steps `start_iter`, …, `max_iter` - 1."""
        logger.info(f"Starting training from iteration {start_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter += 1  # tells after_train that the last step succeeded
            except Exception:
                logger.exception(f"Training failed in iteration {self.iter}:")
                raise
            finally:
                self.after_train()

    def _call_hooks(self, moment: str) -> None:
        for hook in self._hooks:
            getattr(hook, moment)()

    def before_train(self) -> None:
        self._call_hooks("before_train")

    def after_train(self) -> None:
        self.storage.iter = self.iter
        self._call_hooks("after_train")

    def before_step(self) -> None:
        self.storage.iter = self.iter
        self._call_hooks("before_step")

    def after_backward(self) -> None:
        """Calls the hooks; `run_step` must do it."""
        self._call_hooks("after_backward")

    def after_step(self) -> None:
        self._call_hooks("after_step")

    def run_step(self) -> None:
        """Does one step; subclasses implement it."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Returns "iteration" and the hooks' states by class name (the first hook of a class)."""
        hook_states: dict[str, Any] = {}
        for hook in self._hooks:
            state = hook.state_dict()
            if state:
                hook_states.setdefault(type(hook).__qualname__, state)
        state = {"iteration": self.iter}
        return {**state, "hooks": hook_states} if hook_states else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`; the state of an unregistered hook is left out with a warning."""
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hook = next((h for h in self._hooks if type(h).__qualname__ == name), None)
            if hook is None:
                logger.warning(
                    f"The checkpoint has a state of hook {name}, which is not registered"
                )
            else:
                hook.load_state_dict(state)


class SimpleTrainer(TrainerBase):
    """One model, one optimizer, one loader; each step minimises the sum of the model's losses."""

    def __init__(
        self,
        model: torch.nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ):
        """Args:
        model: batch -> dict of losses, or the one loss.
        data_loader: endless batches.
        optimizer: of the model's parameters.
        gather_metric_period: average and record the metrics of all processes every so many steps.
        zero_grad_before_forward: clear the gradients before the forward pass, not after it.
        async_write_metrics: record the metrics in another thread.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self._data_loader_iter_obj: Iterator | None = None
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        # One thread, so that metrics arrive in the order of the steps.
        self.concurrent_executor = concurrent.futures.ThreadPoolExecutor(max_workers=1)

    def run_step(self) -> None:
        """Next batch, forward, backward, metrics, optimizer step."""
        loss_dict, data_time = self._forward()
        sum(loss_dict.values()).backward()
        self.after_backward()
        self._record_metrics(loss_dict, data_time)
        self.optimizer.step()

    def _forward(self) -> tuple[dict[str, torch.Tensor], float]:
        """Returns the losses of the next batch and the seconds spent waiting for it."""
        assert self.model.training, (
            f"[{type(self).__name__}] the model must be in training mode, but is in eval mode; "
            "call model.train() after an evaluation"
        )
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses = self.model(data)
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        return losses if isinstance(losses, Mapping) else {"total_loss": losses}, data_time

    @property
    def _data_loader_iter(self) -> Iterator:
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable]) -> None:
        """Drops the loader, then takes the one that `data_loader_builder` makes."""
        del self.data_loader
        self._data_loader_iter_obj = None
        self.data_loader = data_loader_builder()

    def _record_metrics(self, loss_dict: Mapping[str, torch.Tensor], data_time: float) -> None:
        if self.async_write_metrics:
            self.concurrent_executor.submit(
                self._write_metrics, loss_dict, data_time, iter=self.iter
            )
        else:
            self._write_metrics(loss_dict, data_time)

    def _write_metrics(
        self,
        loss_dict: Mapping[str, torch.Tensor],
        data_time: float,
        prefix: str = "",
        iter: int | None = None,
    ) -> None:
        iter = self.iter if iter is None else iter
        if (iter + 1) % self.gather_metric_period != 0:
            return
        try:
            SimpleTrainer.write_metrics(loss_dict, data_time, iter, prefix)
        except Exception:
            logger.exception("Could not record the metrics:")  # a thread's error is seen only here
            raise

    @staticmethod
    def write_metrics(
        loss_dict: Mapping[str, torch.Tensor], data_time: float, cur_iter: int, prefix: str = ""
    ) -> None:
        """Averages the losses over all processes and puts them into the event storage.

        Args:
            loss_dict: name -> scalar.
            data_time: seconds that this process waited for data.
            cur_iter: the iteration that they belong to.
            prefix: of the name total_loss.

        Raises:
            FloatingPointError: the sum of the losses is not finite.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        metrics = {name: loss.detach().cpu().item() for name, loss in loss_dict.items()}
        gathered = comm.gather((metrics, data_time))
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", np.max([t for _, t in gathered]), cur_iter=cur_iter)
        means = {name: np.mean([m[name] for m, _ in gathered]) for name in metrics}
        total = sum(means.values())
        if not np.isfinite(total):
            raise FloatingPointError(
                f"The loss must be finite, but became {total} in iteration {cur_iter}: {means}. "
                "Lower SOLVER.BASE_LR, lengthen the warm-up or clip gradients."
            )
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=cur_iter, **means)

    def state_dict(self) -> dict[str, Any]:
        """Returns the base's state and "optimizer"."""
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])

    def after_train(self) -> None:
        """Calls the hooks and waits for the metrics' thread."""
        super().after_train()
        self.concurrent_executor.shutdown(wait=True)


class AMPTrainer(SimpleTrainer):
    """A SimpleTrainer in mixed precision on CUDA."""

    def __init__(
        self,
        model: torch.nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: Any = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ):
        """Args:
        model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward,
            async_write_metrics: see SimpleTrainer.
        grad_scaler: torch's GradScaler; None makes one.
        precision: type of the autocast.
        log_grad_scaler: record the scale.
        """
        is_ddp = isinstance(model, DistributedDataParallel)
        has_many_devices = is_ddp and len(model.device_ids or ()) > 1
        assert not isinstance(model, DataParallel) and not has_many_devices, (
            "AMPTrainer needs one device per process; start one process per GPU with launch()"
        )
        super().__init__(
            model,
            data_loader,
            optimizer,
            gather_metric_period,
            zero_grad_before_forward,
            async_write_metrics,
        )
        self.grad_scaler = torch.amp.GradScaler("cuda") if grad_scaler is None else grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def run_step(self) -> None:
        """As in SimpleTrainer, with autocast and a scaled loss."""
        assert torch.cuda.is_available(), (
            "AMPTrainer needs CUDA, which is not available; set SOLVER.AMP.ENABLED to False"
        )
        with torch.autocast("cuda", dtype=self.precision):
            loss_dict, data_time = self._forward()
            total = sum(loss_dict.values())
        self.grad_scaler.scale(total).backward()
        if self.log_grad_scaler:
            get_event_storage().put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())
        self.after_backward()
        self._record_metrics(loss_dict, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Returns the base's state and "grad_scaler"."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
