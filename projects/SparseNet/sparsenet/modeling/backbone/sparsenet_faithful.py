"""Sparse backbone in its published design: SparseFormer, SparseNet and SparseNet-LS.

Follows *SparseFormer: Detecting Objects in HRW Shots via Sparse Vision Transformer* (ACM MM 2024,
section 3, arXiv 2502.07216; https://github.com/liwenxi/SparseFormer, Apache-2.0), its convolutional
SparseNet, and the LSConv variant of https://github.com/lx88882222/SparseNet-PANDA (LSConv: arXiv
2503.23135). It is here for comparison; ``sparsenet.py`` is the design to use. State_dict keys are
the original ones.
Differs from the published code in: one skeleton for the three; widths and window sides are free;
"stage0" can be an output (with its own norm); parameters that the design leaves without effect are
frozen, so that distributed training does not wait for their gradients. They are still computed.

What the design does, and the corrected one does not:

* the global blocks of a stage all see the same pooled map, and only the last one counts;
* window scores are a softmax over the image and learn through a re-parameterised factor of one;
* K = floor(ratio · N) windows are kept, which can be none;
* attention adds the LayerNorm of cells that are not kept to them, twice per block;
* the convolutions pad each window with zeros and normalise over the kept windows of the batch.

Shorthand: B images, (H, W) cells of a stage, C channels, S cells per window side, N windows per
image, K kept windows per image.
"""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from sparsenet.errors import ConfigError
from sparsenet.layers.faithful_blocks import (
    BasicBlock,
    GlobalAttentionBlock,
    GlobalConvBlock,
    LocalAttentionBlock,
    LocalConvBlock,
)
from sparsenet.layers.lsnet_blocks import LSConvBlock
from sparsenet.layers.score_net import WindowSelection
from sparsenet.modeling.backbone.sparsenet import (
    DESIGNS,
    _check_numbers,
    _checked_size,
    _checked_stages,
)
from sparsenet.ops.windows import WindowGrid, pad_to_windows, partition_windows, spread_windows

_STEM_STRIDE = 4
_CHANNELS_PER_HEAD = 32


@dataclass(frozen=True)
class FaithfulSize:
    """Widths and depths of the four stages.

    Attributes:
        depths: local blocks, and as many global blocks.
        layers: convolutional units per block; the attention form has none.
    """

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    layers: tuple[int, ...] = (1, 1, 1, 1)


# "tiny" are the published nets; "nano" has the widths and depths of the corrected one.
SIZES: dict[str, dict[str, FaithfulSize]] = {
    "attention": {
        "nano": FaithfulSize((32, 64, 96, 160), (2, 2, 2, 2)),
        "tiny": FaithfulSize((96, 192, 384, 768), (2, 2, 6, 2)),
    },
    "conv": {
        "nano": FaithfulSize((32, 64, 96, 160), (2, 2, 3, 2)),
        "tiny": FaithfulSize((64, 128, 256, 512), (2, 2, 6, 2), (2, 2, 6, 2)),
    },
    "ls": {
        "nano": FaithfulSize((32, 64, 96, 160), (2, 2, 4, 4)),
        "tiny": FaithfulSize((64, 128, 256, 512), (2, 2, 6, 2)),
    },
}


class PatchEmbed(nn.Module):
    """4 × 4 patches, zero-padded at the right and bottom, then LayerNorm."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, channels, _STEM_STRIDE, stride=_STEM_STRIDE)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Tensor:
        fill = [-length % _STEM_STRIDE for length in images.shape[-2:]]
        x = self.projection(F.pad(images, (0, fill[1], 0, fill[0])))
        return self.norm(x.permute(0, 2, 3, 1))  # (B, H/4, W/4, C)


class PatchMerging(nn.Module):
    """Swin's down-sampling by 2, but as ``nn.Unfold`` orders it: channel by channel."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_channels)
        self.reduction = nn.Linear(4 * in_channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H/2, 2, W/2, 2, C)
        x = x.permute(0, 1, 3, 5, 2, 4).flatten(3)  # (B, H/2, W/2, 4C)
        return self.reduction(self.norm(x))  # (B, H/2, W/2, C')


