"""Stands in for detectron2.evaluation.evaluator: has DatasetEvaluator, DatasetEvaluators,
inference_on_dataset and inference_context; lacks nothing."""

import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds

__all__ = ["DatasetEvaluator", "DatasetEvaluators", "inference_context", "inference_on_dataset"]

logger = logging.getLogger(__name__)


class DatasetEvaluator:
    """Collects a model's outputs over a dataset and makes results of them."""

    def reset(self) -> None:
        """Forgets what was collected; called before a new round."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Collects one batch: what went into the model and, in the same order, what came out."""

    def evaluate(self) -> dict[str, Any] | None:
        """Returns task -> {metric: number}; processes other than the first may return None."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]):
        super().__init__()
        self._evaluators = evaluators

    def reset(self) -> None:
        """Resets all."""
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Hands the batch to all."""
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """Returns the results of all together; two must not have the same task."""
        results: OrderedDict[str, Any] = OrderedDict()
        for evaluator in self._evaluators:
            part = evaluator.evaluate()
            if not is_main_process() or part is None:
                continue
            twice = results.keys() & part.keys()
            assert not twice, f"evaluators must give different keys, but two give {sorted(twice)}"
            results.update(part)
        return results


class _Stopwatch:
    """Seconds spent per activity since the last reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.start = self._last = time.perf_counter()
        self.seconds = {"data": 0.0, "compute": 0.0, "eval": 0.0}

    def add(self, activity: str) -> None:
        """Counts the time since the last call as time of `activity`."""
        now = time.perf_counter()
        self.seconds[activity] += now - self._last
        self._last = now

    @property
    def total(self) -> float:
        return time.perf_counter() - self.start


def inference_on_dataset(
    model: Callable,
    data_loader: Any,
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
    callbacks: dict[str, Callable[[], Any]] | None = None,
) -> dict[str, Any]:
    """Runs the model over all batches, in eval mode and without gradients, and evaluates.

    Args:
        model: batch -> outputs; a Module gets its mode back afterwards, also after an error.
        data_loader: has a length.
        evaluator: one, a list, or None to measure the speed only.
        callbacks: called at "on_start", "before_inference", "after_inference" and "on_end".

    Returns:
        what the evaluator returns, {} for None. Logs the seconds per iteration after the first 5.
    """
    total = len(data_loader)
    num_warmup = min(5, total - 1)
    logger.info(f"Start inference on {total} batches")
    if evaluator is None or isinstance(evaluator, MutableSequence):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()
    watch = _Stopwatch()
    is_module = isinstance(model, torch.nn.Module)
    with inference_context(model) if is_module else nullcontext(), torch.no_grad():
        _call(callbacks, "on_start")
        for index, inputs in enumerate(data_loader):
            watch.add("data")
            if index == num_warmup:
                watch.reset()
            _call(callbacks, "before_inference")
            outputs = model(inputs)
            _call(callbacks, "after_inference")
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            watch.add("compute")
            evaluator.process(inputs, outputs)
            watch.add("eval")
            _log_progress(watch, index, total, num_warmup)
        _call(callbacks, "on_end")
    _log_speed(watch, total - num_warmup)
    results = evaluator.evaluate()
    return {} if results is None else results


def _call(callbacks: dict[str, Callable[[], Any]] | None, moment: str) -> None:
    if callbacks and moment in callbacks:
        callbacks[moment]()


def _log_progress(watch: _Stopwatch, index: int, total: int, num_warmup: int) -> None:
    num_done = index + 1 - num_warmup * int(index >= num_warmup)
    each = {activity: seconds / num_done for activity, seconds in watch.seconds.items()}
    if index < 2 * num_warmup and each["compute"] <= 5:
        return
    left = datetime.timedelta(seconds=int(watch.total / num_done * (total - index - 1)))
    log_every_n_seconds(
        logging.INFO,
        f"Inference done {index + 1}/{total}. Dataloading: {each['data']:.4f} s/iter. "
        f"Inference: {each['compute']:.4f} s/iter. Eval: {each['eval']:.4f} s/iter. "
        f"Total: {watch.total / num_done:.4f} s/iter. ETA={left}",
        n=5,
    )


def _log_speed(watch: _Stopwatch, num_timed: int) -> None:
    for kind, seconds in (("", watch.total), ("pure compute ", watch.seconds["compute"])):
        logger.info(
            f"Total inference {kind}time: {datetime.timedelta(seconds=int(seconds))} "
            f"({seconds / max(num_timed, 1):.6f} s / iter per device, on {get_world_size()} "
            "devices)"
        )


@contextmanager
def inference_context(model: torch.nn.Module) -> Iterator[None]:
    """Puts the model into eval mode and afterwards back into the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
