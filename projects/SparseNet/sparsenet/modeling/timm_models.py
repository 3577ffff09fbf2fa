"""Classifiers of timm's registry, LSNet and SparX-Mamba among them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sparsenet.errors import CheckpointError, ConfigError, MissingDependencyError
from sparsenet.modeling.checkpoint import copy_state

# Keys that older files lack and that a fresh model holds correctly.
_OPTIONAL_KEYS = ("num_batches_tracked", "attention_bias_idxs")


def import_timm() -> Any:
    """timm, with the models of this project in its registry.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        import timm

        import sparsenet.modeling.backbone.lsnet_classifier
        import sparsenet.modeling.backbone.sparx_mamba_classifier  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"Classification needs timm, importing it failed: {error}. "
            "Install it with `pip install 'sparsenet[classification]'`."
        ) from error
    return timm


def published_config(name: str) -> Any:
    """What timm's registry says of a model and its published weights: ``PretrainedCfg``.

    Raises:
        ConfigError: If there is no such model, or no such weights of it.
        MissingDependencyError: If timm is not installed.
    """
    timm = import_timm()
    try:
        if timm.is_model(name):
            return timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    except RuntimeError:  # the model has no weights of this tag
        pass
    names = [*timm.list_models(), *timm.list_pretrained()]
    near = difflib.get_close_matches(name, names, n=4) or ["lsnet_t"]
    raise ConfigError(
        f"The model must be one of timm's registry, got {name!r}. Near: {', '.join(near)}."
    )


def create_classifier(
    name: str,
    num_classes: int,
    options: Mapping[str, Any] | None = None,
    *,
    pretrained: bool = False,
) -> nn.Module:
    """A model of timm's registry.

    Args:
        name: For example "lsnet_t".
        num_classes: 0 leaves the head out.
        options: Further arguments of the model, such as ``drop_path_rate``.
        pretrained: Takes published weights from the hub.

    Raises:
        ConfigError: If there is no such model, it does not take an option, or has no weights there.
        CheckpointError: If the weights cannot be fetched.
    """
    published = published_config(name)
    if pretrained and not published.has_weights:
        raise ConfigError(f"timm's hub must have weights of {name}, it has none. Name a file.")
    try:
        return import_timm().create_model(
            name, pretrained=pretrained, num_classes=num_classes, **(options or {})
        )
    except TypeError as error:
        raise ConfigError(f"The model {name} must take {dict(options or {})}: {error}.") from error
    except OSError as error:
        raise CheckpointError(
            f"The weights of {name} must be in reach of timm's hub, fetching them failed: {error} "
            "Copy them here and name the file (MODEL.WEIGHTS)."
        ) from error


def load_classifier_state(
    model: nn.Module, state: Mapping[str, Tensor], *, source: str, new_head: bool = False
) -> None:
    """Copies weights into a classifier; LSNet's published files are made to fit.

    Args:
        source: What error messages call the weights.
        new_head: Heads of another number of classes may stay as they are.

    Raises:
        CheckpointError: If weights are missing or of another model.
    """
    from sparsenet.modeling.backbone.lsnet_classifier import LSNetClassifier, checkpoint_filter_fn

    if isinstance(model, LSNetClassifier):
        state = checkpoint_filter_fn({"model": state}, model)
    report = copy_state(model, state, source=source)
    heads = head_names(model) if new_head else ()
    wrong = [
        key
        for key in (*report.missing, *report.unexpected, *report.wrong_shape)
        if not key.split(":")[0].endswith(_OPTIONAL_KEYS) and not key.startswith(heads)
    ]
    if wrong:
        raise CheckpointError(
            f"{source} must hold the weights of this model and nothing else: {report}\n"
            "Use the model and the classes of its training."
        )


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Of the layers that turn embeddings into logits."""
    names = model.default_cfg["classifier"]
    return (names,) if isinstance(names, str) else tuple(names)