class FaithfulStage(nn.Module):
    """Scores windows, fuses the global branch into all of them, runs local blocks on the best."""

    def __init__(
        self,
        channels: int,
        global_blocks: list[nn.Module],
        local_blocks: list[nn.Module],
        *,
        stride: int,
        window_size: int,
        keep_ratio: float,
        downsample: nn.Module | None,
    ) -> None:
        super().__init__()
        self.window_size, self.keep_ratio = window_size, keep_ratio
        self.window_stride = stride * window_size
        self.score_net = nn.Linear(window_size**2 * channels, 1)
        self.global_blocks = nn.ModuleList(global_blocks)
        self.score_norm = nn.LayerNorm(channels)
        self.local_blocks = nn.ModuleList(local_blocks)
        self.downsample = downsample
        self.is_coarse_normalised = isinstance(global_blocks[-1], GlobalAttentionBlock)
        for block in global_blocks[:-1]:
            block.requires_grad_(False)
        if not self.is_coarse_normalised:
            self.score_norm.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, WindowSelection]:
        """
        Args:
            x: (B, H, W, C).

        Returns:
            The stage's map (B, H, W, C) before the down-sampling, and its selection.
        """
        grid = WindowGrid((x.shape[1], x.shape[2]), self.window_size)
        padded = pad_to_windows(x, grid)
        pooled = _pool(padded, self.window_size)  # (B, rows, columns, C)
        logits = self._score(padded, pooled)  # (B, N)
        prob = logits.softmax(dim=1)
        kept_index = self._select(prob, grid)  # (B·K,)
        score = spread_windows(prob.view(-1, *grid.size, 1), grid)  # (B, H, W, 1)
        x = x + spread_windows(self._coarse(pooled), grid) * (1 - score)
        for block in self.local_blocks:
            x = block(x, grid, kept_index)
        x = x * (1 + (score - score.detach()))  # a factor of exactly one that has a gradient
        kept = torch.zeros_like(logits, dtype=torch.bool)
        kept.view(-1)[kept_index] = True
        every = torch.ones_like(kept)  # padding competes, too
        return x, WindowSelection(logits, kept, grid.size, self.window_stride, every)

    def _score(self, padded: Tensor, pooled: Tensor) -> Tensor:
        """One logit per window from what its mean does not tell: (B, N)."""
        smooth = F.interpolate(
            pooled.permute(0, 3, 1, 2),
            scale_factor=self.window_size,
            mode="bilinear",
            align_corners=False,
        ).permute(0, 2, 3, 1)  # (B, Hp, Wp, C)
        whole = WindowGrid((padded.shape[1], padded.shape[2]), self.window_size)
        residual = partition_windows(padded - smooth, whole).flatten(1)  # (B·N, S·S·C)
        return self.score_net(residual).view(len(padded), -1)

    def _select(self, prob: Tensor, grid: WindowGrid) -> Tensor:
        """Numbers of the K best windows of each image: (B·K,) int64 in [0, B·N)."""
        num_kept = int(self.keep_ratio * grid.num_windows)  # floor, which may give 0
        first = torch.arange(len(prob), device=prob.device)[:, None] * grid.num_windows
        return (prob.topk(num_kept, dim=1).indices + first).flatten()

    def _coarse(self, pooled: Tensor) -> Tensor:
        for block in self.global_blocks:
            coarse = block(pooled)  # the last one wins
        return self.score_norm(coarse) if self.is_coarse_normalised else coarse


