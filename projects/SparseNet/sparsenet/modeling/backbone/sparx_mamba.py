"""SparX-Mamba: a vision Mamba whose layers attend to earlier layers.

Follows *SparX: A Sparse Cross-Layer Connection Mechanism for Hierarchical Vision Mamba and
Transformer Networks* (AAAI 2025, arXiv 2409.09649, sections 3.1 to 3.3;
https://github.com/LMMMEng/SparX, without a licence file). Four stages of blocks; every few blocks
a *ganglion* block also reads the maps of the blocks since the last one, and of up to M earlier
ganglion blocks. This file has the trunk and its detection form; the classification form is
``sparx_mamba_classifier``. Differs from it in:

* maps are channels last in memory and are scanned without copies per direction (``ops``);
* the norms that need a batch are an option (``norm``), not chosen by whether a process group runs;
* the shortcuts of every block are planned when the model is built.

Parameter names and numbers are the published ones. The norms inside a block take their statistics
over all cells of an image, filling included: an image's result depends on what it is padded to.

Shorthand: B images, (H, W) cells of a stage, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparsenet.errors import ConfigError
from sparsenet.layers.channel_attention import GanglionScan2d
from sparsenet.layers.selective_scan_2d import SelectiveScan2d
from sparsenet.layers.sparx_blocks import SparXMambaBlock

NUM_STAGES = 4
STAGES = ("stage1", "stage2", "stage3", "stage4")  # strides 4, 8, 16, 32; the paper's numbers
_REDUCTIONS = (8, 4, 2, 1)  # of queries and keys: to stride 32 in every stage
_SCALED_STAGES = (2, 3)  # whose skip paths have learned factors
NORMS = ("BN", "SyncBN", "FrozenBN")  # of Detectron2's, those of the published parameters
Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class SparXMambaSize:
    """Widths, depths and cross-layer rule of the four stages.

    Attributes:
        num_stem_convs: 2 or 3.
        ganglion_stride: a block in so many is a ganglion block, counted from a stage's last.
        first_ganglion: smallest index of a ganglion block; None: the stage has none.
        max_previous: earlier ganglion blocks that a ganglion block reads; None: all.
    """

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    num_stem_convs: int
    ganglion_stride: tuple[int, int, int, int]
    first_ganglion: tuple[int | None, ...]
    max_previous: tuple[int | None, ...] = (None, None, 3, None)


SIZES = {
    # Ours, for tests and short runs; the rule of "tiny".
    "nano": SparXMambaSize((32, 64, 96, 160), (1, 2, 3, 1), 2, (1, 1, 2, 1), (None, 1, 0, 0)),
    "tiny": SparXMambaSize((96, 192, 320, 512), (2, 2, 7, 2), 2, (1, 1, 2, 1), (None, 1, 0, 0)),
    "small": SparXMambaSize((96, 192, 328, 544), (2, 2, 17, 2), 3, (1, 1, 3, 1), (None, 1, 0, 0)),
    "base": SparXMambaSize((120, 240, 396, 636), (2, 2, 21, 3), 3, (1, 1, 3, 2), (None, 1, 0, 2)),
}


def plan_shortcuts(
    depth: int, stride: int, first: int | None, max_previous: int | None, has_input: bool
) -> list[tuple[int, ...]]:
    """Which maps each block of a stage reads besides its input: () for an ordinary block.

    Map 0 is the stage's input and map j + 1 the output of block j. A ganglion block reads the maps
    since the ganglion block before it, oldest first, then the ``max_previous`` last ganglion maps.

    Args:
        has_input: whether the stage's input counts as a map to read.
    """
    ganglia = set() if first is None else set(range(depth - 1, first - 1, -stride))
    near, far, plan = [0] if has_input else [], [], []
    for block in range(depth):
        if block in ganglia:
            plan.append((*near, *far))
            near, far = [], [*far, block + 1]
            far = far if max_previous is None else far[-max_previous:]
        else:
            plan.append(())
            near.append(block + 1)
    return plan


class SparXMambaStage(nn.Module):
    """The blocks of one resolution, and the convolution to the next."""

    def __init__(
        self, blocks: list[nn.Module], plan: list[tuple[int, ...]], downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.blocks, self.plan = nn.ModuleList(blocks), plan
        self.downsample = downsample
        self.num_checkpointed = 0  # first blocks whose activations are recomputed in backward

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape; ``downsample`` is the caller's to apply."""
        maps = [x]
        for i, (block, sources) in enumerate(zip(self.blocks, self.plan)):
            shortcut = torch.cat([maps[j] for j in sources], dim=1) if sources else None
            if i < self.num_checkpointed and torch.is_grad_enabled():
                x = checkpoint(block, x, shortcut, use_reentrant=False)
            else:
                x = block(x, shortcut)
            maps.append(x)
        return x


