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
  which other windows were kept (beyond the halo; cells that fill an image up to its batch's size
  are cells like any other to the local blocks);
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
from sparsenet.layers.cellwise import norm_cells
from sparsenet.layers.local_blocks import AttentionBlock, ConvBlock, LSBlock
from sparsenet.layers.score_net import WindowSelection
from sparsenet.layers.sparse_stage import CHANNELS_PER_HEAD, SparseStage
from sparsenet.modeling.neck import SparseFPN
from sparsenet.ops.windows import content_size

_STEM_STRIDE = 4


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


class SparseNet(Backbone):
    """The four stages at strides 4, 8, 16, 32; outputs are LayerNormed maps "stage0" … "stage3".

    In inference on a CPU the maps between them are overwritten: a forward hook on the stem, a stage
    or a downsampling that wants to keep its output must copy it. After each forward pass
    ``selections`` holds one :class:`WindowSelection` per stage.
    """

    @configurable
    def __init__(  # noqa: PLR0913  (one per configuration key)
        self,
        *,
        local_module: str,
        size: str,
        keep_ratio: tuple[float, ...],
        keep_threshold: float | None = None,
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
            keep_threshold: score in (0, 1) from which they compute a window, at most ``keep_ratio``
                of them and at least one; None: always the share.
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
        if keep_threshold is not None and not 0 < keep_threshold < 1:
            raise ConfigError(
                f"MODEL.SPARSENET.KEEP_THRESHOLD must be in (0, 1); got {keep_threshold!r}."
            )
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
                keep_threshold=keep_threshold,
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
            "keep_threshold": _keep_threshold(node),
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
        x = norm_cells(self.stem_norm, x.permute(0, 2, 3, 1))  # (B, H/4, W/4, C)
        self.selections, outputs = [], {}
        for i, (stage, norm) in enumerate(zip(self.stages, self.norms)):
            x, selection = stage(x, content)
            self.selections.append(selection)
            feature = norm_cells(norm, x).permute(0, 3, 1, 2)  # (B, C, H/s, W/s)
            outputs[f"stage{i}"] = feature
            if i < len(self.downsamples):
                x = self.downsamples[i](feature).permute(0, 2, 3, 1)  # (B, H/2s, W/2s, C')
        return {name: outputs[name] for name in self._out_features}


# By MODEL.SPARSENET.DESIGN; sparsenet_faithful.py adds the published one.
DESIGNS: dict[str, type[Backbone]] = {"corrected": SparseNet}
NECKS: dict[str, type[FPN]] = {"fpn": FPN, "sparse_fpn": SparseFPN}


@BACKBONE_REGISTRY.register()
def build_sparsenet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Builds the backbone of ``cfg.MODEL.SPARSENET``.

    Raises:
        ConfigError: If ``DESIGN`` is unknown.
    """
    design = cfg.MODEL.SPARSENET.DESIGN
    if design not in DESIGNS:
        raise ConfigError(
            f"MODEL.SPARSENET.DESIGN must be one of {', '.join(DESIGNS)}; got {design!r}."
        )
    return DESIGNS[design](cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_sparsenet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Builds the backbone with Detectron2's FPN: stage0 … stage3 become p2 … p5; p6 is a pooled p5.

    The stages are those of ``MODEL.FPN.IN_FEATURES``, or of ``MODEL.SPARSENET.OUT_FEATURES`` where
    that is empty. Without "stage3" there is neither p5 nor p6.

    ``MODEL.SPARSENET.NECK: sparse_fpn`` computes it where windows were kept, see ``SparseFPN``.

    Raises:
        ConfigError: If the FPN asks for a stage that the backbone does not put out, or the neck is
            unknown or cannot have the norm.
    """
    node, stages = cfg.MODEL.FPN, list(cfg.MODEL.SPARSENET.OUT_FEATURES)
    in_features = list(node.IN_FEATURES) or stages
    if not set(in_features) <= set(stages):
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES must be among MODEL.SPARSENET.OUT_FEATURES {stages}, "
            f"got {in_features}."
        )
    has_p5 = "stage3" in in_features
    return _neck(cfg)(
        bottom_up=build_sparsenet_backbone(cfg, input_shape),
        in_features=in_features,
        out_channels=node.OUT_CHANNELS,
        norm=node.NORM,
        top_block=LastLevelMaxPool() if has_p5 else None,
        fuse_type=node.FUSE_TYPE,
    )


def _neck(cfg: CfgNode) -> type[FPN]:
    name, norm = cfg.MODEL.SPARSENET.NECK, cfg.MODEL.FPN.NORM
    if name not in NECKS:
        raise ConfigError(f"MODEL.SPARSENET.NECK must be one of {', '.join(NECKS)}; got {name!r}.")
    if name == "sparse_fpn" and cfg.MODEL.SPARSENET.DESIGN != "corrected":
        raise ConfigError(
            "MODEL.SPARSENET.DESIGN must be corrected with NECK sparse_fpn, which computes the "
            f"windows that it kept; got {cfg.MODEL.SPARSENET.DESIGN!r}. Use NECK fpn."
        )
    if name == "sparse_fpn" and norm:
        raise ConfigError(
            "MODEL.FPN.NORM must be '' with MODEL.SPARSENET.NECK sparse_fpn, as a norm would see "
            f"only the kept windows; got {norm!r}. Use NECK fpn or no norm."
        )
    return NECKS[name]


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
                    channels // CHANNELS_PER_HEAD,
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


def _keep_threshold(node: CfgNode) -> float | None:
    if node.KEEP_MODE not in ("ratio", "threshold"):
        raise ConfigError(
            f"MODEL.SPARSENET.KEEP_MODE must be ratio or threshold; got {node.KEEP_MODE!r}."
        )
    return node.KEEP_THRESHOLD if node.KEEP_MODE == "threshold" else None


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
