"""A detector's parts: backbone, neck, head; the names are those of Detectron2's models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from torch import nn

from sparsenet.errors import ConfigError
from sparsenet.modeling.trained_model import build_trained_model

PARTS = ("backbone", "neck", "head")
# A feature pyramid is called "backbone" and holds the backbone proper as "bottom_up".
PYRAMID, BOTTOM_UP = "backbone", "backbone.bottom_up"


def build_model_on(
    cfg: CfgNode,
    device: torch.device,
    *,
    use_weights: bool = False,
    trust_checkpoint: bool = False,
) -> nn.Module:
    """The model of a configuration on a device, with fresh weights or those of ``MODEL.WEIGHTS``.

    Raises:
        ConfigError: If the weights are wanted and ``MODEL.WEIGHTS`` is empty, or if Detectron2 has
            no such ``MODEL.META_ARCHITECTURE``.
        CheckpointError: If they cannot be read safely or fit nothing.
    """
    if cfg.MODEL.META_ARCHITECTURE not in META_ARCH_REGISTRY:
        names = ", ".join(sorted(name for name, _ in META_ARCH_REGISTRY))
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE must be one of {names}, got "
            f"{cfg.MODEL.META_ARCHITECTURE!r}. The real Detectron2 has more (README)."
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = str(device)
    if use_weights:
        return build_trained_model(cfg, trust_checkpoint=trust_checkpoint)[0]
    cfg.MODEL.TIMM.PRETRAINED = False
    return build_model(cfg)


def by_part(totals: Mapping[str, float]) -> dict[str, float]:
    """Sums per part, and of all, from totals per module ("" is the whole model).

    A model without a module "backbone" is all head; one without a pyramid has no neck.
    """
    pyramid = totals.get(PYRAMID, 0)
    backbone = totals.get(BOTTOM_UP, pyramid)
    sums = (backbone, pyramid - backbone, totals[""] - pyramid)
    return {**dict(zip(PARTS, sums)), "total": totals[""]}
