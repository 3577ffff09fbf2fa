"""Stands in for detectron2.modeling.meta_arch.retinanet: has RetinaNet and RetinaNetHead; lacks
batch norms in the head, diou, ciou, and pictures of the training."""

import itertools
import math

import torch
from detectron2._lacking import lacks
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, batched_nms, cat, get_norm
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.modeling.backbone import Backbone, build_backbone
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, pairwise_iou
from detectron2.utils.events import get_event_storage
from fvcore.nn import sigmoid_focal_loss
from torch import nn
from torch.nn import functional as F

__all__ = ["RetinaNet"]


@META_ARCH_REGISTRY.register()
class RetinaNet(DenseDetector):
    """One-stage detector with focal loss (arXiv 1708.02002)."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features,
        anchor_generator,
        box2box_transform,
        anchor_matcher,
        num_classes,
        focal_loss_alpha=0.25,
        focal_loss_gamma=2.0,
        smooth_l1_beta=0.0,
        box_reg_loss_type="smooth_l1",
        test_score_thresh=0.05,
        test_topk_candidates=1000,
        test_nms_thresh=0.5,
        max_detections_per_image=100,
        pixel_mean,
        pixel_std,
        vis_period=0,
        input_format="BGR",
    ):
        """Takes the parts and options.

        Args:
            backbone, head, head_in_features, pixel_mean, pixel_std: of DenseDetector; the head
                returns class logits and box deltas per level.
            anchor_generator: anchors of the maps.
            box2box_transform: from anchors to boxes.
            anchor_matcher: labels anchors.
            num_classes: K, without background.
            focal_loss_alpha, focal_loss_gamma: weight of objects; focus on hard anchors.
            smooth_l1_beta, box_reg_loss_type: "smooth_l1" or "giou".
            test_score_thresh, test_topk_candidates: of the boxes of each level.
            test_nms_thresh, max_detections_per_image: of the boxes of an image.
            vis_period: must be 0.
            input_format: without effect.
        """
        super().__init__(
            backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        if vis_period > 0:
            raise lacks("RetinaNet with VIS_PERIOD")
        self.num_classes = num_classes
        self.anchor_generator = anchor_generator
        self.box2box_transform = box2box_transform
        self.anchor_matcher = anchor_matcher
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.smooth_l1_beta = smooth_l1_beta
        self.box_reg_loss_type = box_reg_loss_type
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.vis_period = vis_period
        self.input_format = input_format

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        shapes, node = backbone.output_shape(), cfg.MODEL.RETINANET
        feature_shapes = [shapes[name] for name in node.IN_FEATURES]
        return {
            "backbone": backbone,
            "head": RetinaNetHead(cfg, feature_shapes),
            "anchor_generator": build_anchor_generator(cfg, feature_shapes),
            "box2box_transform": Box2BoxTransform(weights=node.BBOX_REG_WEIGHTS),
            "anchor_matcher": Matcher(
                node.IOU_THRESHOLDS, node.IOU_LABELS, allow_low_quality_matches=True
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "num_classes": node.NUM_CLASSES,
            "head_in_features": node.IN_FEATURES,
            "focal_loss_alpha": node.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": node.FOCAL_LOSS_GAMMA,
            "smooth_l1_beta": node.SMOOTH_L1_LOSS_BETA,
            "box_reg_loss_type": node.BBOX_REG_LOSS_TYPE,
            "test_score_thresh": node.SCORE_THRESH_TEST,
            "test_topk_candidates": node.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": node.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "vis_period": cfg.VIS_PERIOD,
            "input_format": cfg.INPUT.FORMAT,
        }

    def forward_training(self, images, features, predictions, gt_instances):
        """Returns the losses; arguments are those of DenseDetector."""
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 4])
        anchors = self.anchor_generator(features)
        gt_labels, gt_boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(anchors, logits, gt_labels, deltas, gt_boxes)

    def losses(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        """Returns "loss_cls" and "loss_box_reg": sums divided by a moving average of the number of
        anchors with objects.

        Args:
            anchors: per level.
            pred_logits: per level, (N, R_l, K).
            gt_labels, gt_boxes: from ``label_anchors``.
            pred_anchor_deltas: per level, (N, R_l, 4).
        """
        labels = torch.stack(gt_labels)  # (N, R)
        is_object = (labels >= 0) & (labels != self.num_classes)
        num_objects = is_object.sum().item()
        get_event_storage().put_scalar("num_pos_anchors", num_objects / len(gt_labels))
        normalizer = self._ema_update("loss_normalizer", max(num_objects, 1), 100)
        is_valid = labels >= 0
        one_hot = F.one_hot(labels[is_valid], self.num_classes + 1)[:, :-1]  # (V, K)
        classification = sigmoid_focal_loss(
            cat(pred_logits, dim=1)[is_valid],
            one_hot.to(pred_logits[0].dtype),
            alpha=self.focal_loss_alpha,
            gamma=self.focal_loss_gamma,
            reduction="sum",
        )
        location = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            is_object,
            box_reg_loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        return {"loss_cls": classification / normalizer, "loss_box_reg": location / normalizer}

    @torch.no_grad()
    def label_anchors(self, anchors, gt_instances):
        """Returns, per image, (R,) classes (K: background, -1: ignored) and (R, 4) boxes of the
        matched objects, meaningless where there is none."""
        anchors = Boxes.cat(anchors)
        all_labels, all_boxes = [], []
        for truth in gt_instances:
            matches, kinds = self.anchor_matcher(pairwise_iou(truth.gt_boxes, anchors))
            if len(truth) > 0:
                boxes, labels = truth.gt_boxes.tensor[matches], truth.gt_classes[matches]
                labels[kinds == 0] = self.num_classes
                labels[kinds == -1] = -1
            else:
                boxes = torch.zeros_like(anchors.tensor)
                labels = torch.full_like(matches, self.num_classes)
            all_labels.append(labels)
            all_boxes.append(boxes)
        return all_labels, all_boxes

    def forward_inference(
        self, images, features: list[torch.Tensor], predictions: list[list[torch.Tensor]]
    ):
        """Returns the Instances of each image in the frame of the input."""
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 4])
        anchors = self.anchor_generator(features)
        return [
            self.inference_single_image(
                anchors,
                [level[i].sigmoid() for level in logits],
                [level[i] for level in deltas],
                size,
            )
            for i, size in enumerate(images.image_sizes)
        ]

    def inference_single_image(
        self,
        anchors: list[Boxes],
        box_cls: list[torch.Tensor],
        box_delta: list[torch.Tensor],
        image_size: tuple[int, int],
    ):
        """Returns the detections of one image, best first.

        Args:
            anchors: per level.
            box_cls: per level, (R_l, K) probabilities.
            box_delta: per level, (R_l, 4).
            image_size: (h, w).
        """
        candidates = self._decode_multi_level_predictions(
            anchors,
            box_cls,
            box_delta,
            self.test_score_thresh,
            self.test_topk_candidates,
            image_size,
        )
        fields = (candidates.pred_boxes.tensor, candidates.scores, candidates.pred_classes)
        keep = batched_nms(*fields, self.test_nms_thresh)
        return candidates[keep[: self.max_detections_per_image]]


class RetinaNetHead(nn.Module):
    """Two towers of 3x3 convolutions, for classes and for boxes, that all levels share."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: list[ShapeSpec],
        num_classes,
        num_anchors,
        conv_dims: list[int],
        norm="",
        prior_prob=0.01,
    ):
        """Takes the shapes of the maps, K classes, anchors per cell, channels of the convolutions,
        their norm ("" or "GN"), and the probability of an object at the start."""
        super().__init__()
        if norm in ("BN", "SyncBN"):
            raise lacks(f"RetinaNetHead with norm {norm!r} (a batch norm per level)")
        channels = [input_shape[0].channels, *conv_dims]
        self.cls_subnet = _tower(channels, norm)
        self.bbox_subnet = _tower(channels, norm)
        self.cls_score = nn.Conv2d(
            channels[-1], num_anchors * num_classes, kernel_size=3, stride=1, padding=1
        )
        self.bbox_pred = nn.Conv2d(
            channels[-1], num_anchors * 4, kernel_size=3, stride=1, padding=1
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, mean=0, std=0.01)
                nn.init.constant_(layer.bias, 0)
        nn.init.constant_(self.cls_score.bias, -math.log((1 - prior_prob) / prior_prob))

    @classmethod
    def from_config(cls, cfg, input_shape: list[ShapeSpec]):
        num_anchors = set(build_anchor_generator(cfg, input_shape).num_cell_anchors)
        assert len(num_anchors) == 1, "All levels must have the same number of anchors per cell!"
        node = cfg.MODEL.RETINANET
        return {
            "input_shape": input_shape,
            "num_classes": node.NUM_CLASSES,
            "conv_dims": [input_shape[0].channels] * node.NUM_CONVS,
            "prior_prob": node.PRIOR_PROB,
            "norm": node.NORM,
            "num_anchors": num_anchors.pop(),
        }

    def forward(self, features: list[torch.Tensor]):
        """Returns, per level, logits (N, A * K, H, W) and deltas (N, A * 4, H, W)."""
        logits = [self.cls_score(self.cls_subnet(feature)) for feature in features]
        deltas = [self.bbox_pred(self.bbox_subnet(feature)) for feature in features]
        return logits, deltas


def _tower(channels: list[int], norm) -> nn.Sequential:
    layers: list[nn.Module] = []
    for in_channels, out_channels in itertools.pairwise(channels):
        layers.append(nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=1, padding=1))
        if norm:
            layers.append(get_norm(norm, out_channels))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)
