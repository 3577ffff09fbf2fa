"""Time, memory and arithmetic of whole detectors, by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sparsenet.analysis.flops import FlopCount
from sparsenet.analysis.parts import by_part
from sparsenet.analysis.speed import (
    Clock,
    Mark,
    Variant,
    autocast,
    interleave,
    peak_memory,
)
from sparsenet.errors import ConfigError

# In the order of time. The head ends with the last of the detector's own modules that runs.
STEPS = ("preprocessing", "backbone", "neck", "head", "postprocessing")


@dataclass(frozen=True)
class DetectorOptions:
    """How to measure; see :class:`sparsenet.analysis.backbone_speed.SpeedOptions`."""

    device: torch.device
    precision: str = "fp32"
    repetitions: int = 5
    quiet: bool = False


class StepTimer:
    """Divides a detector's forward pass into :data:`STEPS`.

    In training, the losses lie after the head: they count as postprocessing.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """
        Args:
            model: with a module "backbone", which may hold a "bottom_up".

        Raises:
            ConfigError: If it has no backbone.
        """
        if not hasattr(model, "backbone"):
            raise ConfigError(
                "A detector is timed by part from its module `backbone`, which "
                f"{type(model).__name__} lacks. Use a META_ARCHITECTURE that has one."
            )
        self._clock = Clock(device)
        self._marks: dict[str, Mark] = {}
        self._watch(model, "model")
        self._watch(model.backbone, "pyramid")
        if hasattr(model.backbone, "bottom_up"):
            self._watch(model.backbone.bottom_up, "bottom_up")
        for name, child in model.named_children():
            if name not in ("backbone", "criterion"):
                self._watch(child, "head")

    def _watch(self, module: nn.Module, name: str) -> None:
        module.register_forward_pre_hook(lambda *_: self._note(f"{name} starts"))
        module.register_forward_hook(lambda *_: self._note(f"{name} ends"))

    def _note(self, event: str) -> None:
        self._marks[event] = self._clock.mark()

    def pop(self) -> dict[str, float]:
        """Seconds of each step of the last pass."""
        marks = self._marks
        end_of_head = marks.get("head ends", marks["pyramid ends"])
        pyramid = self._clock.seconds(marks["pyramid starts"], marks["pyramid ends"])
        bottom_up = pyramid
        if "bottom_up ends" in marks:
            bottom_up = self._clock.seconds(marks["bottom_up starts"], marks["bottom_up ends"])
        seconds = (
            self._clock.seconds(marks["model starts"], marks["pyramid starts"]),
            bottom_up,
            pyramid - bottom_up,
            self._clock.seconds(marks["pyramid ends"], end_of_head),
            self._clock.seconds(end_of_head, marks["model ends"]),
        )
        return dict(zip(STEPS, seconds))


def measure_detectors(
    models: Mapping[str, nn.Module],
    batches: Mapping[str, list[dict[str, Any]]],
    options: DetectorOptions,
    *,
    is_training: bool = False,
) -> list[dict[str, Any]]:
    """Times whole detectors in turns.

    Args:
        models: by name, on the device.
        batches: a detector's input for each of them, with ``instances`` for training.
        is_training: forward and backward pass instead of detection.

    Returns:
        One record per model: ``model``, ``gflops`` by part (of the first image, detection),
        ``peak_bytes`` and the timing's numbers.
    """
    run = _training_step if is_training else _detection
    gflops = {
        name: {k: v / 1e9 for k, v in _flops_by_part(model, batches[name][0]).items()}
        for name, model in models.items()
    }
    timers = {name: StepTimer(model, options.device) for name, model in models.items()}
    variants = {
        name: Variant(run(model, batches[name], options), timers[name].pop)
        for name, model in models.items()
    }
    timings = interleave(
        variants, device=options.device, repetitions=options.repetitions, quiet=options.quiet
    )
    return [
        {
            "model": name,
            "gflops": gflops[name],
            "peak_bytes": peak_memory(variants[name].run, options.device),
            **timing.to_dict(),
        }
        for name, timing in timings.items()
    ]


def _flops_by_part(model: nn.Module, example: dict[str, Any]) -> dict[str, float]:
    return by_part(FlopCount(model, [[example]]).by_module())


def _detection(
    model: nn.Module, batch: Sequence[dict[str, Any]], options: DetectorOptions
) -> Callable[[], object]:
    def run() -> object:
        model.eval()
        with torch.no_grad(), autocast(options.device, options.precision):
            return model(batch)

    return run


def _training_step(
    model: nn.Module, batch: Sequence[dict[str, Any]], options: DetectorOptions
) -> Callable[[], object]:
    def run() -> None:
        model.train()
        model.zero_grad(set_to_none=True)
        with autocast(options.device, options.precision):
            losses = model(batch)
        sum(losses.values()).backward()

    return run
