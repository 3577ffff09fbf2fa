"""Stands in for detectron2.modeling.meta_arch.semantic_seg: has SemanticSegmentor, SemSegFPNHead,
registry and builder; lacks nothing."""

import math
from collections.abc import Callable

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.backbone import Backbone, build_backbone
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from detectron2.utils.registry import Registry
from torch import nn
from torch.nn import functional as F

__all__ = ["SEM_SEG_HEADS_REGISTRY", "SemSegFPNHead", "SemanticSegmentor", "build_sem_seg_head"]

SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")  # name -> class of (cfg, {name: ShapeSpec})


def build_sem_seg_head(cfg, input_shape):
    """Returns the head named by MODEL.SEM_SEG_HEAD.NAME for {feature name: ShapeSpec}."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)


@META_ARCH_REGISTRY.register()
class SemanticSegmentor(nn.Module):
    """A backbone and a head that gives every pixel a class."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        pixel_mean: tuple[float],
        pixel_std: tuple[float],
    ):
        """Takes the two parts and mean and deviation per channel of the input."""
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self):
        """Where images are moved to."""
        return self.pixel_mean.device

    def forward(self, batched_inputs):
        """Returns the losses in training, otherwise {"sem_seg"} of each image.

        Args:
            batched_inputs: per image "image" (C, h, w), in training "sem_seg" (h, w) classes, and
                "height" and "width" of the output, by default those of the image.

        Returns:
            In evaluation, (K, height, width) logits per image.
        """
        images = [item["image"].to(self.device) for item in batched_inputs]
        images = self._batch([(image - self.pixel_mean) / self.pixel_std for image in images], 0.0)
        features = self.backbone(images.tensor)
        targets = None
        if "sem_seg" in batched_inputs[0]:
            targets = [item["sem_seg"].to(self.device) for item in batched_inputs]
            targets = self._batch(targets, self.sem_seg_head.ignore_value).tensor  # (N, H, W)
        results, losses = self.sem_seg_head(features, targets)
        if self.training:
            return losses
        outputs = []
        for result, item, size in zip(results, batched_inputs, images.image_sizes):
            height, width = item.get("height", size[0]), item.get("width", size[1])
            outputs.append({"sem_seg": sem_seg_postprocess(result, size, height, width)})
        return outputs

    def _batch(self, tensors: list[torch.Tensor], pad_value: float) -> ImageList:
        backbone = self.backbone
        return ImageList.from_tensors(
            tensors, backbone.size_divisibility, pad_value, backbone.padding_constraints
        )


@SEM_SEG_HEADS_REGISTRY.register()
class SemSegFPNHead(nn.Module):
    """Brings all levels of a pyramid to one stride by convolutions and doublings, adds them, and
    classifies each cell (Panoptic FPN, arXiv 1901.02446, section 3.1)."""

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int,
        common_stride: int,
        loss_weight: float = 1.0,
        norm: str | Callable | None = None,
        ignore_value: int = -1,
    ):
        """Takes the shapes of the maps and options.

        Args:
            input_shape: {feature name: channels and stride}.
            num_classes: of the output.
            conv_dims: channels of the convolutions.
            common_stride: of the added maps.
            loss_weight: factor of the loss.
            norm: of the convolutions, as in ``get_norm``.
            ignore_value: pixels of this class do not count.
        """
        super().__init__()
        if not input_shape:
            raise ValueError("SemSegFPNHead(input_shape=) cannot be empty!")
        shapes = sorted(input_shape.items(), key=lambda item: item[1].stride)
        self.in_features = [name for name, _ in shapes]
        self.ignore_value = ignore_value
        self.common_stride = common_stride
        self.loss_weight = loss_weight
        self.scale_heads = []
        for name, shape in shapes:
            head = _scale_head(shape, conv_dims, common_stride, norm)
            self.scale_heads.append(head)
            self.add_module(name, head)
        self.predictor = Conv2d(conv_dims, num_classes, kernel_size=1, stride=1, padding=0)
        weight_init.c2_msra_fill(self.predictor)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {k: v for k, v in input_shape.items() if k in node.IN_FEATURES},
            "ignore_value": node.IGNORE_VALUE,
            "num_classes": node.NUM_CLASSES,
            "conv_dims": node.CONVS_DIM,
            "common_stride": node.COMMON_STRIDE,
            "norm": node.NORM,
            "loss_weight": node.LOSS_WEIGHT,
        }

    def forward(self, features, targets=None):
        """Returns (None, losses) in training, otherwise ((N, K, H, W) logits, {}).

        Args:
            features: maps (N, C, h, w) by name.
            targets: (N, H, W) classes; needed in training.
        """
        x = self.layers(features)  # (N, K, H / common_stride, W / common_stride)
        if self.training:
            return None, self.losses(x, targets)
        return self._to_input_size(x), {}

    def layers(self, features):
        """Returns (N, K, h, w) logits at the common stride."""
        maps = [head(features[name]) for name, head in zip(self.in_features, self.scale_heads)]
        return self.predictor(sum(maps[1:], start=maps[0]))

    def losses(self, predictions, targets):
        """Returns "loss_sem_seg": the mean cross-entropy of (N, K, h, w) logits, enlarged to the
        (N, H, W) classes."""
        logits = self._to_input_size(predictions.float())  # float: half precision sums badly
        loss = F.cross_entropy(logits, targets, reduction="mean", ignore_index=self.ignore_value)
        return {"loss_sem_seg": loss * self.loss_weight}

    def _to_input_size(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.common_stride
        return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


def _scale_head(shape: ShapeSpec, conv_dims: int, common_stride: int, norm) -> nn.Sequential:
    """Convolutions, each followed by a doubling of the size until the common stride is reached."""
    num_doublings = int(math.log2(shape.stride) - math.log2(common_stride))
    layers: list[nn.Module] = []
    for i in range(max(1, num_doublings)):
        conv = Conv2d(
            shape.channels if i == 0 else conv_dims,
            conv_dims,
            kernel_size=3,
            stride=1,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, conv_dims),
            activation=F.relu,
        )
        weight_init.c2_msra_fill(conv)
        layers.append(conv)
        if shape.stride != common_stride:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)
