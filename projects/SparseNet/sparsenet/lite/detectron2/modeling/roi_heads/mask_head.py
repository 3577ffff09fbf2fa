"""Stands in for detectron2.modeling.roi_heads.mask_head: has MaskRCNNConvUpsampleHead, its base,
loss and inference, registry and builder; lacks pictures of the training (vis_period)."""

import fvcore.nn.weight_init as weight_init
import torch
from detectron2._lacking import lacks
from detectron2.config import configurable
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec, cat, get_norm
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry
from torch import nn
from torch.nn import functional as F

__all__ = [
    "ROI_MASK_HEAD_REGISTRY",
    "BaseMaskRCNNHead",
    "MaskRCNNConvUpsampleHead",
    "build_mask_head",
]

ROI_MASK_HEAD_REGISTRY = Registry("ROI_MASK_HEAD")  # name -> class of (cfg, ShapeSpec)


def mask_rcnn_loss(pred_mask_logits: torch.Tensor, instances: list[Instances], vis_period: int = 0):
    """Returns the mean cross-entropy of the masks of the true classes.

    Args:
        pred_mask_logits: (B, K, M, M), or (B, 1, M, M) for all classes, over all images.
        instances: B objects with "proposal_boxes", "gt_classes" and "gt_masks".
        vis_period: must be 0.
    """
    if vis_period > 0:
        raise lacks("mask_rcnn_loss with pictures (VIS_PERIOD)")
    side = pred_mask_logits.size(2)
    assert side == pred_mask_logits.size(3), "Mask prediction must be square!"
    present = [item for item in instances if len(item) > 0]
    if not present:
        return pred_mask_logits.sum() * 0
    classes = cat([item.gt_classes for item in present]).to(torch.int64)
    targets = cat(
        [item.gt_masks.crop_and_resize(item.proposal_boxes.tensor, side) for item in present]
    ).to(pred_mask_logits.device)  # (B, M, M)
    logits = _of_classes(pred_mask_logits, classes)  # (B, M, M)
    _log_mask_stats(logits, targets)
    targets = targets.to(torch.float32)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="mean")


def _of_classes(masks: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """(B, K, M, M) to the (B, M, M) masks of (B,) classes."""
    if masks.size(1) == 1:
        return masks[:, 0]
    return masks[torch.arange(len(masks), device=masks.device), classes]


def _log_mask_stats(logits: torch.Tensor, targets: torch.Tensor) -> None:
    """Puts the share of right pixels, false positives and false negatives into the storage."""
    is_wrong = (logits > 0) != targets
    num_positive = targets.sum().item()
    num_negative = targets.numel() - num_positive
    false_positive = (is_wrong & ~targets).sum().item() / max(num_negative, 1.0)
    false_negative = (is_wrong & targets).sum().item() / max(num_positive, 1.0)
    storage = get_event_storage()
    storage.put_scalar("mask_rcnn/accuracy", 1 - is_wrong.sum().item() / max(targets.numel(), 1.0))
    storage.put_scalar("mask_rcnn/false_positive", false_positive)
    storage.put_scalar("mask_rcnn/false_negative", false_negative)


def mask_rcnn_inference(pred_mask_logits: torch.Tensor, pred_instances: list[Instances]):
    """Sets "pred_masks" (N_i, 1, M, M): the probabilities for the predicted classes.

    Args:
        pred_mask_logits: (B, K, M, M), or (B, 1, M, M) for all classes, over all images.
        pred_instances: B detections with "pred_classes"; changed in place.
    """
    classes = cat([item.pred_classes for item in pred_instances])
    probabilities = _of_classes(pred_mask_logits, classes)[:, None].sigmoid()  # (B, 1, M, M)
    counts = [len(item) for item in pred_instances]
    for masks, item in zip(probabilities.split(counts), pred_instances):
        item.pred_masks = masks


class BaseMaskRCNNHead(nn.Module):
    """Loss and inference of masks; subclasses give ``layers``."""

    @configurable
    def __init__(self, *, loss_weight: float = 1.0, vis_period: int = 0):
        """Takes the factor of the loss, and 0."""
        super().__init__()
        if vis_period > 0:
            raise lacks("Mask heads with VIS_PERIOD")
        self.vis_period = vis_period
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {"vis_period": cfg.VIS_PERIOD}

    def forward(self, x, instances: list[Instances]):
        """Returns {"loss_mask"} in training, otherwise the instances with "pred_masks".

        Args:
            x: (B, C, h, w) pooled boxes of all images.
            instances: see ``mask_rcnn_loss`` and ``mask_rcnn_inference``.
        """
        x = self.layers(x)  # (B, K, M, M)
        if self.training:
            return {"loss_mask": mask_rcnn_loss(x, instances, self.vis_period) * self.loss_weight}
        mask_rcnn_inference(x, instances)
        return instances

    def layers(self, x):
        """(B, C, h, w) pooled boxes to (B, K, M, M) logits."""
        raise NotImplementedError(f"{type(self).__name__} must have a method `layers`.")


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNConvUpsampleHead(BaseMaskRCNNHead, nn.Sequential):
    """3x3 convolutions, a transposed one that doubles the size, and a 1x1 to the classes."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_classes, conv_dims, conv_norm="", **kwargs):
        """Takes the shape of the pooled boxes, classes (1: one mask for all), channels of the
        convolutions (the last is the transposed one), their norm, and the base's options."""
        super().__init__(**kwargs)
        assert len(conv_dims) >= 1, "conv_dims have to be non-empty!"
        channels = input_shape.channels
        for number, dim in enumerate(conv_dims[:-1], start=1):
            conv = Conv2d(
                channels,
                dim,
                kernel_size=3,
                padding=1,
                bias=not conv_norm,
                norm=get_norm(conv_norm, dim),
                activation=nn.ReLU(),
            )
            weight_init.c2_msra_fill(conv)
            self.add_module(f"mask_fcn{number}", conv)
            channels = dim
        deconv = ConvTranspose2d(channels, conv_dims[-1], kernel_size=2, stride=2)
        weight_init.c2_msra_fill(deconv)
        self.add_module("deconv", deconv)
        self.add_module("deconv_relu", nn.ReLU())
        predictor = Conv2d(conv_dims[-1], num_classes, kernel_size=1)
        nn.init.normal_(predictor.weight, std=0.001)
        nn.init.constant_(predictor.bias, 0)
        self.add_module("predictor", predictor)

    @classmethod
    def from_config(cls, cfg, input_shape):
        node = cfg.MODEL.ROI_MASK_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            "num_classes": 1 if node.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "conv_dims": [node.CONV_DIM] * (node.NUM_CONV + 1),
            "conv_norm": node.NORM,
        }

    def layers(self, x):
        for layer in self:
            x = layer(x)
        return x  # (B, K, 2h, 2w)


def build_mask_head(cfg, input_shape):
    """Returns the head named by MODEL.ROI_MASK_HEAD.NAME."""
    return ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)(cfg, input_shape)
