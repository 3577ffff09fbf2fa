"""Any model of timm (https://github.com/huggingface/pytorch-image-models, Apache-2.0) that gives
maps of several strides, as a backbone of Detectron2: MobileNetV3, PVTv2, Swin, ConvNeXt …"""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from sparsenet.errors import CheckpointError, ConfigError, MissingDependencyError
from sparsenet.modeling.backbone.with_neck import add_neck

NORMS = ("", "FrozenBN", "SyncBN")


class TimmBackbone(Backbone):
    """Maps "c1", "c2" …, named by the power of two of their stride.

    Layers that no map needs do not learn, or are not built.
    """

    @configurable
    def __init__(
        self,
        name: str,
        *,
        out_features: tuple[str, ...] = ("c2", "c3", "c4", "c5"),
        pretrained: bool = False,
        freeze_at: int = 0,
        norm: str = "",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            name: of the model in timm's registry.
            out_features: maps to put out.
            pretrained: download timm's ImageNet weights.
            freeze_at: what the maps of strides up to 2^freeze_at need does not learn; 0: all does.
            norm: "" leaves the batch norms; "FrozenBN" or "SyncBN" replaces them.
            options: further arguments of timm's model, such as ``drop_path_rate``.

        Raises:
            ConfigError: If there is no such model, or it has no such maps.
            MissingDependencyError: If timm is not installed.
            CheckpointError: If the ImageNet weights cannot be fetched.
        """
        super().__init__()
        options = dict(options or {})
        indices, num_maps = _find_maps(name, out_features, options)
        self.model = _create(name, options, pretrained=pretrained, out_indices=indices)
        info = self.model.feature_info
        self._out_features = list(out_features)
        self._out_feature_strides = dict(zip(out_features, info.reduction()))
        self._out_feature_channels = dict(zip(out_features, info.channels()))
        self._is_channels_last = getattr(self.model, "output_fmt", None) == "NHWC"
        if freeze_at or len(out_features) < num_maps:
            self._freeze(freeze_at)
        if norm:
            self.model = _replace_norms(self.model, norm)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Reads MODEL.TIMM."""
        node = cfg.MODEL.TIMM
        return {
            "name": node.NAME,
            "out_features": tuple(node.OUT_FEATURES),
            "pretrained": node.PRETRAINED and not cfg.MODEL.WEIGHTS,
            "freeze_at": node.FREEZE_AT,
            "norm": node.NORM,
            "options": dict(node.OPTIONS),
        }

    @property
    def size_divisibility(self) -> int:
        """The largest stride: timm's models differ in what they make of a rest."""
        return max(self._out_feature_strides.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) to name → (B, C, H / stride, W / stride)."""
        maps = self.model(images)
        if self._is_channels_last:
            maps = [x.permute(0, 3, 1, 2).contiguous() for x in maps]  # (B, C, h, w)
        return dict(zip(self._out_features, maps))

    def _freeze(self, level: int) -> None:
        """Stops learning of what maps of strides up to 2^level need, and of what no map needs.

        Gradients tell, so that the structure of the model does not matter.
        """
        strides = list(self._out_feature_strides.values())
        if level and 2**level < strides[0]:
            raise ConfigError(
                "MODEL.TIMM.FREEZE_AT must be 0, or at least the power of two of the first of "
                f"MODEL.TIMM.OUT_FEATURES, got {level} with {self._out_features}."
            )
        was_training = self.model.training
        maps = self.model.eval()(torch.zeros(1, *self.model.pretrained_cfg["input_size"]))
        self.model.train(was_training)
        parameters = list(self.model.parameters())
        frozen = [x for x, stride in zip(maps, strides) if stride <= 2**level]
        needed, fixed = (_gradients(xs, parameters) for xs in (maps, frozen))
        for parameter, is_needed, is_fixed in zip(parameters, needed, fixed):
            parameter.requires_grad_(is_needed is not None and is_fixed is None)
        _freeze_norms(self.model)


def _freeze_norms(model: nn.Module) -> None:
    """Batch norms whose weights do not learn keep their statistics, too."""
    from timm.layers import freeze_batch_norm_2d

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            is_norm = isinstance(child, nn.BatchNorm2d) and child.affine
            if is_norm and not child.weight.requires_grad:
                parent.add_module(name, freeze_batch_norm_2d(child))


def _gradients(maps: list[Tensor], parameters: list[nn.Parameter]) -> Sequence[Tensor | None]:
    """Of the sum of all maps; None for parameters that none of them needs."""
    if not maps:
        return [None] * len(parameters)
    total = torch.stack([x.sum() for x in maps]).sum()
    return torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Builds the model ``MODEL.TIMM.NAME``."""
    return TimmBackbone(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Builds it below the neck ``MODEL.NECK.NAME``, an FPN unless that says otherwise."""
    return add_neck(cfg, TimmBackbone(cfg, input_shape))


def _find_maps(
    name: str, out_features: tuple[str, ...], options: dict[str, Any]
) -> tuple[list[int], int]:
    """Which maps of the model have the strides that the names stand for, and how many it has."""
    with torch.device("meta"):  # no memory, no time
        reductions = _create(name, options).feature_info.reduction()
    names = [f"c{int(math.log2(stride))}" for stride in reductions]
    if not out_features or any(feature not in names for feature in out_features):
        raise ConfigError(
            f"MODEL.TIMM.OUT_FEATURES must be among the maps of {name}, {', '.join(names)}, "
            f"got {out_features}."
        )
    return [names.index(feature) for feature in out_features], len(names)


def _create(name: str, options: dict[str, Any], **arguments: Any) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise MissingDependencyError(
            f"The backbone {name!r} needs timm, importing it failed: {error}. "
            "Install it with `pip install 'sparsenet[classification]'`."
        ) from error
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=4) or ["resnet50"]
        raise ConfigError(
            f"MODEL.TIMM.NAME must be a model of timm, got {name!r}. Near: {', '.join(near)}."
        )
    try:
        return timm.create_model(name, features_only=True, **arguments, **options)
    except (TypeError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"MODEL.TIMM.NAME must be a model that gives maps and takes MODEL.TIMM.OPTIONS "
            f"{options}, {name!r} does not: {error}."
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"The ImageNet weights of {name} must be in reach of timm's hub, fetching them failed: "
            f"{error} Set MODEL.TIMM.PRETRAINED False, or MODEL.WEIGHTS to a file."
        ) from error


def _replace_norms(model: nn.Module, norm: str) -> nn.Module:
    from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d

    if norm not in NORMS:
        raise ConfigError(
            f"MODEL.TIMM.NORM must be one of {', '.join(NORMS[1:])} or empty, got {norm!r}."
        )
    # timm's norms may hold the activation: its own functions keep that.
    return freeze_batch_norm_2d(model) if norm == "FrozenBN" else convert_sync_batchnorm(model)
