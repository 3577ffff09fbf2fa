"""Sparse backbone: one skeleton, three local modules, in the corrected design.

Follows *SparseFormer: Detecting Objects in HRW Shots via Sparse Vision Transformer* (ACM MM 2024,
arXiv 2502.07216; https://github.com/liwenxi/SparseFormer, Apache-2.0), its convolutional sibling
SparseNet and the LSNet variant (arXiv 2503.23135). Each stage scores the windows of its map, adds
one coarse global branch to all of them and runs its local blocks on the best windows alone.
Differs from the published code in:

* kept windows are gathered once per stage, all local blocks run packed, and are scattered once;
  windows that are not kept pass through unchanged (there, LayerNorm was added to them);
* windows exchange through a halo of their neighbours' cells instead of rolled maps or zero padding;
* LayerNorm before each block instead of BatchNorm: a result depends neither on the batch nor on
  which other windows were kept (beyond the halo);
* the global blocks are chained, know positions, and ignore padding;
* window scores are sigmoids of pooled statistics, are handed out for supervision, and get the
  detection losses' gradient by a straight-through factor on the local update.

Shorthand: B images, (H, W) cells of a stage, C channels, N windows per image, P kept windows.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import Tensor, nn

from sparsenet.errors import ConfigError
from sparsenet.layers.global_branch import GlobalBranch
from sparsenet.layers.layout import DenseLayout, PackedLayout
from sparsenet.layers.local_blocks import AttentionBlock, ConvBlock, LSBlock
from sparsenet.layers.score_net import (
    ScoreNet,
    WindowSelection,
    select_windows,
    straight_through_score,
)
from sparsenet.ops.windows import (
    WindowGrid,
    cell_mask,
    content_size,
    pad_to_windows,
    pool_windows,
    spread_windows,
)

_STEM_STRIDE = 4
_CHANNELS_PER_HEAD = 32  # as in Swin; the global branch, too


@dataclass(frozen=True)
class SparseNetSize:
    """Widths and depths of the four stages.

    Attributes:
        expansion: hidden / C of the blocks' FFN.
        is_overlapping: stem and down-sampling by 3 × 3 convolutions of stride 2, which see small
            objects better; False: by 4 × 4 and 2 × 2 patches as in the papers, for fewer FLOPs.
    """

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    expansion: float
    is_overlapping: bool


SIZES: dict[str, dict[str, SparseNetSize]] = {
    "attention": {
        "nano": SparseNetSize((32, 64, 96, 160), (2, 2, 2, 2), 4, True),
        "tiny": SparseNetSize((96, 192, 384, 768), (2, 2, 6, 2), 4, False),
    },
    "conv": {
        "nano": SparseNetSize((32, 64, 96, 160), (2, 2, 3, 2), 1, True),
        "tiny": SparseNetSize((64, 128, 256, 512), (2, 2, 6, 2), 1, False),
    },
    "ls": {
        "nano": SparseNetSize((32, 64, 96, 160), (2, 2, 4, 4), 2, True),
        "tiny": SparseNetSize((64, 128, 256, 512), (2, 2, 6, 2), 2, False),
    },
}


class SparseStage(nn.Module):
    """Scores windows, adds the global branch everywhere, runs local blocks on the kept windows."""

    def __init__(
        self,
        channels: int,
        blocks: list[nn.Module],
        *,
        stride: int,
        window_size: int,
        keep_ratio: float,
        exploration: float,
    ) -> None:
        super().__init__()
        self.stride, self.window_size = stride, window_size
        self.keep_ratio, self.exploration = keep_ratio, exploration
        self.score_net = ScoreNet(channels)
        self.global_branch = GlobalBranch(channels, channels // _CHANNELS_PER_HEAD, depth=1)
        self.blocks = nn.ModuleList(blocks)
        # Attention needs its cells in windows; convolutions run on the map where all are kept.
        self.can_run_dense = not any(isinstance(block, AttentionBlock) for block in blocks)

    def forward(self, x: Tensor, content: Tensor | None) -> tuple[Tensor, WindowSelection]:
        """
        Args:
            x: (B, H, W, C).
            content: (B, 2), sizes of the images without filling, input pixels; None: all are full.

        Returns:
            The stage's map (B, H, W, C) and its selection.
        """
        grid = WindowGrid((x.shape[1], x.shape[2]), self.window_size)
        mask = None if content is None else cell_mask(content, grid.map_size, self.stride)
        mean = pool_windows(x, grid, mask)  # (B, rows, columns, C)
        valid = _valid_windows(mask, mean, grid)  # (B, rows, columns)
        logits = self.score_net(mean, pool_windows(x.square(), grid, mask), valid)
        exploration = self.exploration if self.training else 0.0
        kept = select_windows(logits, valid.flatten(1), self.keep_ratio, exploration)
        coarse = self.global_branch(mean, None if mask is None else valid.flatten(1))
        x = x + spread_windows(coarse, grid).to(x.dtype)
        x = self._run_local(x, grid, kept, logits.sigmoid())
        window_stride = self.stride * self.window_size
        return x, WindowSelection(logits, kept, grid.size, window_stride, valid.flatten(1))

    def _run_local(self, x: Tensor, grid: WindowGrid, kept: Tensor, score: Tensor) -> Tensor:
        if self.keep_ratio < 1 or not self.can_run_dense:
            every = self.keep_ratio >= 1
            return self._run_packed(x, grid, torch.ones_like(kept) if every else kept, score)
        score = spread_windows(score.view(-1, *grid.size, 1), grid)  # (B, H, W, 1)
        layout, out = DenseLayout(grid), x
        for block in self.blocks:
            out = block(out, layout)
        return straight_through_score(out, x, score) if torch.is_grad_enabled() else out

    def _run_packed(self, x: Tensor, grid: WindowGrid, kept: Tensor, score: Tensor) -> Tensor:
        layout = PackedLayout(pad_to_windows(x, grid), grid, kept)
        before = windows = layout.gather()  # (P, S, S, C)
        for block in self.blocks:
            windows = block(windows, layout)
        if torch.is_grad_enabled():
            score = score.flatten()[layout.kept_index].view(-1, 1, 1, 1)
            windows = straight_through_score(windows, before, score)
        x = layout.scatter_(windows)
        return x[:, : grid.map_size[0], : grid.map_size[1]]


class SparseNet(Backbone):
    """The four stages at strides 4, 8, 16, 32; outputs are LayerNormed maps "stage0" … "stage3".

    After each forward pass ``selections`` holds one :class:`WindowSelection` per stage.
    """

    @configurable
    def __init__(
        self,
        *,
        local_module: str,
        size: str,
        keep_ratio: tuple[float, ...],
        window_size: int = 7,
        out_features: tuple[str, ...] = ("stage0", "stage1", "stage2", "stage3"),
        drop_path_rate: float = 0.0,
        exploration: float = 0.05,
        in_channels: int = 3,
    ) -> None:
        """
        Args:
            local_module: "attention", "conv" or "ls".
            size: "nano" or "tiny".
            keep_ratio: share of windows that the local blocks compute, per stage, each in (0, 1].
            window_size: cells per window side.
            out_features: names of the outputs; later stages are not built.
            drop_path_rate: of the last block; it grows linearly from 0.
            exploration: share of windows added at random in training.

        Raises:
            ConfigError: a value is none of the above.
        """
        super().__init__()
        spec = _checked_size(local_module, size)
        num_stages = _checked_stages(out_features)
        _check_numbers(keep_ratio, window_size, drop_path_rate, exploration)
        channels = spec.channels[:num_stages]
        self._out_features = list(out_features)
        self._out_feature_channels = {f"stage{i}": c for i, c in enumerate(channels)}
        self._out_feature_strides = {f"stage{i}": 4 * 2**i for i in range(num_stages)}
        self.selections: list[WindowSelection] = []
        self.stem = _build_stem(in_channels, channels[0], spec.is_overlapping)
        self.stem_norm = nn.LayerNorm(channels[0])
        blocks = _build_blocks(local_module, spec, window_size, drop_path_rate)
        self.stages = nn.ModuleList(
            SparseStage(
                channels[i],
                blocks[i],
                stride=_STEM_STRIDE * 2**i,
                window_size=window_size,
                keep_ratio=keep_ratio[i],
                exploration=exploration,
            )
            for i in range(num_stages)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
        self.downsamples = nn.ModuleList(
            _build_downsample(channels[i], channels[i + 1], spec.is_overlapping)
            for i in range(num_stages - 1)
        )
        self.apply(_init_weights)

    def __getstate__(self) -> dict[str, object]:
        # Selections belong to a pass, not to the model; tensors inside a graph cannot be copied.
        return {**self.__dict__, "selections": []}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, object]:
        node = cfg.MODEL.SPARSENET
        return {
            "local_module": node.LOCAL_MODULE,
            "size": node.SIZE,
            "keep_ratio": tuple(node.KEEP_RATIO),
            "window_size": node.WINDOW_SIZE,
            "out_features": tuple(node.OUT_FEATURES),
            "drop_path_rate": node.DROP_PATH_RATE,
            "exploration": node.EXPLORATION,
            "in_channels": input_shape.channels,
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: (B, 3, H, W), normalised; filling up to the batch's size must be exactly 0.

        Returns:
            name → (B, C, ceil(H / stride), ceil(W / stride)), channels last in memory.
        """
        content = content_size(images)
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        x = self.stem_norm(x.permute(0, 2, 3, 1))  # (B, H/4, W/4, C)
        self.selections, outputs = [], {}
        for i, (stage, norm) in enumerate(zip(self.stages, self.norms)):
            x, selection = stage(x, content)
            self.selections.append(selection)
            feature = norm(x).permute(0, 3, 1, 2)  # (B, C, H/s, W/s)
            outputs[f"stage{i}"] = feature
            if i < len(self.downsamples):
                x = self.downsamples[i](feature).permute(0, 2, 3, 1)  # (B, H/2s, W/2s, C')
        return {name: outputs[name] for name in self._out_features}


