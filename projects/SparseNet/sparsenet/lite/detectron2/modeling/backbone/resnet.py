"""Stands in for detectron2.modeling.backbone.resnet: has ResNet and ResNeXt 18 to 152; lacks
deformable blocks and ResNet.make_default_stages."""

import math

import fvcore.nn.weight_init as weight_init
import torch
from detectron2._lacking import lacks
from detectron2.layers import CNNBlockBase, Conv2d, get_norm
from detectron2.modeling.backbone.backbone import Backbone
from detectron2.modeling.backbone.build import BACKBONE_REGISTRY
from torch import nn
from torch.nn import functional as F

__all__ = [
    "BasicBlock",
    "BasicStem",
    "BottleneckBlock",
    "ResNet",
    "ResNetBlockBase",
    "build_resnet_backbone",
    "make_stage",
]

ResNetBlockBase = CNNBlockBase  # old name

_BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def _conv(in_channels, out_channels, kernel_size, norm, **kwargs) -> Conv2d:
    """A convolution without bias, with a norm, initialised for a ReLU behind it."""
    norm = get_norm(norm, out_channels)
    conv = Conv2d(
        in_channels, out_channels, kernel_size=kernel_size, bias=False, norm=norm, **kwargs
    )
    weight_init.c2_msra_fill(conv)
    return conv


def _shortcut(in_channels, out_channels, stride, norm) -> Conv2d | None:
    if in_channels == out_channels:
        return None
    return _conv(in_channels, out_channels, 1, norm, stride=stride)


