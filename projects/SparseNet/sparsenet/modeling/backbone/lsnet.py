"""LSNet: see large, focus small.

Follows *LSNet: See Large, Focus Small* (CVPR 2025, arXiv 2503.23135, sections 3.2 and 3.3;
https://github.com/THU-MIG/lsnet, without a licence file); sizes "large" and "xlarge" are those of
the public fork https://github.com/spawner1145/lsnet-test. Four stages of strides 8 to 64; blocks
alternate between a depthwise convolution with squeeze-and-excite and, as the paper has everywhere,
LSConv, or attention in the last stage: what the published code does. This file has the trunk and
its dense form; the classification form is ``lsnet_classifier``. Differs from it in:

* attention takes maps of any size: the table of position biases is resized to the map. The
  published dense form resizes the gathered biases like a picture; ``bias_resize="image"`` does;
* batch norms of the dense form can learn their statistics (``norm_eval=False``).

Parameter names and numbers are the published ones. LSConv's group norms take their statistics over
all cells of an image, filling included: an image's result depends on what it is padded to.

Shorthand: B images, (H, W) cells of a stage, C channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from sparsenet.errors import ConfigError
from sparsenet.layers.lsnet_blocks import (
    BIAS_RESIZES,
    BiasedAttention,
    ConvNorm,
    LSBlock,
    LSConvBlock,
    RepDWConv,
    Residual,
    fuse_norms,
)

NUM_STAGES = 4
STAGES = ("stage1", "stage2", "stage3", "stage4")  # strides 8, 16, 32, 64; the paper's numbers
STRIDES = (8, 16, 32, 64)
GRID_SIDE = 4  # cells per side of the last stage at 224 px


@dataclass(frozen=True)
class LSNetSize:
    """Widths and depths of the four stages.

    Attributes:
        channels: multiples of 16.
        num_heads: of the attention in the last stage; divides its channels.
    """

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    num_heads: int = 4


SIZES = {
    # Ours, for tests and short runs: every kind of block once or more.
    "nano": LSNetSize((32, 64, 96, 128), (0, 2, 2, 2)),
    "tiny": LSNetSize((64, 128, 256, 384), (0, 2, 8, 10)),
    "small": LSNetSize((96, 192, 320, 448), (1, 2, 8, 10)),
    "base": LSNetSize((128, 256, 384, 512), (4, 6, 8, 10)),
    "large": LSNetSize((160, 320, 480, 640), (6, 8, 12, 14)),
    "xlarge": LSNetSize((192, 384, 576, 768), (8, 12, 16, 20), num_heads=6),
}


class LSNetTrunk(nn.Module):
    """Stem and stages, without what a task puts on them."""

    def __init__(
        self,
        size: LSNetSize,
        *,
        num_stages: int = NUM_STAGES,
        grid_side: int = GRID_SIDE,
        bias_resize: str = "table",
        drop_path_rate: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        """
        Args:
            num_stages: later stages are not built.
            grid_side: cells per side that the position biases are stored for.
            bias_resize: how they are resized for other maps; see ``BiasedAttention``.
            drop_path_rate: of the last block; it grows linearly from 0.
        """
        super().__init__()
        self.num_stages = num_stages
        self.has_checkpoints = False
        first = size.channels[0]
        self.patch_embed = nn.Sequential(
            ConvNorm(in_channels, first // 4, 3, stride=2),
            nn.ReLU(),
            ConvNorm(first // 4, first // 2, 3, stride=2),
            nn.ReLU(),
            ConvNorm(first // 2, first, 3, stride=2),
        )
        rates = torch.linspace(0, drop_path_rate, sum(size.depths), device="cpu").split(size.depths)
        for i in range(num_stages):
            attention = {"grid_side": grid_side, "bias_resize": bias_resize}
            self.add_module(f"blocks{i + 1}", _build_stage(size, i, rates[i].tolist(), attention))

    def stages(self) -> Iterator[nn.Sequential]:
        """The stages that are built; the later ones begin with their down-sampling."""
        return (self.get_submodule(f"blocks{i + 1}") for i in range(self.num_stages))

    def cut_stages(self, num_stages: int) -> None:
        """Drops all stages after the first ``num_stages``."""
        for i in range(num_stages, self.num_stages):
            delattr(self, f"blocks{i + 1}")
        self.num_stages = num_stages

    def run_stages(self, images: Tensor) -> list[Tensor]:
        """Maps (B, C_i, ⌈H / s_i⌉, ⌈W / s_i⌉) of the stages."""
        x = self.patch_embed(images)  # (B, C_1, ⌈H / 8⌉, ⌈W / 8⌉)
        outputs = []
        for stage in self.stages():
            for layer in stage:
                if self.has_checkpoints and isinstance(layer, LSBlock) and torch.is_grad_enabled():
                    x = checkpoint(layer, x, use_reentrant=False)
                else:
                    x = layer(x)  # the first of a later stage: (B, C, ⌈H / 2⌉, ⌈W / 2⌉)
            outputs.append(x)
        return outputs

    def fuse(self) -> "LSNetTrunk":
        """Puts batch norms into convolutions and linear layers, in place, and into eval mode.

        State_dict keys change: weights are loaded before, and training is over.
        """
        fuse_norms(self.eval())
        return self


class LSNet(LSNetTrunk, Backbone):
    """The dense form: maps "stage1" … "stage4" of strides 8, 16, 32, 64."""

    @configurable
    def __init__(
        self,
        *,
        size: LSNetSize | str,
        out_features: tuple[str, ...] = STAGES,
        drop_path_rate: float = 0.0,
        norm_eval: bool = True,
        grid_side: int = GRID_SIDE,
        bias_resize: str = "table",
        in_channels: int = 3,
    ) -> None:
        """
        Args:
            size: one of ``SIZES``, or its name.
            out_features: names of the outputs; later stages are not built.
            drop_path_rate: of the last block; it grows linearly from 0.
            norm_eval: batch norms keep their statistics in training (factors and offsets learn).
            grid_side, bias_resize: see ``BiasedAttention``.

        Raises:
            ConfigError: a value is none of the above.
        """
        size = checked_size(size)
        num_stages = _checked_stages(out_features)
        _check_values(drop_path_rate, grid_side, bias_resize)
        super().__init__(
            size,
            num_stages=num_stages,
            grid_side=grid_side,
            bias_resize=bias_resize,
            drop_path_rate=drop_path_rate,
            in_channels=in_channels,
        )
        self.norm_eval = norm_eval
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(STAGES, size.channels[:num_stages]))
        self._out_feature_strides = dict(zip(STAGES, STRIDES[:num_stages]))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, object]:
        node = cfg.MODEL.LSNET
        return {
            "size": node.SIZE,
            "out_features": tuple(node.OUT_FEATURES),
            "drop_path_rate": node.DROP_PATH_RATE,
            "norm_eval": node.NORM_EVAL,
            "grid_side": node.BIAS_GRID,
            "bias_resize": node.BIAS_RESIZE,
            "in_channels": input_shape.channels,
        }

    def train(self, mode: bool = True) -> "LSNet":
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            name → (B, C, ⌈H / stride⌉, ⌈W / stride⌉).
        """
        outputs = dict(zip(STAGES, self.run_stages(images)))
        return {name: outputs[name] for name in self._out_features}


