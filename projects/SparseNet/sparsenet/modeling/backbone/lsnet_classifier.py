"""LSNet for classification and embedding (arXiv 2503.23135), in timm's dialect and registry.

Importing this module makes ``timm.create_model("lsnet_t")`` work, and _n, _s, _b, _l, _xl, _xl_448;
most also as ``_distill`` (two heads) and ``_artist`` (the fork's: a projection before the head);
with ``features_only=True``, too. The trunk is that of ``lsnet``.
"""

from typing import Any

import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from sparsenet.layers.lsnet_blocks import NormLinear
from sparsenet.modeling.backbone.lsnet import (
    NUM_STAGES,
    STRIDES,
    LSNetSize,
    LSNetTrunk,
    checked_size,
)
from sparsenet.modeling.backbone.lsnet_weights import (
    add_missing_branches,
    resize_biases,
    unpack_state,
)

__all__ = ["LSNetClassifier"]


class LSNetClassifier(LSNetTrunk):
    """Logits of an image; the methods are those that timm's tools expect."""

    def __init__(
        self,
        size: LSNetSize | str = "tiny",
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int = 224,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        distillation: bool = False,
        feature_dim: int | None = None,
    ) -> None:
        """
        Args:
            size: one of ``lsnet.SIZES``, or its name.
            num_classes: 0: forward returns the pooled features.
            img_size: side of the images that the position biases are stored for; others work.
            drop_rate: dropout of the features before the head.
            distillation: a second head learns from a teacher; predictions are the heads' mean.
            feature_dim: features are projected to so many non-negative ones; None: they are not.
        """
        size = checked_size(size)
        super().__init__(
            size,
            grid_side=-(-img_size // STRIDES[-1]),
            drop_path_rate=drop_path_rate,
            in_channels=in_chans,
        )
        channels = size.channels[-1]
        self.drop_rate, self.is_distilled = drop_rate, distillation
        self.distilled_training = False
        self.num_features = self.head_hidden_size = feature_dim or channels
        self.feature_info = [
            {"num_chs": width, "reduction": stride, "module": f"blocks{i + 1}"}
            for i, (width, stride) in enumerate(zip(size.channels, STRIDES))
        ]
        self.projection: nn.Module = nn.Identity()
        if self.num_features != channels:
            self.projection = nn.Sequential(NormLinear(channels, self.num_features), nn.ReLU())
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module | tuple[nn.Module, nn.Module]:
        """The head, or both heads of a distilled model."""
        return (self.head, self.head_dist) if self.is_distilled else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the heads; pooling is always the mean."""
        self.num_classes = num_classes
        for name in ("head", "head_dist")[: 1 + self.is_distilled]:
            head = NormLinear(self.num_features, num_classes) if num_classes else nn.Identity()
            self.add_module(name, head)

    def set_distilled_training(self, enable: bool = True) -> None:
        """In training, forward of a distilled model returns the logits of both heads."""
        self.distilled_training = enable

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the activations of all blocks in backward.

        Batch norms in them update their running statistics twice per step.
        """
        self.has_checkpoints = enable

    def no_weight_decay(self) -> set[str]:
        """The position biases, as published; timm spares vectors by itself."""
        return {name for name, _ in self.named_parameters() if name.endswith("attention_biases")}

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the last map (B, C, ⌈H / 64⌉, ⌈W / 64⌉)."""
        return self.run_stages(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """The last map to logits (B, classes), or to features (B, ``num_features``)."""
        x = self.projection(x.mean((2, 3)))  # (B, num_features)
        if pre_logits:
            return x
        x = F.dropout(x, self.drop_rate, self.training)
        if not self.is_distilled:
            return self.head(x)
        logits, teacher_logits = self.head(x), self.head_dist(x)
        if self.training and self.distilled_training:
            return logits, teacher_logits
        return (logits + teacher_logits) / 2

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
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
        """The maps of the stages, and on request the last one before them.

        Args:
            indices: stages to return; a number: the last so many; None: all.
            norm: no effect; maps are not normalised.
            stop_early: no effect; ``prune_intermediate_layers`` drops stages that are not needed.
            output_fmt: "NCHW" only.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}.")
        chosen, _ = feature_take_indices(NUM_STAGES, indices)
        maps = self.run_stages(x)
        intermediates = [maps[i] for i in chosen]
        return intermediates if intermediates_only else (maps[-1], intermediates)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drops the stages after the last of ``indices``, and projection and head on request."""
        chosen, last = feature_take_indices(NUM_STAGES, indices)
        self.cut_stages(last + 1)
        if prune_head:
            self.projection = nn.Identity()
            self.reset_classifier(0)
        return chosen


def checkpoint_filter_fn(content: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Weights of a published file for ``model``; see ``lsnet_weights``.

    Where a model projects its features and the file's does not, projection and heads stay fresh.
    """
    grid_sides = {m.grid_side for m in model.modules() if hasattr(m, "attention_biases")}
    state = resize_biases(add_missing_branches(unpack_state(content)), grid_sides.pop())
    own = model.state_dict()
    kept = [key for key in own if key.endswith(("attention_bias_idxs", "num_batches_tracked"))]
    is_new = "projection.0.l.weight" in own and "projection.0.l.weight" not in state
    if is_new:
        state = {key: value for key, value in state.items() if not key.startswith("head")}
        kept += [key for key in own if key.startswith(("projection.", "head"))]
    return {**{key: own[key] for key in kept}, **state}


