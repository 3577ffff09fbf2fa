"""Stands in for detectron2.modeling.proposal_generator.rpn: has RPN, StandardRPNHead, registry and
builder; lacks rotated boxes and TorchScript."""

import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, cat
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry
from torch import nn
from torch.nn import functional as F

RPN_HEAD_REGISTRY = Registry("RPN_HEAD")  # name -> class of (cfg, list of ShapeSpec)


def build_rpn_head(cfg, input_shape):
    """Returns the head named by MODEL.RPN.HEAD_NAME for a list of ShapeSpec."""
    return RPN_HEAD_REGISTRY.get(cfg.MODEL.RPN.HEAD_NAME)(cfg, input_shape)


@RPN_HEAD_REGISTRY.register()
class StandardRPNHead(nn.Module):
    """3x3 convolutions, then one 1x1 for objectness and one for box deltas, on every level."""

    @configurable
    def __init__(
        self, *, in_channels: int, num_anchors: int, box_dim: int = 4, conv_dims: list[int] = (-1,)
    ):
        """Takes channels of the maps, anchors per cell, numbers per box, and channels of each 3x3
        convolution, where -1 keeps those before."""
        super().__init__()
        convs = []
        for dim in conv_dims:
            out_channels = in_channels if dim == -1 else dim
            if out_channels <= 0:
                raise ValueError(f"Channels of conv_dims must be positive or -1, got {dim}.")
            convs.append(
                Conv2d(in_channels, out_channels, kernel_size=3, padding=1, activation=nn.ReLU())
            )
            in_channels = out_channels
        if len(convs) == 1:
            self.conv = convs[0]
        else:
            self.conv = nn.Sequential()
            for i, conv in enumerate(convs):
                self.conv.add_module(f"conv{i}", conv)
        self.objectness_logits = nn.Conv2d(in_channels, num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(in_channels, num_anchors * box_dim, kernel_size=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.constant_(layer.bias, 0)

    @classmethod
    def from_config(cls, cfg, input_shape):
        channels = {shape.channels for shape in input_shape}
        assert len(channels) == 1, "Each level must have the same channel!"
        generator = build_anchor_generator(cfg, input_shape)
        num_anchors = set(generator.num_anchors)
        assert len(num_anchors) == 1, "Each level must have the same number of anchors per cell!"
        return {
            "in_channels": channels.pop(),
            "num_anchors": num_anchors.pop(),
            "box_dim": generator.box_dim,
            "conv_dims": cfg.MODEL.RPN.CONV_DIMS,
        }

    def forward(self, features: list[torch.Tensor]):
        """Returns, per level, logits (N, A, H, W) and deltas (N, 4A, H, W)."""
        hidden = [self.conv(feature) for feature in features]
        return [self.objectness_logits(h) for h in hidden], [self.anchor_deltas(h) for h in hidden]


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Region proposals from anchors (Faster R-CNN, arXiv 1506.01497)."""

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[float, float],
        post_nms_topk: tuple[float, float],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | dict[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ):
        """Takes the parts and options.

        Args:
            in_features: names of the maps, fine to coarse.
            head, anchor_generator: modules on the list of maps.
            anchor_matcher: labels anchors.
            box2box_transform: from anchors to boxes.
            batch_size_per_image, positive_fraction: of the anchors that the loss looks at.
            pre_nms_topk, post_nms_topk: (training, test); see ``find_top_rpn_proposals``.
            nms_thresh, min_box_size: of the same.
            anchor_boundary_thresh: anchors may leave the image by so much; negative: at will.
            loss_weight: one factor, or one per name of loss.
            box_reg_loss_type, smooth_l1_beta: "smooth_l1" or "giou".
        """
        super().__init__()
        self.in_features = in_features
        self.rpn_head = head
        self.anchor_generator = anchor_generator
        self.anchor_matcher = anchor_matcher
        self.box2box_transform = box2box_transform
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_topk = {True: pre_nms_topk[0], False: pre_nms_topk[1]}  # by self.training
        self.post_nms_topk = {True: post_nms_topk[0], False: post_nms_topk[1]}
        self.nms_thresh = nms_thresh
        self.min_box_size = float(min_box_size)
        self.anchor_boundary_thresh = anchor_boundary_thresh
        if isinstance(loss_weight, int | float):
            loss_weight = dict.fromkeys(("loss_rpn_cls", "loss_rpn_loc"), loss_weight)
        self.loss_weight = loss_weight
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        node = cfg.MODEL.RPN
        shapes = [input_shape[name] for name in node.IN_FEATURES]
        return {
            "in_features": node.IN_FEATURES,
            "head": build_rpn_head(cfg, shapes),
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "anchor_matcher": Matcher(
                node.IOU_THRESHOLDS, node.IOU_LABELS, allow_low_quality_matches=True
            ),
            "box2box_transform": Box2BoxTransform(weights=node.BBOX_REG_WEIGHTS),
            "batch_size_per_image": node.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": node.POSITIVE_FRACTION,
            "pre_nms_topk": (node.PRE_NMS_TOPK_TRAIN, node.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (node.POST_NMS_TOPK_TRAIN, node.POST_NMS_TOPK_TEST),
            "nms_thresh": node.NMS_THRESH,
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            "anchor_boundary_thresh": node.BOUNDARY_THRESH,
            "loss_weight": {
                "loss_rpn_cls": node.LOSS_WEIGHT,
                "loss_rpn_loc": node.BBOX_REG_LOSS_WEIGHT * node.LOSS_WEIGHT,
            },
            "box_reg_loss_type": node.BBOX_REG_LOSS_TYPE,
            "smooth_l1_beta": node.SMOOTH_L1_BETA,
        }

    def _subsample_labels(self, label: torch.Tensor) -> torch.Tensor:
        """Sets, in place, all labels but a random sample to -1."""
        positive, negative = subsample_labels(
            label, self.batch_size_per_image, self.positive_fraction, 0
        )
        label.fill_(-1)
        label[positive] = 1
        label[negative] = 0
        return label

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Returns, per image, (R,) labels (1 object, 0 background, -1 not drawn) and (R, 4) boxes
        of the matched objects, meaningless where the label is not 1."""
        anchors = Boxes.cat(anchors)
        all_labels, all_boxes = [], []
        for truth in gt_instances:
            boxes = truth.gt_boxes
            matches, labels = self.anchor_matcher(pairwise_iou(boxes, anchors))
            labels = labels.to(device=boxes.device)
            if self.anchor_boundary_thresh >= 0:
                inside = anchors.inside_box(truth.image_size, self.anchor_boundary_thresh)
                labels[~inside] = -1
            all_labels.append(self._subsample_labels(labels))
            has_objects = len(boxes) > 0
            all_boxes.append(
                boxes[matches].tensor if has_objects else torch.zeros_like(anchors.tensor)
            )
        return all_labels, all_boxes

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[torch.Tensor],
        gt_labels: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        gt_boxes: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Returns "loss_rpn_cls" and "loss_rpn_loc": sums over N images divided by the N *
        batch_size_per_image anchors that are drawn.

        Args:
            anchors: per level.
            pred_objectness_logits: per level, (N, R_l).
            gt_labels, gt_boxes: from ``label_and_sample_anchors``.
            pred_anchor_deltas: per level, (N, R_l, 4).
        """
        num_images = len(gt_labels)
        labels = torch.stack(gt_labels)  # (N, R)
        is_positive = labels == 1
        storage = get_event_storage()
        num_positive = is_positive.sum().item()
        storage.put_scalar("rpn/num_pos_anchors", num_positive / num_images)
        num_negative = (labels == 0).sum().item()
        storage.put_scalar("rpn/num_neg_anchors", num_negative / num_images)
        location = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            is_positive,
            box_reg_loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        is_drawn = labels >= 0
        objectness = F.binary_cross_entropy_with_logits(
            cat(pred_objectness_logits, dim=1)[is_drawn],
            labels[is_drawn].to(torch.float32),
            reduction="sum",
        )
        total = self.batch_size_per_image * num_images
        losses = {"loss_rpn_cls": objectness / total, "loss_rpn_loc": location / total}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        gt_instances: list[Instances] | None = None,
    ):
        """Returns the proposals of each image and, in training, the losses (otherwise {}).

        Args:
            images: N images; their sizes clip the proposals.
            features: maps (N, C, H, W) by name.
            gt_instances: N Instances with "gt_boxes"; needed in training.
        """
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logits, deltas = self.rpn_head(maps)
        logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]  # (N, H*W*A)
        deltas = [x.permute(0, 2, 3, 1).reshape(len(x), -1, 4) for x in deltas]  # (N, H*W*A, 4)
        losses = {}
        if self.training:
            assert gt_instances is not None, "RPN requires gt_instances in training!"
            gt_labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, gt_labels, deltas, gt_boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        image_sizes: list[tuple[int, int]],
    ):
        """Decodes the deltas and selects; gradients do not flow into the boxes."""
        return find_top_rpn_proposals(
            self._decode_proposals(anchors, pred_anchor_deltas),
            pred_objectness_logits,
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )

    def _decode_proposals(
        self, anchors: list[Boxes], pred_anchor_deltas: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Per level, (N, R_l, 4) boxes."""
        proposals = []
        for level, deltas in zip(anchors, pred_anchor_deltas):
            repeated = level.tensor.repeat(len(deltas), 1)  # (N*R_l, 4)
            boxes = self.box2box_transform.apply_deltas(deltas.reshape(-1, 4), repeated)
            proposals.append(boxes.view(deltas.shape))  # (N, R_l, 4)
        return proposals
