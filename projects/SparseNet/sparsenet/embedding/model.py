"""A trained classifier as a source of embeddings and class scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from sparsenet.errors import CheckpointError, ConfigError
from sparsenet.modeling.checkpoint import read_checkpoint
from sparsenet.modeling.timm_models import (
    create_classifier,
    head_names,
    load_classifier_state,
)

logger = logging.getLogger(__name__)

# Pixels per cell of the grid that its position biases are stored for.
_LSNET_STRIDE = 64


@dataclass(frozen=True)
class Embedder:
    """A model in evaluation mode with what it expects.

    Args:
        model: A timm model on ``device``.
        transform: From an upright RGB photo to the model's input (3, h, w).
        class_names: By class number; empty where the model has no head.
        device: Where it computes.
    """

    model: nn.Module
    transform: Callable[[Image.Image], Tensor]
    class_names: tuple[str, ...]
    device: torch.device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B, D) and class probabilities (B, K), None without a head, on the CPU."""
        maps = self.model.forward_features(images.to(self.device))
        embeddings = self.model.forward_head(maps, pre_logits=True).float().cpu()  # (B, D)
        if not self.class_names:
            return embeddings, None
        return embeddings, self.model.forward_head(maps).float().softmax(1).cpu()


def load_embedder(
    model_name: str | None,
    checkpoint: Path,
    *,
    class_names: Sequence[str] = (),
    input_size: int | None = None,
    device: str = "auto",
    trust: bool = False,
) -> Embedder:
    """Builds a model and reads its weights.

    Args:
        model_name: Of timm's registry, LSNet's included; None takes what training wrote into the
            checkpoint.
        checkpoint: Weights of that model.
        class_names: Of the head; without them the head is left out.
        input_size: Side of the square input; None takes what the model was trained with.
        device: ``"auto"`` takes the GPU where there is one.
        trust: Allows checkpoints that hold pickles.

    Raises:
        CheckpointError: If the weights are not all there or belong to another model.
        ConfigError: If the model or device is unknown.
        MissingDependencyError: If timm is not installed.
    """
    content = read_checkpoint(checkpoint, trust=trust)
    model_name = model_name or content.get("arch")
    if not isinstance(model_name, str):
        raise CheckpointError(f"{checkpoint} does not name its model: pass --model.")
    _compare_names(checkpoint, content.get("class_names") or (), class_names)
    target = _device(device)
    options = {**content.get("model_options", {}), **_shape_options(model_name, content["model"])}
    model = create_classifier(model_name, len(class_names), options)
    state = content["model"] if class_names else _without_head(content["model"], model)
    load_classifier_state(model, state, source=str(checkpoint))
    transform = _transform(model, input_size or content.get("input_size"), content.get("crop_pct"))
    return Embedder(model.eval().to(target), transform, tuple(class_names), target)


def _compare_names(checkpoint: Path, trained: Sequence[str], given: Sequence[str]) -> None:
    """Names in another order would label every image wrongly, and nothing else would show it."""
    if trained and given and list(trained) != list(given):
        logger.warning(
            "The classes given are not those that %s was trained with: %s … and %s … . Use the "
            "class mapping that its training wrote, unless you renamed them on purpose.",
            checkpoint,
            ", ".join(given[:3]),
            ", ".join(trained[:3]),
        )


def _transform(
    model: nn.Module, side: int | None, crop_pct: float | None
) -> Callable[[Image.Image], Tensor]:
    """timm's for evaluation; what is None comes from the model."""
    from timm.data import create_transform, resolve_data_config

    wanted = {"input_size": side and (3, side, side), "crop_pct": crop_pct}
    config = resolve_data_config({k: v for k, v in wanted.items() if v}, model=model)
    return create_transform(**config, is_training=False)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device must be auto, cpu or cuda, got {name!r}.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda needs a GPU, and torch sees none. Use --device cpu.")
    return device


def _shape_options(model_name: str, state: dict[str, Tensor]) -> dict[str, int]:
    """What the weights of an LSNet say of how it was built: projection, grid of the biases."""
    options: dict[str, int] = {}
    for key, value in state.items() if model_name.startswith("lsnet_") else ():
        if key == "projection.0.l.weight":
            options["feature_dim"] = len(value)
        elif key.endswith("attention_biases"):
            options["img_size"] = _LSNET_STRIDE * math.isqrt(value.shape[1])
    return options


def _without_head(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights that a model built without a head has a place for."""
    heads = tuple(name.split(".")[0] + "." for name in head_names(model))
    own = model.state_dict()
    return {key: value for key, value in state.items() if key in own or not key.startswith(heads)}