def _cfg(hub_name: str | None = None, side: int = 224, **changes: Any) -> dict[str, Any]:
    return {
        "url": "",
        "hf_hub_id": hub_name and f"jameslahm/{hub_name}",
        "num_classes": 1000,
        "input_size": (3, side, side),
        "pool_size": (-(-side // STRIDES[-1]),) * 2,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.0.c",
        "classifier": "head.l",
        **changes,
    }


default_cfgs = generate_default_cfgs(
    {
        **{f"lsnet_{letter}.in1k": _cfg(f"lsnet_{letter}") for letter in "tsb"},
        **{
            f"lsnet_{letter}_distill.in1k": _cfg(
                f"lsnet_{letter}_distill", classifier=("head.l", "head_dist.l")
            )
            for letter in "tsb"
        },
        **{f"lsnet_{letter}_artist": _cfg(f"lsnet_{letter}") for letter in "tsb"},
        **{f"lsnet_{name}": _cfg() for name in ("n", "l", "l_artist", "xl", "xl_artist")},
        **{f"lsnet_{name}": _cfg(side=448) for name in ("xl_448", "xl_artist_448")},
    }
)


def _create(variant: str, size: str, pretrained: bool, **kwargs: Any) -> LSNetClassifier:
    out_indices = kwargs.pop("out_indices", (0, 1, 2, 3))
    return build_model_with_cfg(
        LSNetClassifier,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
        size=size,
        **kwargs,
    )


@register_model
def lsnet_n(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """0.49 M parameters, 0.027 GMACs at 224². Ours, for tests and short runs."""
    return _create("lsnet_n", "nano", pretrained, **kwargs)


@register_model
def lsnet_t(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """11.41 M parameters, 0.316 GMACs at 224² when fused."""
    return _create("lsnet_t", "tiny", pretrained, **kwargs)


@register_model
def lsnet_s(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """16.15 M parameters, 0.539 GMACs at 224² when fused."""
    return _create("lsnet_s", "small", pretrained, **kwargs)


@register_model
def lsnet_b(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """23.31 M parameters, 1.248 GMACs at 224² when fused."""
    return _create("lsnet_b", "base", pretrained, **kwargs)


@register_model
def lsnet_l(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """50.76 M parameters, 2.668 GMACs at 224² when fused. Not from the paper."""
    return _create("lsnet_l", "large", pretrained, **kwargs)


@register_model
def lsnet_xl(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """102.03 M parameters. Not from the paper."""
    return _create("lsnet_xl", "xlarge", pretrained, **kwargs)


@register_model
def lsnet_xl_448(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """lsnet_xl with position biases for images of 448²."""
    return _create("lsnet_xl_448", "xlarge", pretrained, **{"img_size": 448, **kwargs})


@register_model
def lsnet_t_distill(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """lsnet_t with a second head that learned from a teacher."""
    return _create("lsnet_t_distill", "tiny", pretrained, **{"distillation": True, **kwargs})


@register_model
def lsnet_s_distill(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """lsnet_s with a second head that learned from a teacher."""
    return _create("lsnet_s_distill", "small", pretrained, **{"distillation": True, **kwargs})


@register_model
def lsnet_b_distill(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """lsnet_b with a second head that learned from a teacher."""
    return _create("lsnet_b_distill", "base", pretrained, **{"distillation": True, **kwargs})


@register_model
def lsnet_t_artist(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """lsnet_t for embeddings: ``feature_dim`` projects the features."""
    return _create("lsnet_t_artist", "tiny", pretrained, **kwargs)


@register_model
def lsnet_s_artist(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """lsnet_s for embeddings: ``feature_dim`` projects the features."""
    return _create("lsnet_s_artist", "small", pretrained, **kwargs)


@register_model
def lsnet_b_artist(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """lsnet_b for embeddings: ``feature_dim`` projects the features."""
    return _create("lsnet_b_artist", "base", pretrained, **kwargs)


@register_model
def lsnet_l_artist(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """lsnet_l for embeddings: ``feature_dim`` projects the features."""
    return _create("lsnet_l_artist", "large", pretrained, **kwargs)


@register_model
def lsnet_xl_artist(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """lsnet_xl for embeddings: ``feature_dim`` projects the features."""
    return _create("lsnet_xl_artist", "xlarge", pretrained, **kwargs)


@register_model
def lsnet_xl_artist_448(pretrained: bool = False, **kwargs: Any) -> LSNetClassifier:
    """lsnet_xl_448 for embeddings: ``feature_dim`` projects the features."""
    return _create("lsnet_xl_artist_448", "xlarge", pretrained, **{"img_size": 448, **kwargs})
