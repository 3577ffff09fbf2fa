"""Combinations of configuration keys that no part of the project can do."""

from __future__ import annotations

from detectron2.config import CfgNode

from sparsenet.data import is_augmented
from sparsenet.errors import ConfigError


def require_possible(cfg: CfgNode) -> None:
    """Refuses combinations that would be ignored, or fail after the model has been built.

    Raises:
        ConfigError: For semantic segmentation in tiles, with ``INPUT.AUG`` or letterboxed, and for
            training of masks in tiles.
    """
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        states = {
            "INPUT.TILE.ENABLED": cfg.INPUT.TILE.ENABLED,
            "TEST.TILE.ENABLED": cfg.TEST.TILE.ENABLED,
            "INPUT.LETTERBOX or the PROB of an INPUT.AUG": is_augmented(cfg),
        }
        for key, is_on in states.items():
            if is_on:
                raise ConfigError(
                    f"{key} must be off for the SemanticSegmentor, which takes whole photos. "
                    "INPUT.CROP and INPUT.COLOR_DISTORTION augment them."
                )
    if cfg.MODEL.MASK_ON and cfg.INPUT.TILE.ENABLED:
        raise ConfigError(
            "MODEL.MASK_ON must be False where INPUT.TILE is on: tiles of the training have boxes "
            "alone. Train masks on whole photos."
        )