@BACKBONE_REGISTRY.register()
def build_sparsenet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SparseNet:
    """Builds the backbone of ``cfg.MODEL.SPARSENET``."""
    return SparseNet(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_sparsenet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Builds the backbone with Detectron2's FPN: stage0 … stage3 become p2 … p5; p6 is a pooled p5.

    The stages are those of ``MODEL.FPN.IN_FEATURES``, or of ``MODEL.SPARSENET.OUT_FEATURES`` where
    that is empty. Without "stage3" there is neither p5 nor p6.

    Raises:
        ConfigError: If the FPN asks for a stage that the backbone does not put out.
    """
    node, stages = cfg.MODEL.FPN, list(cfg.MODEL.SPARSENET.OUT_FEATURES)
    in_features = list(node.IN_FEATURES) or stages
    if not set(in_features) <= set(stages):
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES must be among MODEL.SPARSENET.OUT_FEATURES {stages}, "
            f"got {in_features}."
        )
    has_p5 = "stage3" in in_features
    return FPN(
        bottom_up=SparseNet(cfg, input_shape),
        in_features=in_features,
        out_channels=node.OUT_CHANNELS,
        norm=node.NORM,
        top_block=LastLevelMaxPool() if has_p5 else None,
        fuse_type=node.FUSE_TYPE,
    )


def _valid_windows(mask: Tensor | None, mean: Tensor, grid: WindowGrid) -> Tensor:
    """Windows with at least one cell of content: (B, rows, columns) bool."""
    if mask is None:  # a window starts inside the map, so it always holds a cell of it
        return torch.ones(mean.shape[:3], dtype=torch.bool, device=mean.device)
    return pool_windows(mask, grid).squeeze(-1) > 0


def _build_stem(in_channels: int, channels: int, is_overlapping: bool) -> nn.Module:
    if not is_overlapping:
        return _Patches(in_channels, channels, _STEM_STRIDE)
    return nn.Sequential(
        nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
    )


def _build_downsample(in_channels: int, channels: int, is_overlapping: bool) -> nn.Module:
    if not is_overlapping:
        return _Patches(in_channels, channels, 2)
    return nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)


class _Patches(nn.Conv2d):
    """Embeds k × k patches, zero-padded at the right and bottom: (B, C, ⌈H/k⌉, ⌈W/k⌉)."""

    def __init__(self, in_channels: int, channels: int, side: int) -> None:
        super().__init__(in_channels, channels, side, stride=side)

    def forward(self, x: Tensor) -> Tensor:
        side = self.stride[0]
        fill = [-length % side for length in x.shape[-2:]]
        return super().forward(F.pad(x, (0, fill[1], 0, fill[0])) if any(fill) else x)


def _build_blocks(
    local_module: str, spec: SparseNetSize, window_size: int, drop_path_rate: float
) -> list[list[nn.Module]]:
    """Local blocks of each stage; the drop-path rate grows linearly over all of them."""
    rates = iter(torch.linspace(0, drop_path_rate, sum(spec.depths)).tolist())
    stages = []
    for channels, depth in zip(spec.channels, spec.depths):
        blocks: list[nn.Module] = []
        for i in range(depth):
            rate, is_odd = next(rates), i % 2 == 1
            if local_module == "attention":
                block = AttentionBlock(
                    channels,
                    channels // _CHANNELS_PER_HEAD,
                    expansion=spec.expansion,
                    drop_path=rate,
                    window_size=window_size,
                    halo=_attention_halo(window_size) if is_odd else 0,
                )
            elif local_module == "ls":
                block = LSBlock(channels, spec.expansion, rate, is_odd)
            else:
                block = ConvBlock(channels, spec.expansion, rate)
            blocks.append(block)
        stages.append(blocks)
    return stages


def _attention_halo(window_size: int) -> int:
    """A quarter of a window: half a window (Swin's shift) costs 2 to 3 times as many keys."""
    return max(1, (window_size + 1) // 4)


def _init_weights(module: nn.Module) -> None:
    """Normal weights of variance 1 / fan-in: signals keep their size through a fresh network."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _checked_size(local_module: str, size: str) -> SparseNetSize:
    if local_module not in SIZES:
        raise ConfigError(
            f"MODEL.SPARSENET.LOCAL_MODULE must be one of {', '.join(SIZES)}; got {local_module!r}."
        )
    sizes = SIZES[local_module]
    if size not in sizes:
        raise ConfigError(f"MODEL.SPARSENET.SIZE must be one of {', '.join(sizes)}; got {size!r}.")
    return sizes[size]


def _checked_stages(out_features: tuple[str, ...]) -> int:
    """Number of stages to build: up to the last output."""
    names = [f"stage{i}" for i in range(4)]
    unknown = [name for name in out_features if name not in names]
    if unknown or not out_features or len(set(out_features)) != len(out_features):
        raise ConfigError(
            "MODEL.SPARSENET.OUT_FEATURES must name at least one of "
            f"{', '.join(names)}, each once; got {tuple(out_features)!r}."
        )
    return max(names.index(name) for name in out_features) + 1


def _check_numbers(
    keep_ratio: tuple[float, ...], window_size: int, drop_path_rate: float, exploration: float
) -> None:
    if len(keep_ratio) != 4 or not all(0 < ratio <= 1 for ratio in keep_ratio):
        raise ConfigError(
            "MODEL.SPARSENET.KEEP_RATIO must hold four numbers in (0, 1], one per stage; "
            f"got {tuple(keep_ratio)!r}. Use 1.0 to compute every window of a stage."
        )
    if not isinstance(window_size, int) or window_size < 2:
        raise ConfigError(
            "MODEL.SPARSENET.WINDOW_SIZE must be an integer of at least 2 cells; "
            f"got {window_size!r}."
        )
    for key, rate in (("DROP_PATH_RATE", drop_path_rate), ("EXPLORATION", exploration)):
        if not 0 <= rate < 1:
            raise ConfigError(f"MODEL.SPARSENET.{key} must be in [0, 1); got {rate!r}.")
