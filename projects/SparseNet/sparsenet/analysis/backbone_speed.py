"""Time, memory and arithmetic of the sparse backbones over the share of windows that they keep.

All variants are timed in turns in one process. The peer is torchvision's Swin-T (arXiv 2103.14030),
dense. The reference of a training step computes every window and masks afterwards: what a sparse
backbone costs that is sparse in its result alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn
from torchvision.models import swin_t

import sparsenet.modeling.backbone  # noqa: F401  (registers the designs)
from sparsenet.analysis.flops import FlopCount
from sparsenet.analysis.hardware import device_name, peak_flops
from sparsenet.analysis.speed import (
    ModuleTimer,
    Timing,
    Variant,
    autocast,
    interleave,
    peak_memory,
)
from sparsenet.config import load_config
from sparsenet.layers.score_net import WindowSelection, select_windows
from sparsenet.ops.windows import WindowGrid, spread_windows

KEEP_RATIOS = (1.0, 0.7, 0.5, 0.3, 0.1, 0.02)
PEER = "Swin-T, dense (torchvision)"
LOCAL = "local blocks"


@dataclass(frozen=True)
class BackboneCase:
    """One backbone; the words are those of ``MODEL.SPARSENET``."""

    local_module: str
    size: str
    design: str = "corrected"

    def __str__(self) -> str:
        return f"{self.local_module} {self.size}, {self.design}"

    def build(self) -> nn.Module:
        """The backbone with fresh weights and a keep ratio of 1.

        Raises:
            ConfigError: If there is no such backbone.
        """
        names = ("LOCAL_MODULE", "SIZE", "DESIGN", "KEEP_RATIO")
        values = (self.local_module, self.size, self.design, "(1.0, 1.0, 1.0, 1.0)")
        pairs = zip((f"MODEL.SPARSENET.{name}" for name in names), values)
        cfg = load_config(None, [word for pair in pairs for word in pair])
        build = BACKBONE_REGISTRY.get("build_sparsenet_backbone")
        return build(cfg, ShapeSpec(channels=3))


@dataclass(frozen=True)
class SpeedOptions:
    """How to measure.

    Attributes:
        precision: "fp32" or "bf16".
        is_compiled: by ``torch.compile``; the share of the local blocks is not told then.
        repetitions: rounds that count; medians are taken over them.
        has_peer: also time Swin-T.
    """

    device: torch.device
    precision: str = "fp32"
    is_compiled: bool = False
    repetitions: int = 5
    has_peer: bool = True
    quiet: bool = False


def set_keep_ratio(backbone: nn.Module, keep_ratio: float) -> None:
    """Sets the share of kept windows of every stage."""
    for stage in sparse_stages(backbone):
        stage.keep_ratio = keep_ratio


def sparse_stages(backbone: nn.Module) -> list[nn.Module]:
    """The stages that select windows, of either design."""
    return [module for module in backbone.modules() if hasattr(module, "keep_ratio")]


def local_blocks(backbone: nn.Module) -> list[nn.Module]:
    """The blocks that run on kept windows alone."""
    stages = sparse_stages(backbone)
    lists = [getattr(stage, "local_blocks", None) or stage.blocks for stage in stages]
    return [block for blocks in lists for block in blocks]


def measure_inference(
    cases: Sequence[BackboneCase],
    keep_ratios: Sequence[float],
    images: Tensor,
    options: SpeedOptions,
) -> list[dict[str, Any]]:
    """Forward passes without gradients: all cases at all keep ratios, and the peer.

    Args:
        images: (B, 3, H, W), normalised.

    Returns:
        One record per variant: ``backbone``, ``keep`` (None for the peer), ``gflops``, the timing's
        numbers, ``outside`` (share of time outside the local blocks) and ``peak_share`` (share of
        the card's peak; None where that is not known).
    """
    images = images.to(options.device)
    variants: dict[tuple[str, float | None], Variant] = {}
    gflops: dict[tuple[str, float | None], float] = {}
    for case in cases:
        backbone = case.build().eval().to(options.device)
        for keep in keep_ratios:
            set_keep_ratio(backbone, keep)
            gflops[str(case), keep] = FlopCount(backbone, [images]).total() / 1e9
        variants |= _inference_variants(str(case), backbone, keep_ratios, images, options)
    if options.has_peer:
        peer = swin_t(weights=None).features.eval().to(options.device)
        gflops[PEER, None] = FlopCount(peer, [images]).total() / 1e9
        variants[PEER, None] = Variant(_forward(_compiled(peer, options), images, options))
    timings = _interleave(variants, options)
    peak = peak_flops(device_name(options.device), options.precision)
    return [
        {
            "backbone": name,
            "keep": keep,
            "gflops": gflops[name, keep],
            "outside": _outside(timing),
            "peak_share": None if peak is None else 2e9 * gflops[name, keep] / timing.median / peak,
            **timing.to_dict(),
        }
        for (name, keep), timing in timings.items()
    ]


def measure_training(
    cases: Sequence[BackboneCase],
    keep_ratio: float,
    images: Tensor,
    options: SpeedOptions,
) -> list[dict[str, Any]]:
    """Forward and backward passes, packed and masked; corrected designs only.

    Returns:
        One record per case and form: ``backbone``, ``keep``, ``form`` ("packed" or "masked"),
        ``peak_bytes`` and the timing's numbers.
    """
    images = images.to(options.device)
    variants = {}
    for case in cases:
        packed, masked = (case.build().train().to(options.device) for _ in range(2))
        set_keep_ratio(packed, keep_ratio)
        masked.stages = nn.ModuleList(MaskedStage(stage, keep_ratio) for stage in masked.stages)
        for form, backbone in (("packed", packed), ("masked", masked)):
            variants[str(case), form] = Variant(_training_step(backbone, images, options))
    timings = _interleave(variants, options)
    return [
        {
            "backbone": name,
            "keep": keep_ratio,
            "form": form,
            "peak_bytes": peak_memory(variants[name, form].run, options.device),
            **timing.to_dict(),
        }
        for (name, form), timing in timings.items()
    ]


class MaskedStage(nn.Module):
    """A stage that computes every window and puts back its input where a window is not kept."""

    def __init__(self, stage: nn.Module, keep_ratio: float) -> None:
        """
        Args:
            stage: of the corrected design, with a keep ratio of 1.
        """
        super().__init__()
        self.stage = stage
        self.share = keep_ratio

    def forward(self, x: Tensor, content: Tensor | None) -> tuple[Tensor, WindowSelection]:
        """See :class:`sparsenet.modeling.backbone.sparsenet.SparseStage`."""
        out, selection = self.stage(x if torch.is_grad_enabled() else x.clone(), content)
        kept = select_windows(selection.logits, selection.valid, self.share)
        grid = WindowGrid((x.shape[1], x.shape[2]), self.stage.window_size)
        mask = spread_windows(kept.view(-1, *grid.size, 1), grid)  # (B, H, W, 1)
        return torch.where(mask, out, x), selection


def _inference_variants(
    name: str,
    backbone: nn.Module,
    keep_ratios: Sequence[float],
    images: Tensor,
    options: SpeedOptions,
) -> dict[tuple[str, float | None], Variant]:
    timer = None if options.is_compiled else ModuleTimer(local_blocks(backbone), options.device)
    run = _forward(_compiled(backbone, options), images, options)

    def at(keep: float) -> Callable[[], object]:
        def run_at_keep() -> object:
            set_keep_ratio(backbone, keep)
            return run()

        return run_at_keep

    def parts() -> dict[str, float]:
        return {} if timer is None else {LOCAL: timer.pop()}

    return {(name, keep): Variant(at(keep), parts) for keep in keep_ratios}


def _forward(model: nn.Module, images: Tensor, options: SpeedOptions) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad(), autocast(options.device, options.precision):
            return model(images)

    return run


def _training_step(
    backbone: nn.Module, images: Tensor, options: SpeedOptions
) -> Callable[[], object]:
    model = _compiled(backbone, options)

    def run() -> None:
        backbone.zero_grad(set_to_none=True)
        with autocast(options.device, options.precision):
            loss = sum(feature.float().square().mean() for feature in model(images).values())
        loss.backward()

    return run


def _compiled(model: nn.Module, options: SpeedOptions) -> Callable[[Tensor], Any]:
    return torch.compile(model) if options.is_compiled else model


def _interleave(variants: dict[Any, Variant], options: SpeedOptions) -> dict[Any, Timing]:
    return interleave(
        variants,
        device=options.device,
        repetitions=options.repetitions,
        quiet=options.quiet,
    )


def _outside(timing: Timing) -> float | None:
    return None if LOCAL not in timing.parts else 1 - timing.part(LOCAL) / timing.median
