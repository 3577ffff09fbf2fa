"""Cases of the selective scan for ``op_speed``: the stages of SparX-Mamba-T at 224 px."""

from __future__ import annotations

from functools import partial

import torch

from sparsenet.ops.cross_scan import NUM_DIRECTIONS
from sparsenet.ops.selective_scan import backend_problem, cross_selective_scan

STAGES = {  # (H, W, E)
    "stage 1": (56, 56, 192),
    "stage 2": (28, 28, 384),
    "stage 3": (14, 14, 640),
    "stage 4": (7, 7, 1024),
}
_NUM_STATES = 1


def scan_inputs(height: int, width: int, channels: int) -> tuple[torch.Tensor, ...]:
    """Arguments of ``cross_selective_scan`` for one image, with steps and decays as in training."""
    maps = (NUM_DIRECTIONS, 1, height, width)
    return (
        torch.randn(1, height, width, channels),
        torch.randn(*maps, channels),
        -torch.rand(NUM_DIRECTIONS, channels, _NUM_STATES) - 0.5,
        torch.randn(*maps, _NUM_STATES),
        torch.randn(*maps, _NUM_STATES),
        torch.ones(NUM_DIRECTIONS, channels),
        torch.full((NUM_DIRECTIONS, channels), -4.0),  # softplus: a step of about 0.02
    )


def scan_backends() -> tuple[dict[str, partial], dict[str, partial]]:
    """Implementations that run everywhere, the reference first, and those that need a GPU."""
    on_cuda = [name for name in ("triton", "mamba") if not backend_problem(name)]
    groups = (["reference", "blocked"], on_cuda)
    return tuple({n: partial(cross_selective_scan, backend=n) for n in group} for group in groups)
