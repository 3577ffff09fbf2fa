"""SparX-Mamba for classification (arXiv 2409.09649), in timm's dialect and registry.

Importing this module makes ``timm.create_model("sparx_mamba_t")`` work, and _s and _b; with
``features_only=True``, too. The trunk is that of ``sparx_mamba``, with attention between layers
scaled by 1 / sqrt(cells), and no norms on the stages' outputs.
"""

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from sparsenet.modeling.backbone.sparx_mamba import (
    NUM_STAGES,
    SparXMambaSize,
    SparXMambaTrunk,
    check_drop_path_rate,
    checked_size,
)

__all__ = ["SparXMambaClassifier"]


class SparXMambaClassifier(SparXMambaTrunk):
    """Logits of an image; the methods are those that timm's tools expect."""

    def __init__(
        self,
        size: SparXMambaSize | str = "tiny",
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
    ) -> None:
        """
        Args:
            size: one of ``sparx_mamba.SIZES``, or its name.
            num_classes: 0: forward returns the pooled features.
            drop_path_rate: of the last block; it grows linearly from 0.

        Raises:
            ConfigError: The size or the rate is none of these.
        """
        size = checked_size(size, "size of a SparXMambaClassifier")
        check_drop_path_rate(drop_path_rate, "drop_path_rate of a SparXMambaClassifier")
        super().__init__(
            size, has_learned_scale=False, drop_path_rate=drop_path_rate, in_channels=in_chans
        )
        self.num_classes, self.num_features = num_classes, size.channels[-1]
        self.head_hidden_size = self.num_features
        self.feature_info = [
            {"num_chs": channels, "reduction": 4 * 2**i, "module": f"layers.{i}"}
            for i, channels in enumerate(size.channels)
        ]
        self.classifier = nn.Sequential(
            nn.GroupNorm(1, self.num_features),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            self._build_head(num_classes),
        )

    def _build_head(self, num_classes: int) -> nn.Module:
        if num_classes == 0:
            return nn.Identity()
        head = nn.Linear(self.num_features, num_classes)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head

    def get_classifier(self) -> nn.Module:
        return self.classifier[-1]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the last layer; pooling is always the mean."""
        self.num_classes = num_classes
        self.classifier[-1] = self._build_head(num_classes)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the activations of all blocks in backward."""
        self.set_checkpointing(tuple(len(stage.blocks) * enable for stage in self.layers))

    def no_weight_decay(self) -> set[str]:
        """The scans' decay rates, as in Mamba; timm spares vectors by itself."""
        return {name for name, _ in self.named_parameters() if name.endswith("A_logs")}

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the normalised last map (B, C, H/32, W/32)."""
        return self.classifier[0](self.run_stages(x)[-1])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map to logits (B, classes), or to pooled features (B, C)."""
        x = self.classifier[1:3](x)  # (B, C)
        return x if pre_logits else self.classifier[3](x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of the stages, and on request the normalised last one before them.

        Args:
            indices: stages to return; a number: the last so many; None: all.
            norm: normalise the last map among them, too.
            stop_early: no effect; ``prune_intermediate_layers`` drops stages that are not needed.
            output_fmt: "NCHW" only.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}.")
        chosen, _ = feature_take_indices(NUM_STAGES, indices)
        maps = self.run_stages(x)
        last = None
        if norm or not intermediates_only:
            last = self.classifier[0](maps[-1])
        if norm:
            maps[-1] = last
        intermediates = [maps[i] for i in chosen]
        return intermediates if intermediates_only else (last, intermediates)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drops the stages after the last of ``indices``, and norm and classifier on request."""
        chosen, last = feature_take_indices(NUM_STAGES, indices)
        self.layers = self.layers[: last + 1]
        self.layers[-1].downsample = None
        if prune_norm:
            self.classifier[0] = nn.Identity()
        if prune_head:
            self.reset_classifier(0)
        return chosen


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Published checkpoints hold the weights under a key."""
    for key in ("state_dict_ema", "state_dict", "model"):
        if key in state_dict:
            return state_dict[key]
    return state_dict


def _cfg(crop_pct: float) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": crop_pct,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.0",
        "classifier": "classifier.3",
    }


default_cfgs = generate_default_cfgs(
    {
        "sparx_mamba_t.in1k": _cfg(0.90),
        "sparx_mamba_s.in1k": _cfg(0.95),
        "sparx_mamba_b.in1k": _cfg(0.95),
    }
)


def _create(variant: str, size: str, pretrained: bool, **kwargs: Any) -> SparXMambaClassifier:
    out_indices = kwargs.pop("out_indices", (0, 1, 2, 3))
    return build_model_with_cfg(
        SparXMambaClassifier,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
        size=size,
        **kwargs,
    )


@register_model
def sparx_mamba_t(pretrained: bool = False, **kwargs: Any) -> SparXMambaClassifier:
    """27.05 M parameters, 5.25 GMACs at 224²."""
    return _create("sparx_mamba_t", "tiny", pretrained, **kwargs)


@register_model
def sparx_mamba_s(pretrained: bool = False, **kwargs: Any) -> SparXMambaClassifier:
    """47.44 M parameters, 9.26 GMACs at 224²."""
    return _create("sparx_mamba_s", "small", pretrained, **kwargs)


@register_model
def sparx_mamba_b(pretrained: bool = False, **kwargs: Any) -> SparXMambaClassifier:
    """83.54 M parameters, 15.90 GMACs at 224²."""
    return _create("sparx_mamba_b", "base", pretrained, **kwargs)