class BasicBlock(CNNBlockBase):
    """Two 3x3 convolutions and a shortcut: ResNet-18 and 34."""

    def __init__(self, in_channels, out_channels, *, stride=1, norm="BN"):
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride, padding=1)
        self.conv2 = _conv(out_channels, out_channels, 3, norm, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(F.relu_(self.conv1(x)))
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BottleneckBlock(CNNBlockBase):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: ResNet-50 and deeper."""

    def __init__(
        self,
        in_channels,
        out_channels,
        *,
        bottleneck_channels,
        stride=1,
        num_groups=1,
        norm="BN",
        stride_in_1x1=False,
        dilation=1,
    ):
        """Takes the channels of the 3x3 convolution, its groups and dilation, and which of the
        first two convolutions has the stride."""
        super().__init__(in_channels, out_channels, stride)
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, bottleneck_channels, 1, norm, stride=stride_1x1)
        self.conv2 = _conv(
            bottleneck_channels,
            bottleneck_channels,
            3,
            norm,
            stride=stride_3x3,
            padding=dilation,
            groups=num_groups,
            dilation=dilation,
        )
        self.conv3 = _conv(bottleneck_channels, out_channels, 1, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu_(self.conv1(x))
        out = self.conv3(F.relu_(self.conv2(out)))
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BasicStem(CNNBlockBase):
    """A 7x7 convolution of stride 2 and a max pooling of stride 2."""

    def __init__(self, in_channels=3, out_channels=64, norm="BN"):
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu_(self.conv1(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """A stem, the stages res2 to res5 and an optional classifier."""

    def __init__(self, stem, stages, num_classes=None, out_features=None, freeze_at=0):
        """Takes blocks per stage and what to return and to train.

        Args:
            stem: a block.
            stages: lists of blocks.
            num_classes: size of the "linear" layer behind the last stage; None: no such layer.
            out_features: names among "stem", "res2" ... and "linear"; None: the last one. Stages
                behind the last named one are left out.
            freeze_at: see ``freeze``.
        """
        super().__init__()
        self.stem = stem
        self.num_classes = num_classes
        if out_features is not None:
            index = {f"res{i + 2}": i + 1 for i in range(4)}
            stages = stages[: max(index.get(name, 0) for name in out_features)]
        self._add_stages(stages)
        if num_classes is not None:
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.linear = nn.Linear(list(self._out_feature_channels.values())[-1], num_classes)
            nn.init.normal_(self.linear.weight, std=0.01)  # arXiv 1706.02677, section 5.1
        children = [name for name, _ in self.named_children()]
        self._out_features = children[-1:] if out_features is None else out_features
        assert self._out_features, "out_features must name at least one feature."
        for feature in self._out_features:
            assert feature in children, f"Available children: {', '.join(children)}"
        self.freeze(freeze_at)

    def _add_stages(self, stages) -> None:
        stride = self.stem.stride
        self._out_feature_strides = {"stem": stride}
        self._out_feature_channels = {"stem": self.stem.out_channels}
        self.stages = []
        for number, blocks in enumerate(stages, start=2):
            assert len(blocks) > 0, f"Stage res{number} has no blocks."
            assert all(isinstance(block, CNNBlockBase) for block in blocks), blocks
            name = f"res{number}"
            self.add_module(name, nn.Sequential(*blocks))
            self.stages.append(getattr(self, name))
            stride *= math.prod(block.stride for block in blocks)
            self._out_feature_strides[name] = stride
            self._out_feature_channels[name] = blocks[-1].out_channels
        self.stage_names = tuple(self._out_feature_strides)[1:]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the asked features of images (N, C, H, W)."""
        assert x.dim() == 4, f"ResNet takes an input of shape (N, C, H, W). Got {x.shape} instead!"
        x = self.stem(x)  # (N, 64, H/4, W/4)
        outputs = {"stem": x}
        for name, stage in zip(self.stage_names, self.stages):
            outputs[name] = x = stage(x)
        if self.num_classes is not None:
            outputs["linear"] = self.linear(self.avgpool(x).flatten(1))  # (N, num_classes)
        return {name: value for name, value in outputs.items() if name in self._out_features}

    def freeze(self, freeze_at=0):
        """Freezes the stem (``freeze_at`` >= 1) and the stages up to res<freeze_at>."""
        if freeze_at >= 1:
            self.stem.freeze()
        for number, stage in enumerate(self.stages, start=2):
            if freeze_at >= number:
                for block in stage.children():
                    block.freeze()
        return self

    @staticmethod
    def make_stage(block_class, num_blocks, *, in_channels, out_channels, **kwargs):
        """Returns the blocks of one stage.

        Args:
            block_class: called with in_channels, out_channels and ``kwargs``.
            num_blocks: how many.
            in_channels: of the first block.
            out_channels: of every block.
            kwargs: for each block; ``<name>_per_block`` is a list with a value per block.
        """
        per_block = {k: v for k, v in kwargs.items() if k.endswith("_per_block")}
        shared = {k: v for k, v in kwargs.items() if k not in per_block}
        for name, values in per_block.items():
            short = name.removesuffix("_per_block")
            assert short not in kwargs, f"Cannot call make_stage with both {name} and {short}!"
            assert len(values) == num_blocks, (
                f"Argument '{name}' of make_stage should have the same length as "
                f"num_blocks={num_blocks}."
            )
        blocks = []
        for i in range(num_blocks):
            own = {name.removesuffix("_per_block"): v[i] for name, v in per_block.items()}
            blocks.append(
                block_class(in_channels=in_channels, out_channels=out_channels, **shared, **own)
            )
            in_channels = out_channels
        return blocks


def make_stage(*args, **kwargs):
    """Old name of ``ResNet.make_stage``."""
    return ResNet.make_stage(*args, **kwargs)


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg, input_shape):
    """Builds the ResNet of MODEL.RESNETS, frozen as MODEL.BACKBONE.FREEZE_AT says."""
    node = cfg.MODEL.RESNETS
    _check_resnet_options(node)
    is_shallow = node.DEPTH in (18, 34)
    stem = BasicStem(input_shape.channels, node.STEM_OUT_CHANNELS, node.NORM)
    in_channels, out_channels = node.STEM_OUT_CHANNELS, node.RES2_OUT_CHANNELS
    stages = []
    for i, num_blocks in enumerate(_BLOCKS_PER_STAGE[node.DEPTH]):
        dilation = node.RES5_DILATION if i == 3 else 1
        stride = 1 if i == 0 or dilation == 2 else 2
        options = {"norm": node.NORM}
        if not is_shallow:
            options["bottleneck_channels"] = node.NUM_GROUPS * node.WIDTH_PER_GROUP * 2**i
            options["stride_in_1x1"] = node.STRIDE_IN_1X1
            options["dilation"] = dilation
            options["num_groups"] = node.NUM_GROUPS
        blocks = ResNet.make_stage(
            BasicBlock if is_shallow else BottleneckBlock,
            num_blocks,
            in_channels=in_channels,
            out_channels=out_channels,
            stride_per_block=[stride] + [1] * (num_blocks - 1),
            **options,
        )
        in_channels, out_channels = out_channels, out_channels * 2
        stages.append(blocks)
    freeze_at = cfg.MODEL.BACKBONE.FREEZE_AT
    return ResNet(stem, stages, out_features=node.OUT_FEATURES, freeze_at=freeze_at)


def _check_resnet_options(node) -> None:
    assert node.RES5_DILATION in (1, 2), f"RES5_DILATION cannot be {node.RES5_DILATION}."
    if any(node.DEFORM_ON_PER_STAGE):
        raise lacks("MODEL.RESNETS.DEFORM_ON_PER_STAGE (deformable convolution)")
    if node.DEPTH in (18, 34):
        for name, value in (("RES2_OUT_CHANNELS", 64), ("RES5_DILATION", 1), ("NUM_GROUPS", 1)):
            assert node[name] == value, f"Must set MODEL.RESNETS.{name} = {value} for R18/R34"
