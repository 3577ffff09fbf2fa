"""Stands in for detectron2.modeling.roi_heads.roi_heads: has ROIHeads and StandardROIHeads of boxes
and masks; lacks keypoints, Res5ROIHeads and heads without a pooler."""

import torch
from detectron2._lacking import lacks
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.roi_heads.box_head import build_box_head
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import build_mask_head
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry
from torch import nn

__all__ = ["ROIHeads", "StandardROIHeads", "build_roi_heads"]

ROI_HEADS_REGISTRY = Registry("ROI_HEADS")  # name -> class of (cfg, {feature name: ShapeSpec})


def build_roi_heads(cfg, input_shape):
    """Returns the heads named by MODEL.ROI_HEADS.NAME for {feature name: ShapeSpec}."""
    name = cfg.MODEL.ROI_HEADS.NAME
    if name in ("Res5ROIHeads", "CascadeROIHeads", "RROIHeads"):
        raise lacks(f"MODEL.ROI_HEADS.NAME {name}")
    return ROI_HEADS_REGISTRY.get(name)(cfg, input_shape)


def select_foreground_proposals(
    proposals: list[Instances], bg_label: int
) -> tuple[list[Instances], list[torch.Tensor]]:
    """Returns the proposals whose "gt_classes" is neither -1 nor ``bg_label``, and their masks."""
    assert isinstance(proposals, list | tuple), type(proposals)
    assert all(isinstance(item, Instances) for item in proposals), "proposals must be Instances"
    masks = [(p.gt_classes != -1) & (p.gt_classes != bg_label) for p in proposals]
    return [p[mask.nonzero()[:, 0]] for p, mask in zip(proposals, masks)], masks


