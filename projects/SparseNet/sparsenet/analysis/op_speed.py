"""Time and memory of operators that have several implementations, side by side.

To measure another operator, add to :data:`OPERATORS` a function that lists its cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from sparsenet.analysis.scan_speed import STAGES, scan_backends, scan_inputs
from sparsenet.analysis.speed import Variant, interleave, peak_memory
from sparsenet.analysis.tables import milliseconds
from sparsenet.ops.ska import ska_plain

Operator = Callable[..., Tensor]

SKA_SHARE = 8  # channels per kernel
SKA_MAPS = {  # (B, C, H, W), channels first; images of 224 px unless told otherwise
    "LSNet-T stage 2": (8, 128, 14, 14),
    "LSNet-T stage 3": (8, 256, 7, 7),
    "LSNet-B stage 1": (8, 128, 28, 28),
    "LSNet-T stage 2, 800 px": (1, 128, 50, 50),
}
SKA_WINDOWS = {  # (P, C, S, S), packed windows with a halo of one cell, channels last
    "400 windows of stage 1": (400, 64, 7, 7),
    "100 windows of stage 2": (100, 128, 7, 7),
    "25 windows of stage 3": (25, 256, 7, 7),
}
COPY_BYTES = 2**28  # beyond all caches


@dataclass(frozen=True)
class OpCase:
    """One operator at one shape.

    Attributes:
        inputs: all floating point, all differentiated.
        implementations: by name; all map ``inputs`` to the same tensor. The first is the reference.
        on_cuda: more of them, which need a GPU.
    """

    name: str
    inputs: tuple[Tensor, ...]
    implementations: Mapping[str, Operator]
    on_cuda: Mapping[str, Operator] = field(default_factory=dict)


def ska_cases(is_compiled: bool) -> list[OpCase]:
    """Small-kernel aggregation on LSNet's maps and on packed windows."""
    cases = []
    for padding, shapes in ((1, SKA_MAPS), (0, SKA_WINDOWS)):
        reference = partial(ska_plain, padding=padding)
        implementations = {
            "plain": reference,
            "sparsenet::ska": partial(torch.ops.sparsenet.ska, padding=padding),
        }
        if is_compiled:
            implementations["plain, compiled"] = torch.compile(reference, dynamic=False)
        for name, shape in shapes.items():
            inputs = _ska_inputs(shape, padding)
            cases.append(OpCase(f"{name} {shape}", inputs, implementations))
    return cases


def _ska_inputs(shape: tuple[int, int, int, int], padding: int) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = shape
    if padding:
        kernels = torch.randn(batch, channels // SKA_SHARE, 9, height, width)
        return torch.randn(shape), kernels
    grown = torch.randn(batch, height + 2, width + 2, channels)
    kernels = torch.randn(batch, height, width, 9, channels // SKA_SHARE)
    return grown.permute(0, 3, 1, 2), kernels.permute(0, 4, 3, 1, 2)


def scan_cases(is_compiled: bool) -> list[OpCase]:
    """The selective scan on SparX-Mamba's maps; compiling a loop over all cells takes hours."""
    everywhere, on_cuda = scan_backends()
    return [
        OpCase(f"{name} {shape}", scan_inputs(*shape), everywhere, on_cuda)
        for name, shape in STAGES.items()
    ]


# Each maps "measure torch.compile, too" to the cases, in float32 on the CPU.
OPERATORS: dict[str, Callable[[bool], list[OpCase]]] = {"ska": ska_cases, "scan": scan_cases}


def measure_operator(
    cases: Sequence[OpCase],
    *,
    device: torch.device,
    dtype: torch.dtype,
    repetitions: int = 5,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Forward pass without gradients, and forward and backward pass, of every implementation.

    Returns:
        One record per case and implementation: ``case``, ``implementation``, ``forward_s`` and
        ``training_s`` (medians), ``training_peak`` (bytes that both passes hold at most beside the
        inputs), ``floor`` (bytes that a forward pass must read and write at least), ``floor_s``
        (what they take at the rate of a large copy on this machine; maps that fit in a cache can
        take less) and ``error`` (largest difference from the reference, relative to the largest
        value).
    """
    records = []
    bandwidth = copy_bandwidth(device)
    for case in cases:
        inputs = tuple(x.to(device, dtype).requires_grad_() for x in case.inputs)
        on_device = case.on_cuda if device.type == "cuda" else {}
        implementations = {**case.implementations, **on_device}
        outputs = {name: run(*inputs).detach() for name, run in implementations.items()}
        reference = next(iter(outputs.values()))
        variants: dict[tuple[str, str], Variant] = {}
        for name, run in implementations.items():
            variants[name, "forward"] = Variant(partial(_forward, run, inputs))
            variants[name, "training"] = Variant(partial(_train, run, inputs, reference))
        timings = interleave(
            variants, device=device, repetitions=repetitions, warmup=3, quiet=quiet
        )
        records += [
            {
                "case": case.name,
                "implementation": name,
                "forward_s": timings[name, "forward"].median,
                "training_s": timings[name, "training"].median,
                "training_peak": peak_memory(variants[name, "training"].run, device),
                "floor": (floor := _num_bytes(*inputs, reference)),
                "floor_s": floor / bandwidth,
                "error": float((output - reference).abs().max() / reference.abs().max()),
            }
            for name, output in outputs.items()
        ]
    return records


def operator_rows(records: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The records for a Markdown table."""
    return [
        {
            "shape": record["case"],
            "implementation": record["implementation"],
            "forward, ms": milliseconds(record["forward_s"]),
            "GB/s": f"{record['floor'] / record['forward_s'] / 1e9:.3g}",
            "forward + backward, ms": milliseconds(record["training_s"]),
            "peak, MiB": f"{record['training_peak'] / 2**20:.1f}",
            "floor, ms": milliseconds(record["floor_s"]),
            "error": f"{record['error']:.0e}",
        }
        for record in records
    ]


@cache
def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second that a large copy reads and writes on a device; measured once."""
    source = torch.zeros(COPY_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    copy = Variant(partial(target.copy_, source))
    timing = interleave({"copy": copy}, device=device, repetitions=5, quiet=True)["copy"]
    return _num_bytes(source, target) / timing.median


def _num_bytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _forward(run: Operator, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return run(*inputs)


def _train(run: Operator, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(run(*inputs), inputs, grad)
