"""Timing of several variants side by side, by part, and the memory of one step."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from sparsenet.errors import ConfigError

PRECISIONS = ("fp32", "bf16")
Mark = Any  # a time in seconds on the CPU, a recorded event on a GPU


def no_parts() -> dict[str, float]:
    """For variants that are measured as a whole."""
    return {}


@dataclass(frozen=True)
class Variant:
    """Something to time.

    Attributes:
        run: one repetition.
        parts: called after each repetition, when the device has finished: seconds by part.
    """

    run: Callable[[], object]
    parts: Callable[[], dict[str, float]] = no_parts


@dataclass(frozen=True)
class Timing:
    """Seconds of every repetition; ``parts`` by name, in the same order."""

    seconds: tuple[float, ...]
    parts: Mapping[str, tuple[float, ...]]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(largest − smallest) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    def part(self, name: str) -> float:
        """Median seconds of one part."""
        return statistics.median(self.parts[name])

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "median_s": self.median,
            "spread": self.spread,
            "seconds": list(self.seconds),
            "parts_s": {name: self.part(name) for name in self.parts},
        }


def interleave(
    variants: Mapping[str, Variant],
    *,
    device: torch.device,
    repetitions: int = 5,
    warmup: int = 1,
    quiet: bool = False,
) -> dict[str, Timing]:
    """Times all variants in turns, so that drift of the machine meets each of them alike.

    Args:
        repetitions: rounds that count.
        warmup: rounds before them.

    Raises:
        ConfigError: If there is no round to count.
    """
    if repetitions < 1 or warmup < 0:
        raise ConfigError(
            "A timing needs at least one repetition and no negative warm-up, got "
            f"{repetitions} and {warmup}."
        )
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    rounds = [(i, name) for i in range(warmup + repetitions) for name in variants]
    for i, name in tqdm(rounds, desc="timing", unit="run", disable=quiet, leave=False):
        synchronise(device)
        start = time.perf_counter()
        variants[name].run()
        synchronise(device)
        elapsed, shares = time.perf_counter() - start, variants[name].parts()
        if i >= warmup:
            seconds[name].append(elapsed)
            parts[name].append(shares)
    return {
        name: Timing(
            tuple(seconds[name]),
            {key: tuple(shares[key] for shares in parts[name]) for key in parts[name][0]},
        )
        for name in variants
    }


def synchronise(device: torch.device) -> None:
    """Waits until the device has finished; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pick_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ConfigError: If there is none.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--device must name a device of this machine, got {name!r}: {reason} Use cpu."
        ) from error
    return torch.device(name)


class Clock:
    """Marks of time inside a running model: on a GPU, events in its stream, which wait for none."""

    def __init__(self, device: torch.device) -> None:
        self.is_cuda = device.type == "cuda"

    def mark(self) -> Mark:
        if not self.is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Mark, end: Mark) -> float:
        """Time between two marks; on a GPU only after it has been synchronised."""
        return start.elapsed_time(end) / 1e3 if self.is_cuda else end - start


class ModuleTimer:
    """Sums the forward time of some modules until it is asked for."""

    def __init__(self, modules: Sequence[nn.Module], device: torch.device) -> None:
        """
        Args:
            modules: none may be inside another.
        """
        self._clock = Clock(device)
        self._marks: list[Mark] = []
        for module in modules:
            module.register_forward_pre_hook(self._note)
            module.register_forward_hook(self._note)

    def _note(self, *_: Any) -> None:
        self._marks.append(self._clock.mark())

    def pop(self) -> float:
        """Seconds since the last call."""
        marks, self._marks = self._marks, []
        return sum(self._clock.seconds(*pair) for pair in zip(marks[::2], marks[1::2]))


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The context of a precision; float32 means float32 in products and convolutions, too.

    Raises:
        ConfigError: If the precision is not one of :data:`PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision must be among {', '.join(PRECISIONS)}, got {precision!r}.")
    # cuDNN computes float32 convolutions in TF32 unless it is told not to.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def peak_memory(step: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors that one step holds at most, beyond what was there before it.

    On a GPU by the allocator's own count; on a CPU by the storages that operators make in this
    thread, without their internal buffers.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _LiveStorages() as live:
        step()
    return live.peak


class _LiveStorages(TorchDispatchMode):
    """Follows the bytes of all storages that were made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        before = {_key(t) for t in _tensors([args, kwargs])}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors([result]):
            if _key(tensor) not in before | self._known:
                self._follow(tensor)
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        size = storage.nbytes()
        self._known.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