class SparXMambaTrunk(nn.Module):
    """Stem and stages, without what a task puts on them."""

    def __init__(
        self,
        size: SparXMambaSize,
        *,
        has_learned_scale: bool,
        num_stages: int = NUM_STAGES,
        drop_path_rate: float = 0.0,
        norm: Norm = nn.BatchNorm2d,
        in_channels: int = 3,
    ) -> None:
        """
        Args:
            has_learned_scale: of the attention between layers: the detection form.
            num_stages: later stages are not built.
            drop_path_rate: of the last block; it grows linearly from 0.
            norm: builds the norms that follow convolutions.
        """
        super().__init__()
        self.patch_embed = _build_stem(in_channels, size.channels[0], size.num_stem_convs, norm)
        rates = torch.linspace(0, drop_path_rate, sum(size.depths), device="cpu").split(size.depths)
        self.layers = nn.ModuleList(
            _build_stage(
                size, i, rates[i].tolist(), has_learned_scale, norm, is_last=i == num_stages - 1
            )
            for i in range(num_stages)
        )
        self.apply(_init_weights)

    def set_checkpointing(self, num_blocks: tuple[int, ...]) -> None:
        """Recomputes the activations of the first ``num_blocks`` blocks of each stage in backward.

        Batch norms in them update their running statistics twice per step.
        """
        for stage, count in zip(self.layers, num_blocks):
            stage.num_checkpointed = count

    def run_stages(self, images: Tensor) -> list[Tensor]:
        """Maps (B, C_i, ⌈H / s_i⌉, ⌈W / s_i⌉) of the stages, before any output norm."""
        x = self.patch_embed(images.contiguous(memory_format=torch.channels_last))
        outputs = []
        for stage in self.layers:
            x = stage(x)
            outputs.append(x)
            if stage.downsample is not None:
                x = stage.downsample(x)  # (B, C', H/2, W/2)
        return outputs


class SparXMamba(SparXMambaTrunk, Backbone):
    """The detection form: LayerNormed maps "stage1" … "stage4" of strides 4, 8, 16, 32."""

    @configurable
    def __init__(
        self,
        *,
        size: SparXMambaSize | str,
        out_features: tuple[str, ...] = STAGES,
        drop_path_rate: float = 0.0,
        norm: str = "BN",
        checkpoint_blocks: tuple[int, ...] = (0, 0, 0, 0),
        in_channels: int = 3,
    ) -> None:
        """
        Args:
            size: one of ``SIZES``, or its name.
            out_features: names of the outputs; later stages are not built.
            drop_path_rate: of the last block; it grows linearly from 0.
            norm: one of ``NORMS``; follows the convolutions between the blocks.
            checkpoint_blocks: first blocks of each stage whose activations are recomputed.

        Raises:
            ConfigError: a value is none of the above.
        """
        size = checked_size(size, "MODEL.SPARX_MAMBA.SIZE")
        num_stages = _checked_stages(out_features)
        check_drop_path_rate(drop_path_rate, "MODEL.SPARX_MAMBA.DROP_PATH_RATE")
        _check_options(norm, checkpoint_blocks)
        super().__init__(
            size,
            has_learned_scale=True,
            num_stages=num_stages,
            drop_path_rate=drop_path_rate,
            norm=lambda channels: get_norm(norm, channels),
            in_channels=in_channels,
        )
        self.set_checkpointing(checkpoint_blocks)
        channels = size.channels[:num_stages]
        self.norm = nn.ModuleList(
            nn.LayerNorm(c, eps=1e-6) if name in out_features else nn.Identity()
            for name, c in zip(STAGES, channels)
        )  # none whose parameters would never get a gradient: data parallel training needs them all
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(STAGES, channels))
        self._out_feature_strides = {name: 4 * 2**i for i, name in enumerate(STAGES[:num_stages])}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, object]:
        node = cfg.MODEL.SPARX_MAMBA
        return {
            "size": node.SIZE,
            "out_features": tuple(node.OUT_FEATURES),
            "drop_path_rate": node.DROP_PATH_RATE,
            "norm": node.NORM,
            "checkpoint_blocks": tuple(node.CHECKPOINT_BLOCKS),
            "in_channels": input_shape.channels,
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            name → (B, C, ⌈H / stride⌉, ⌈W / stride⌉).
        """
        outputs = {}
        for name, x, norm in zip(STAGES, self.run_stages(images), self.norm):
            if name in self._out_features:
                outputs[name] = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (B, C, H, W)
        return {name: outputs[name] for name in self._out_features}


@BACKBONE_REGISTRY.register()
def build_sparx_mamba_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SparXMamba:
    """Builds the backbone of ``cfg.MODEL.SPARX_MAMBA``."""
    return SparXMamba(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_sparx_mamba_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Builds the backbone with Detectron2's FPN: stage1 … stage4 become p2 … p5; p6 is a pooled p5.

    The stages are those of ``MODEL.FPN.IN_FEATURES``, or all outputs where that is empty; other
    outputs are not built. Without "stage4" there is neither p5 nor p6.

    Raises:
        ConfigError: If the FPN asks for a stage that the backbone does not put out.
    """
    node, stages = cfg.MODEL.FPN, list(cfg.MODEL.SPARX_MAMBA.OUT_FEATURES)
    in_features = list(node.IN_FEATURES) or stages
    if not set(in_features) <= set(stages):
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES must be among MODEL.SPARX_MAMBA.OUT_FEATURES {stages}, "
            f"got {in_features}."
        )
    return FPN(
        bottom_up=SparXMamba(cfg, input_shape, out_features=tuple(in_features)),
        in_features=in_features,
        out_channels=node.OUT_CHANNELS,
        norm=node.NORM,
        top_block=LastLevelMaxPool() if STAGES[-1] in in_features else None,
        fuse_type=node.FUSE_TYPE,
    )