class ROIHeads(nn.Module):
    """What runs on proposals; this base matches and samples them for training."""

    @configurable
    def __init__(
        self,
        *,
        num_classes,
        batch_size_per_image,
        positive_fraction,
        proposal_matcher,
        proposal_append_gt=True,
    ):
        """Takes K classes, the proposals to draw per image and the greatest share of objects in
        them, the Matcher, and whether the true boxes take part as proposals."""
        super().__init__()
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.num_classes = num_classes
        self.proposal_matcher = proposal_matcher
        self.proposal_append_gt = proposal_append_gt

    @classmethod
    def from_config(cls, cfg):
        node = cfg.MODEL.ROI_HEADS
        return {
            "batch_size_per_image": node.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": node.POSITIVE_FRACTION,
            "num_classes": node.NUM_CLASSES,
            "proposal_append_gt": node.PROPOSAL_APPEND_GT,
            "proposal_matcher": Matcher(
                node.IOU_THRESHOLDS, node.IOU_LABELS, allow_low_quality_matches=False
            ),
        }

    def _sample_proposals(
        self, matched_idxs: torch.Tensor, matched_labels: torch.Tensor, gt_classes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the drawn indices, objects first, and their classes (K: background)."""
        if gt_classes.numel() > 0:
            classes = gt_classes[matched_idxs]
            classes[matched_labels == 0] = self.num_classes
            classes[matched_labels == -1] = -1
        else:
            classes = torch.full_like(matched_idxs, self.num_classes)
        drawn = torch.cat(
            subsample_labels(
                classes, self.batch_size_per_image, self.positive_fraction, self.num_classes
            )
        )
        return drawn, classes[drawn]

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Draws proposals and gives them "gt_classes" and the fields "gt_*" of their objects.

        Args:
            proposals: per image, with "proposal_boxes" and "objectness_logits".
            targets: per image, with "gt_boxes", "gt_classes" and maybe more.
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        drawn, counts = [], []
        for candidates, truth in zip(proposals, targets):
            quality = pairwise_iou(truth.gt_boxes, candidates.proposal_boxes)
            matches, labels = self.proposal_matcher(quality)
            indices, classes = self._sample_proposals(matches, labels, truth.gt_classes)
            chosen = candidates[indices]
            chosen.gt_classes = classes
            if len(truth) > 0:
                for name, value in truth.get_fields().items():
                    if name.startswith("gt_") and not chosen.has(name):
                        chosen.set(name, value[matches[indices]])
            num_background = (classes == self.num_classes).sum().item()
            counts.append((len(classes) - num_background, num_background))
            drawn.append(chosen)
        storage = get_event_storage()
        for name, numbers in zip(("fg", "bg"), zip(*counts)):
            storage.put_scalar(f"roi_head/num_{name}_samples", sum(numbers) / len(numbers))
        return drawn

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Returns detections and {}, or in training the drawn proposals and the losses."""
        raise NotImplementedError(f"{type(self).__name__} must have a method `forward`.")


def _pooler(node, in_features: list[str], input_shape: dict[str, ShapeSpec]) -> ROIPooler:
    if not node.POOLER_TYPE:
        raise lacks("RoI heads without a pooler (POOLER_TYPE '')")
    return ROIPooler(
        output_size=node.POOLER_RESOLUTION,
        scales=tuple(1.0 / input_shape[name].stride for name in in_features),
        sampling_ratio=node.POOLER_SAMPLING_RATIO,
        pooler_type=node.POOLER_TYPE,
    )


def _pooled_shape(node, in_features: list[str], input_shape: dict[str, ShapeSpec]) -> ShapeSpec:
    channels = {input_shape[name].channels for name in in_features}
    assert len(channels) == 1, f"All of {in_features} must have the same channels, got {channels}."
    side = node.POOLER_RESOLUTION
    return ShapeSpec(channels=channels.pop(), width=side, height=side)


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """Pools each proposal once per head; every head has its own layers."""

    @configurable
    def __init__(
        self,
        *,
        box_in_features: list[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_in_features: list[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_head: nn.Module | None = None,
        keypoint_in_features: list[str] | None = None,
        keypoint_pooler: ROIPooler | None = None,
        keypoint_head: nn.Module | None = None,
        train_on_pred_boxes: bool = False,
        **kwargs,
    ):
        """Takes the parts.

        Args:
            box_in_features, mask_in_features: names of the maps to pool from, fine to coarse.
            box_pooler, mask_pooler: from boxes to features of a fixed size.
            box_head: from pooled boxes to what the predictor takes.
            box_predictor: a FastRCNNOutputLayers.
            mask_head: a BaseMaskRCNNHead; None: no masks.
            keypoint_in_features, keypoint_pooler, keypoint_head: must be None.
            train_on_pred_boxes: the mask head sees predicted boxes in place of proposals.
            kwargs: of ROIHeads.
        """
        super().__init__(**kwargs)
        if any(item is not None for item in (keypoint_in_features, keypoint_pooler, keypoint_head)):
            raise lacks("StandardROIHeads with keypoints (MODEL.KEYPOINT_ON)")
        self.in_features = self.box_in_features = box_in_features
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.mask_on = mask_in_features is not None
        if self.mask_on:
            self.mask_in_features = mask_in_features
            self.mask_pooler = mask_pooler
            self.mask_head = mask_head
        self.keypoint_on = False
        self.train_on_pred_boxes = train_on_pred_boxes

    @classmethod
    def from_config(cls, cfg, input_shape):
        if cfg.MODEL.KEYPOINT_ON:
            raise lacks("StandardROIHeads with keypoints (MODEL.KEYPOINT_ON)")
        return {
            **super().from_config(cfg),
            "train_on_pred_boxes": cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES,
            **cls._init_box_head(cfg, input_shape),
            **cls._init_mask_head(cfg, input_shape),
        }

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        in_features, node = cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_BOX_HEAD
        box_head = build_box_head(cfg, _pooled_shape(node, in_features, input_shape))
        return {
            "box_in_features": in_features,
            "box_pooler": _pooler(node, in_features, input_shape),
            "box_head": box_head,
            "box_predictor": FastRCNNOutputLayers(cfg, box_head.output_shape),
        }

    @classmethod
    def _init_mask_head(cls, cfg, input_shape):
        if not cfg.MODEL.MASK_ON:
            return {}
        in_features, node = cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_MASK_HEAD
        return {
            "mask_in_features": in_features,
            "mask_pooler": _pooler(node, in_features, input_shape),
            "mask_head": build_mask_head(cfg, _pooled_shape(node, in_features, input_shape)),
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """See ``ROIHeads.forward``."""
        if self.training:
            assert targets, "'targets' argument is required during training"
            proposals = self.label_and_sample_proposals(proposals, targets)
            losses = self._forward_box(features, proposals)
            # Predicted boxes, where train_on_pred_boxes has put them, are what the masks see.
            losses.update(self._forward_mask(features, proposals))
            return proposals, losses
        detections = self._forward_box(features, proposals)
        return self.forward_with_given_boxes(features, detections), {}

    def forward_with_given_boxes(
        self, features: dict[str, torch.Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Adds masks to instances with "pred_boxes" and "pred_classes"; not for training."""
        assert not self.training, "forward_with_given_boxes is for inference"
        assert instances[0].has("pred_boxes") and instances[0].has("pred_classes"), (
            "The instances must have pred_boxes and pred_classes."
        )
        return self._forward_mask(features, instances)

    def _forward_box(self, features: dict[str, torch.Tensor], proposals: list[Instances]):
        """Returns the losses in training, otherwise the detections."""
        maps = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(maps, [p.proposal_boxes for p in proposals])  # (R, C, h, w)
        predictions = self.box_predictor(self.box_head(pooled))
        if not self.training:
            return self.box_predictor.inference(predictions, proposals)[0]
        losses = self.box_predictor.losses(predictions, proposals)
        if self.train_on_pred_boxes:
            with torch.no_grad():
                boxes = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
                for item, predicted in zip(proposals, boxes):
                    item.proposal_boxes = Boxes(predicted)
        return losses

    def _forward_mask(self, features: dict[str, torch.Tensor], instances: list[Instances]):
        """Returns the losses in training, otherwise the instances with masks."""
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        name = "proposal_boxes" if self.training else "pred_boxes"
        maps = [features[feature] for feature in self.mask_in_features]
        pooled = self.mask_pooler(maps, [item.get(name) for item in instances])  # (B, C, h, w)
        return self.mask_head(pooled, instances)
