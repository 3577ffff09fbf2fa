"""PANet's neck: an FPN and a second path, from fine to coarse.

Follows *Path Aggregation Network for Instance Segmentation* (arXiv 1803.01534, section 3.1) with
Detectron2's FPN, its state_dict keys included, so that FPN weights fill the first half. Differs
from it in: no activations on the path (as FPN, and as later necks have it), Detectron2's
initialisation.
"""

import math

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import FPN
from torch import Tensor


class PANet(FPN):
    """Maps p2, p3 … of one width, and one coarser level by pooling the last."""

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: list[str],
        out_channels: int,
        *,
        norm: str = "",
        fuse_type: str = "sum",
    ) -> None:
        """
        Args:
            bottom_up: the backbone below.
            in_features: names of its maps, fine to coarse, each of twice the stride before.
            out_channels: of every output.
            norm: as in Detectron2's ``get_norm``; "" gives the convolutions a bias instead.
            fuse_type: of the FPN, "sum" or "avg".
        """
        super().__init__(bottom_up, in_features, out_channels, norm=norm, fuse_type=fuse_type)
        self.names = list(super().output_shape())
        for name in self.names[1:]:
            self.add_module(f"panet_down_{name}", _conv(out_channels, norm, stride=2))
            self.add_module(f"panet_output_{name}", _conv(out_channels, norm))

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides of the outputs."""
        return with_pooled_shape(super().output_shape())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: (B, 3, H, W), sides a multiple of ``size_divisibility``.

        Returns:
            name → (B, D, H / stride, W / stride), finest first.
        """
        pyramid = super().forward(images)
        results = {self.names[0]: pyramid[self.names[0]]}
        for fine, name in zip(self.names, self.names[1:]):
            down = self.get_submodule(f"panet_down_{name}")(results[fine])  # (B, D, h / 2, w / 2)
            results[name] = self.get_submodule(f"panet_output_{name}")(pyramid[name] + down)
        return with_pooled_map(results)


def with_pooled_shape(shapes: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
    """The shapes of p2 … pn and of what :func:`with_pooled_map` adds."""
    last = list(shapes.values())[-1]
    name = f"p{int(math.log2(last.stride)) + 1}"
    return {**shapes, name: ShapeSpec(channels=last.channels, stride=2 * last.stride)}


def with_pooled_map(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """The maps p2 … pn and every second cell of the last, as Detectron2's ``LastLevelMaxPool``."""
    name, last = list(maps.items())[-1]
    pooled = F.max_pool2d(last, kernel_size=1, stride=2)  # (B, D, ⌈h / 2⌉, ⌈w / 2⌉)
    return {**maps, f"p{int(name.removeprefix('p')) + 1}": pooled}


def _conv(channels: int, norm: str, *, stride: int = 1) -> Conv2d:
    conv = Conv2d(
        channels,
        channels,
        kernel_size=3,
        stride=stride,
        padding=1,
        bias=norm == "",
        norm=get_norm(norm, channels),
    )
    weight_init.c2_xavier_fill(conv)
    return conv
