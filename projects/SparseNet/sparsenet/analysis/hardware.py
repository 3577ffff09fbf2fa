"""What a measurement ran on, and what the card could do at best."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import torchvision

import sparsenet

# Peak TFLOP/s of dense products, without sparsity: (float32 without tensor cores, bfloat16 with
# float32 sums). From NVIDIA's data sheets of each card. The first name that occurs in the device's
# name counts. T4 and V100 have no bfloat16: the number is float16's.
PEAK_TFLOPS: dict[str, tuple[float, float]] = {
    "H200": (67.0, 989.5),
    "H100 PCIe": (51.0, 756.0),
    "H100": (67.0, 989.5),  # SXM5
    "A100": (19.5, 312.0),
    "L40S": (91.6, 362.0),
    "L4": (30.3, 121.0),
    "A10": (31.2, 125.0),
    "RTX 4090": (82.6, 165.2),
    "RTX 3090": (35.6, 71.0),
    "V100": (15.7, 125.0),
    "T4": (8.1, 65.0),
}


def peak_flops(device_name: str, precision: str) -> float | None:
    """Peak of a card in FLOP/s (a multiply-add is two of these); None where it is not known.

    Args:
        device_name: as ``torch.cuda.get_device_name`` tells it.
        precision: "fp32" or "bf16".
    """
    for name, (fp32, bf16) in PEAK_TFLOPS.items():
        if name in device_name:
            return (fp32 if precision == "fp32" else bf16) * 1e12
    return None


def device_name(device: torch.device) -> str:
    """Name of the processor or card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_name()


def describe_run(device: torch.device) -> dict[str, Any]:
    """Hardware, versions and command of this process, for the record beside the numbers."""
    return {
        "device": device_name(device),
        "cpu_threads": torch.get_num_threads(),
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "sparsenet": sparsenet.__version__,
        "detectron2": sparsenet.DETECTRON2,
        "commit": _commit(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def one_line(run: dict[str, Any]) -> str:
    """The record as a sentence for below a table."""
    return (
        f"{run['device']}, {run['cpu_threads']} CPU thread(s), torch {run['torch']}, "
        f"commit {run['commit']}: `{run['command']}`"
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    """Short hash of the checkout, with "+" where files differ from it; "unknown" outside of one."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:  # no git on this machine
        return "unknown"
    return result.stdout.strip() or "unknown"