def _build_stem(in_channels: int, channels: int, num_convs: int, norm: Norm) -> nn.Sequential:
    half = channels // 2
    layers = [*_conv_norm(in_channels, half, 2, norm), nn.GELU()]
    if num_convs == 3:
        layers += [*_conv_norm(half, half, 1, norm), nn.GELU()]
    return nn.Sequential(*layers, *_conv_norm(half, channels, 2, norm))


def _conv_norm(in_channels: int, channels: int, stride: int, norm: Norm) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
    return conv, norm(channels)


def _build_stage(
    size: SparXMambaSize,
    index: int,
    rates: list[float],
    has_learned_scale: bool,
    norm: Norm,
    *,
    is_last: bool,
) -> SparXMambaStage:
    channels = size.channels[index]
    plan = plan_shortcuts(
        size.depths[index],
        size.ganglion_stride[index],
        size.first_ganglion[index],
        size.max_previous[index],
        has_input=index > 0,
    )
    blocks: list[nn.Module] = []
    for sources, rate in zip(plan, rates):
        if sources:
            op: SelectiveScan2d = GanglionScan2d(
                channels,
                len(sources) * channels,
                reduction=_REDUCTIONS[index],
                has_learned_scale=has_learned_scale,
                norm=norm,
            )
        else:
            op = SelectiveScan2d(channels)
        has_skip_scale = index in _SCALED_STAGES
        blocks.append(SparXMambaBlock(channels, op, has_skip_scale=has_skip_scale, drop_path=rate))
    if is_last:
        return SparXMambaStage(blocks, plan, None)
    downsample = nn.Sequential(*_conv_norm(channels, size.channels[index + 1], 2, norm))
    return SparXMambaStage(blocks, plan, downsample)


def _init_weights(module: nn.Module) -> None:
    """The published one; scans and norms have their own."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def checked_size(size: SparXMambaSize | str, key: str) -> SparXMambaSize:
    """A size by its name; ``key`` says in the error where the name stood."""
    if isinstance(size, SparXMambaSize):
        return size
    if size not in SIZES:
        raise ConfigError(f"{key} must be one of {', '.join(SIZES)}; got {size!r}.")
    return SIZES[size]


def check_drop_path_rate(rate: float, key: str) -> None:
    """Raises ConfigError, which names ``key``, where a rate is not in [0, 1)."""
    if not 0 <= rate < 1:
        raise ConfigError(f"{key} must be in [0, 1); got {rate!r}.")


def _checked_stages(out_features: tuple[str, ...]) -> int:
    """Number of stages to build: up to the last output."""
    unknown = [name for name in out_features if name not in STAGES]
    if unknown or not out_features or len(set(out_features)) != len(out_features):
        raise ConfigError(
            "MODEL.SPARX_MAMBA.OUT_FEATURES must name at least one of "
            f"{', '.join(STAGES)}, each once; got {tuple(out_features)!r}."
        )
    return max(STAGES.index(name) for name in out_features) + 1


def _check_options(norm: str, checkpoint_blocks: tuple[int, ...]) -> None:
    if norm not in NORMS:
        raise ConfigError(
            f"MODEL.SPARX_MAMBA.NORM must be one of {', '.join(NORMS)}; got {norm!r}."
        )
    if len(checkpoint_blocks) != NUM_STAGES or min(checkpoint_blocks) < 0:
        raise ConfigError(
            "MODEL.SPARX_MAMBA.CHECKPOINT_BLOCKS must hold four numbers of blocks, one per stage; "
            f"got {tuple(checkpoint_blocks)!r}. Use 0 to keep a stage's activations."
        )
