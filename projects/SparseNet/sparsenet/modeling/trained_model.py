"""A model of a configuration with its weights."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

import sparsenet.modeling  # noqa: F401  (registers the models)
from sparsenet.errors import ConfigError
from sparsenet.modeling.checkpoint import copy_state, read_checkpoint

logger = logging.getLogger(__name__)


def build_trained_model(
    cfg: CfgNode, *, trust_checkpoint: bool = False
) -> tuple[nn.Module, tuple[str, ...]]:
    """Builds the model and loads ``MODEL.WEIGHTS``.

    Returns:
        The model, and the class names stored beside the weights (none: empty).

    Raises:
        ConfigError: If ``MODEL.WEIGHTS`` is empty.
        CheckpointError: If the weights cannot be read safely or fit nothing.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            "Detection needs trained weights, and MODEL.WEIGHTS is empty. Name a file: "
            "`--opts MODEL.WEIGHTS path`, or weights=... in Python."
        )
    checkpoint = read_checkpoint(cfg.MODEL.WEIGHTS, trust=trust_checkpoint)
    model = build_model(cfg)
    report = copy_state(model, checkpoint["model"], source=cfg.MODEL.WEIGHTS)
    logger.info("Weights of %s: %s", cfg.MODEL.WEIGHTS, report)
    return model, tuple(checkpoint.get("class_names", ()))
