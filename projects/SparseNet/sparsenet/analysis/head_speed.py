"""A detector's head beside another implementation of it, on the same inputs and weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparsenet.analysis.detector_speed import DetectorOptions
from sparsenet.analysis.speed import Variant, autocast, interleave, peak_memory
from sparsenet.errors import CheckpointError, ConfigError

OURS, PEER = "ours", "peer"


def load_peer(name: str) -> Callable[..., nn.Module]:
    """The callable of "MODULE:CALLABLE".

    Raises:
        ConfigError: If there is none of that name.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"--peer must be MODULE:CALLABLE of something that can be imported, got {name!r}: "
            f"{error}. Put its folder on PYTHONPATH."
        ) from error


def measure_heads(
    cfg: CfgNode,
    model: nn.Module,
    batch: list[dict[str, Any]],
    build_peer: Callable[..., nn.Module],
    options: DetectorOptions,
) -> list[dict[str, Any]]:
    """Times ``model.head`` and the peer in turns, forward and forward with backward.

    Args:
        build_peer: called with the configuration and the shapes of the maps by name; its module
            takes the arguments of ``model.head`` and has parameters of the same names.

    Returns:
        One record per head and mode ("inference", "training"): ``peak_bytes``, ``difference`` (the
        largest one between the two heads' first outputs) and the timing's numbers.

    Raises:
        CheckpointError: If the weights do not fit the peer.
    """
    shapes = model.backbone.output_shape()
    peer = build_peer(cfg, {name: shapes[name] for name in model.in_features})
    try:
        peer.load_state_dict(model.head.state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"The peer must take the weights of the head: {error}") from error
    heads = {OURS: model.head, PEER: peer.to(options.device)}
    inputs = tuple(_spread_boxes(each) for each in _head_inputs(model, batch))
    with torch.no_grad():
        first, second = (_tensors(head.eval()(*inputs))[0] for head in heads.values())
    variants = {
        (name, mode): Variant(step(head, inputs, options))
        for name, head in heads.items()
        for mode, step in (("inference", _inference), ("training", _training))
    }
    timings = interleave(
        variants, device=options.device, repetitions=options.repetitions, quiet=options.quiet
    )
    return [
        {
            "head": name,
            "mode": mode,
            "difference": float((first - second).abs().max()),
            "peak_bytes": peak_memory(variants[name, mode].run, options.device),
            **timing.to_dict(),
        }
        for (name, mode), timing in timings.items()
    ]


def _head_inputs(model: nn.Module, batch: list[dict[str, Any]]) -> tuple[Any, ...]:
    """What the head is called with for this batch, detached."""
    seen: list[tuple[Any, ...]] = []
    hook = model.head.register_forward_pre_hook(lambda _, args: seen.append(args))
    try:
        with torch.no_grad():
            model.eval()(batch)
    finally:
        hook.remove()
    return seen[0]


def _spread_boxes(inputs: Any) -> Any:
    """First boxes (N, P, 4) as a trained model has them: of all sizes, within the same hull.

    Those of an untrained model with learned proposals all are the image: one level is pooled.
    """
    if not (isinstance(inputs, Tensor) and inputs.dim() == 3 and inputs.shape[-1] == 4):
        return inputs
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(2, *inputs.shape[:2], 2, generator=generator).to(inputs)
    hull = inputs.flatten(0, 1)[:, 2:].amax(dim=0)  # (2,)
    sides = (0.02 + 0.6 * shares[0] ** 3) * hull  # (N, P, 2)
    low = shares[1] * (hull - sides)
    return torch.cat([low, low + sides], dim=-1)


def _inference(
    head: nn.Module, inputs: tuple[Any, ...], options: DetectorOptions
) -> Callable[[], object]:
    def run() -> object:
        head.eval()
        with torch.no_grad(), autocast(options.device, options.precision):
            return head(*inputs)

    return run


def _training(
    head: nn.Module, inputs: tuple[Any, ...], options: DetectorOptions
) -> Callable[[], object]:
    def run() -> None:
        head.train()
        head.zero_grad(set_to_none=True)
        # The maps and first features need gradients, too: the backbone trains.
        leaves = pytree.tree_map_only(Tensor, lambda t: t.detach().requires_grad_(), inputs)
        with autocast(options.device, options.precision):
            outputs = _tensors(head(*leaves))
        sum(output.float().mean() for output in outputs if output.requires_grad).backward()

    return run


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
