"""The feature pyramid of LSNet's published detectors, whose backbone starts at stride 8.

Follows *LSNet: See Large, Focus Small* (CVPR 2025, arXiv 2503.23135, appendix;
https://github.com/THU-MIG/lsnet, without a licence file). Differs from
:class:`detectron2.modeling.FPN` in: one level more at either end, and maps of any size, because a
coarser map is enlarged to the size of the finer one. State_dict keys are Detectron2's, with
``fpn_lateral3`` … ``fpn_lateral6``.
"""

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.modeling import FPN, Backbone
from torch import Tensor, nn

from sparsenet.errors import ConfigError

EXTRA_LEVELS = ("p2", "p7")
_PADDED_TO = 32  # sides of a batch, as published


class LSNetFPN(FPN):
    """p3 … p6 of strides 8 to 64, and one level more.

    Args:
        bottom_up: LSNet with four maps.
        in_features: Their names, fine to coarse.
        out_channels: D, of every level.
        extra_level: "p7": a strided convolution of the backbone's last map (the published
            RetinaNet). "p2": a transposed convolution of the finest merged map, and a convolution
            (the published Mask R-CNN).

    Raises:
        ConfigError: If the extra level is none of these, or four maps are not given.
    """

    def __init__(
        self, bottom_up: Backbone, in_features: list[str], out_channels: int, *, extra_level: str
    ) -> None:
        if extra_level not in EXTRA_LEVELS or len(in_features) != 4:
            raise ConfigError(
                "MODEL.LSNET.EXTRA_LEVEL must be p2 or p7 and MODEL.FPN.IN_FEATURES the four "
                f"stages, got {extra_level!r} and {in_features}."
            )
        super().__init__(bottom_up, in_features, out_channels)
        self._size_divisibility = _PADDED_TO
        self.extra_level = extra_level
        if extra_level == "p7":
            channels = bottom_up.output_shape()[in_features[-1]].channels
            self.fpn_output7 = _conv(channels, out_channels, stride=2)
        else:
            self.fpn_upsample2 = nn.ConvTranspose2d(out_channels, out_channels, 2, stride=2)
            weight_init.c2_xavier_fill(self.fpn_upsample2)
            self.fpn_output2 = _conv(out_channels, out_channels)
        self._out_feature_strides[extra_level] = 2 ** int(extra_level[1:])
        self._out_feature_channels[extra_level] = out_channels
        self._out_features = sorted(self._out_feature_strides)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: (B, 3, H, W), normalised; sides a multiple of 32.

        Returns:
            name → (B, D, ⌈H / stride⌉, ⌈W / stride⌉), finest first.
        """
        features = self.bottom_up(images)
        maps = {}
        merged: Tensor | None = None
        for lateral, output, name in zip(
            self.lateral_convs, self.output_convs, reversed(self.in_features)
        ):
            fine = lateral(features[name])  # (B, D, h, w)
            if merged is not None:
                fine = fine + F.interpolate(merged, size=fine.shape[-2:], mode="nearest")
            merged = fine
            maps[f"p{6 - len(maps)}"] = output(merged)
        if self.extra_level == "p7":
            maps["p7"] = self.fpn_output7(features[self.in_features[-1]])
        else:
            maps["p2"] = self.fpn_output2(self.fpn_upsample2(merged))  # (B, D, H / 4, W / 4)
        return {name: maps[name] for name in self._out_features}


def _conv(in_channels: int, out_channels: int, *, stride: int = 1) -> Conv2d:
    conv = Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
    weight_init.c2_xavier_fill(conv)
    return conv