@BACKBONE_REGISTRY.register()
def build_lsnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> LSNet:
    """Builds the backbone of ``cfg.MODEL.LSNET``."""
    return LSNet(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_lsnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Builds the backbone with Detectron2's FPN: stage1 … stage4 become p3 … p6; p7 is a pooled p6.

    The stages are those of ``MODEL.FPN.IN_FEATURES``, or all outputs where that is empty. Without
    "stage4" there is neither p6 nor p7.

    Raises:
        ConfigError: If the FPN asks for a stage that the backbone does not put out.
    """
    node, stages = cfg.MODEL.FPN, list(cfg.MODEL.LSNET.OUT_FEATURES)
    in_features = list(node.IN_FEATURES) or stages
    if not set(in_features) <= set(stages):
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES must be among MODEL.LSNET.OUT_FEATURES {stages}, "
            f"got {in_features}."
        )
    return FPN(
        bottom_up=LSNet(cfg, input_shape),
        in_features=in_features,
        out_channels=node.OUT_CHANNELS,
        norm=node.NORM,
        top_block=_TopPool() if STAGES[-1] in in_features else None,
        fuse_type=node.FUSE_TYPE,
    )


class _TopPool(LastLevelMaxPool):
    """Detectron2's reads p5, the last level of backbones that start at stride 4."""

    def __init__(self) -> None:
        super().__init__()
        self.in_feature = "p6"


def checked_size(size: LSNetSize | str) -> LSNetSize:
    """``size``, or the one of that name; ConfigError where there is none."""
    if isinstance(size, LSNetSize):
        return size
    if size not in SIZES:
        raise ConfigError(f"MODEL.LSNET.SIZE must be one of {', '.join(SIZES)}; got {size!r}.")
    return SIZES[size]


def _build_stage(
    size: LSNetSize, index: int, rates: list[float], attention: dict[str, Any]
) -> nn.Sequential:
    """Down-sampling, save in the first stage, and blocks.

    Args:
        rates: of stochastic depth, per block.
        attention: options of ``BiasedAttention``.
    """
    channels, layers = size.channels[index], []
    if index > 0:
        previous = size.channels[index - 1]
        layers += [
            ConvNorm(previous, previous, 3, stride=2, groups=previous),
            ConvNorm(previous, channels),
        ]
    for block, rate in enumerate(rates):
        is_even = block % 2 == 0
        if is_even:
            mixer: nn.Module = RepDWConv(channels)
        elif index < NUM_STAGES - 1:
            mixer = LSConvBlock(channels)
        else:
            mixer = Residual(BiasedAttention(channels, size.num_heads, **attention), rate)
        layers.append(LSBlock(channels, mixer, has_se=is_even, drop_path=rate))
    return nn.Sequential(*layers)


def _checked_stages(out_features: tuple[str, ...]) -> int:
    """Number of stages to build: up to the last output."""
    unknown = [name for name in out_features if name not in STAGES]
    if unknown or not out_features or len(set(out_features)) != len(out_features):
        raise ConfigError(
            "MODEL.LSNET.OUT_FEATURES must name at least one of "
            f"{', '.join(STAGES)}, each once; got {tuple(out_features)!r}."
        )
    return max(STAGES.index(name) for name in out_features) + 1


def _check_values(drop_path_rate: float, grid_side: int, bias_resize: str) -> None:
    if not 0 <= drop_path_rate < 1:
        raise ConfigError(f"MODEL.LSNET.DROP_PATH_RATE must be in [0, 1); got {drop_path_rate!r}.")
    if grid_side < 1:
        raise ConfigError(
            f"MODEL.LSNET.BIAS_GRID must be a number of cells, at least 1; got {grid_side!r}. "
            "Classifiers of 224 px have 4, the released detectors 14."
        )
    if bias_resize not in BIAS_RESIZES:
        raise ConfigError(
            f"MODEL.LSNET.BIAS_RESIZE must be one of {', '.join(BIAS_RESIZES)}; "
            f"got {bias_resize!r}."
        )
