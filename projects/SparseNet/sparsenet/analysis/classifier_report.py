"""Size and speed of a classifier."""

from __future__ import annotations

import torch
from torch import nn

from sparsenet.analysis.flops import FlopCount
from sparsenet.analysis.speed import Variant, interleave


def classifier_size(model: nn.Module, side: int) -> dict[str, float]:
    """Parameters and multiply-adds.

    Args:
        side: Of the square input, pixels.

    Returns:
        "parameters_m" in millions and "gmacs" for one image.
    """
    device = next(model.parameters()).device
    macs = FlopCount(model, (torch.zeros(1, 3, side, side, device=device),)).total()
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters_m": parameters / 1e6, "gmacs": macs / 1e9}


def images_per_second(
    model: nn.Module, side: int, batch_size: int, *, repetitions: int = 30, quiet: bool = False
) -> float:
    """Throughput of evaluation in float32, by the median repetition."""
    device = next(model.parameters()).device
    images = torch.randn(batch_size, 3, side, side, device=device)
    model.eval()

    def run() -> None:
        with torch.inference_mode():
            model(images)

    options = {"device": device, "repetitions": repetitions, "warmup": 5, "quiet": quiet}
    return batch_size / interleave({"model": Variant(run)}, **options)["model"].median