class FaithfulSparseNet(Backbone):
    """The four stages at strides 4, 8, 16, 32; outputs are LayerNormed maps "stage0" … "stage3".

    The papers put out "stage1" to "stage3". After each forward pass ``unsupervised_selections``
    holds one :class:`WindowSelection` per stage; the name differs from the corrected design's
    ``selections``, because these scores take part in no loss of their own.
    """

    @configurable
    def __init__(
        self,
        *,
        local_module: str,
        size: FaithfulSize,
        keep_ratio: tuple[float, ...],
        window_size: int = 7,
        out_features: tuple[str, ...] = ("stage1", "stage2", "stage3"),
        drop_path_rate: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        """
        Args:
            local_module: "attention", "conv" or "ls".
            size: widths and depths.
            keep_ratio: share of windows that the local blocks compute, per stage, each in (0, 1].
            window_size: cells per window side.
            out_features: names of the outputs; later stages are not built.
            drop_path_rate: of the last block; it grows linearly from 0. Attention only.

        Raises:
            ConfigError: a value is none of the above.
        """
        super().__init__()
        num_stages = _checked_stages(out_features)
        _check_numbers(keep_ratio, window_size, drop_path_rate, 0.0)
        _check_size(local_module, size)
        channels = size.channels[:num_stages]
        self._out_features = list(out_features)
        self._out_feature_channels = {f"stage{i}": c for i, c in enumerate(channels)}
        self._out_feature_strides = {f"stage{i}": 4 * 2**i for i in range(num_stages)}
        self.unsupervised_selections: list[WindowSelection] = []
        self.patch_embed = PatchEmbed(in_channels, channels[0])
        blocks = _build_blocks(local_module, size, window_size, drop_path_rate)
        self.stages = nn.ModuleList(
            FaithfulStage(
                channels[i],
                *blocks[i],
                stride=_STEM_STRIDE * 2**i,
                window_size=window_size,
                keep_ratio=keep_ratio[i],
                downsample=PatchMerging(*channels[i : i + 2]) if i + 1 < num_stages else None,
            )
            for i in range(num_stages)
        )
        for name in out_features:
            width = self._out_feature_channels[name]
            self.add_module(name.replace("stage", "norm"), nn.LayerNorm(width))
        self.apply(_init_weights)

    def __getstate__(self) -> dict[str, object]:
        # Selections belong to a pass, not to the model; tensors inside a graph cannot be copied.
        return {**self.__dict__, "unsupervised_selections": []}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, object]:
        node = cfg.MODEL.SPARSENET
        _checked_size(node.LOCAL_MODULE, node.SIZE)  # both designs have the same names
        size = SIZES[node.LOCAL_MODULE][node.SIZE]
        given = {f.name: tuple(node.FAITHFUL[f.name.upper()]) for f in fields(size)}
        return {
            "local_module": node.LOCAL_MODULE,
            "size": replace(size, **{name: value for name, value in given.items() if value}),
            "keep_ratio": tuple(node.KEEP_RATIO),
            "window_size": node.WINDOW_SIZE,
            "out_features": tuple(node.OUT_FEATURES),
            "drop_path_rate": node.DROP_PATH_RATE,
            "in_channels": input_shape.channels,
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            name → (B, C, ceil(H / stride), ceil(W / stride)), channels last in memory.
        """
        x = self.patch_embed(images)  # (B, H/4, W/4, C)
        self.unsupervised_selections, outputs = [], {}
        for i, stage in enumerate(self.stages):
            x, selection = stage(x)
            self.unsupervised_selections.append(selection)
            if f"stage{i}" in self._out_features:
                norm = self.get_submodule(f"norm{i}")
                outputs[f"stage{i}"] = norm(x).permute(0, 3, 1, 2)  # (B, C, H/s, W/s)
            if stage.downsample is not None:
                x = stage.downsample(x)  # (B, H/2s, W/2s, C')
        return {name: outputs[name] for name in self._out_features}


DESIGNS["faithful"] = FaithfulSparseNet


def _build_blocks(
    local_module: str, size: FaithfulSize, window_size: int, drop_path_rate: float
) -> list[tuple[list[nn.Module], list[nn.Module]]]:
    """Global and local blocks of each stage; a global and a local block share a drop-path rate."""
    num_blocks = sum(size.depths)
    rates = iter(drop_path_rate * i / max(1, num_blocks - 1) for i in range(num_blocks))
    stages = []
    for channels, depth, num_layers in zip(size.channels, size.depths, size.layers):
        global_blocks: list[nn.Module] = []
        local_blocks: list[nn.Module] = []
        for i in range(depth):
            rate = next(rates)
            if local_module == "attention":
                heads = channels // _CHANNELS_PER_HEAD
                shift = window_size // 2 if i % 2 else 0
                global_blocks.append(GlobalAttentionBlock(channels, heads, rate))
                local_blocks.append(
                    LocalAttentionBlock(
                        channels, heads, window_size=window_size, shift=shift, drop_path=rate
                    )
                )
            else:
                global_blocks.append(GlobalConvBlock(channels, num_layers))
                local_blocks.append(_build_conv_block(local_module, channels, num_layers))
        stages.append((global_blocks, local_blocks))
    return stages


def _build_conv_block(local_module: str, channels: int, num_layers: int) -> LocalConvBlock:
    unit = BasicBlock if local_module == "conv" else LSConvBlock
    block = LocalConvBlock([unit(channels) for _ in range(num_layers)])
    if local_module == "conv":  # published with a norm that nothing uses; checkpoints hold it
        block.add_module("norm1", nn.LayerNorm(channels).requires_grad_(False))
    return block


def _pool(padded: Tensor, side: int) -> Tensor:
    """Mean of each window, padding included: (B, Hp, Wp, C) to (B, rows, columns, C)."""
    return F.avg_pool2d(padded.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)


def _init_weights(module: nn.Module) -> None:
    """Linear layers as in Swin; norms and convolutions keep torch's."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_size(local_module: str, size: FaithfulSize) -> None:
    if local_module not in SIZES:
        raise ConfigError(f"local_module must be one of {', '.join(SIZES)}; got {local_module!r}.")
    for field in fields(size):
        values = getattr(size, field.name)
        if len(values) != 4 or not all(isinstance(v, int) and v > 0 for v in values):
            raise ConfigError(
                f"MODEL.SPARSENET.FAITHFUL.{field.name.upper()} must hold four positive integers, "
                f"one per stage; got {values!r}. Use () for those of MODEL.SPARSENET.SIZE."
            )
    divisor = _CHANNELS_PER_HEAD if local_module == "attention" else 8
    if any(channels % divisor for channels in size.channels):
        raise ConfigError(
            f"MODEL.SPARSENET.FAITHFUL.CHANNELS must be multiples of {divisor} for local module "
            f"{local_module!r}; got {size.channels!r}."
        )
