"""Stands in for detectron2.modeling.roi_heads.fast_rcnn: has FastRCNNOutputLayers and
fast_rcnn_inference; lacks sigmoid and federated losses, diou, ciou and rotated boxes."""

from collections.abc import Callable
from typing import Any

import torch
from detectron2._lacking import lacks
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, batched_nms, cat, cross_entropy, nonzero_tuple
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn import functional as F

__all__ = ["FastRCNNOutputLayers", "fast_rcnn_inference"]


def fast_rcnn_inference(
    boxes: list[torch.Tensor],
    scores: list[torch.Tensor],
    image_shapes: list[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
):
    """Returns the Instances of each image, and which of its proposals each came from."""
    results = [
        fast_rcnn_inference_single_image(*image, score_thresh, nms_thresh, topk_per_image)
        for image in zip(boxes, scores, image_shapes)
    ]
    return [instances for instances, _ in results], [indices for _, indices in results]


def fast_rcnn_inference_single_image(
    boxes,
    scores,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
):
    """Selects the detections of one image.

    Args:
        boxes: (R, 4K) boxes of each class, or (R, 4) for all classes.
        scores: (R, K + 1) probabilities, background last.
        image_shape: (h, w), to which the boxes are clipped.
        score_thresh: scores must be greater.
        nms_thresh: greatest IoU of two boxes of a class.
        topk_per_image: best so many; negative: all.

    Returns:
        Instances with "pred_boxes", "scores", "pred_classes", best first, and the (D,) indices of
        the rows that they came from, counted among the finite rows.
    """
    is_finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
    boxes, scores = boxes[is_finite], scores[is_finite, :-1]  # (R, K)
    num_box_classes = boxes.shape[1] // 4
    clipped = Boxes(boxes.reshape(-1, 4))
    clipped.clip(image_shape)
    boxes = clipped.tensor.view(-1, num_box_classes, 4)
    rows, classes = nonzero_tuple(scores > score_thresh)
    boxes = boxes[rows, 0 if num_box_classes == 1 else classes]  # (D, 4)
    scores = scores[rows, classes]
    keep = batched_nms(boxes, scores, classes, nms_thresh)
    if topk_per_image >= 0:
        keep = keep[:topk_per_image]
    detections = Instances(
        image_shape, pred_boxes=Boxes(boxes[keep]), scores=scores[keep], pred_classes=classes[keep]
    )
    return detections, rows[keep]


def _log_classification_stats(pred_logits, gt_classes, prefix="fast_rcnn"):
    """Puts the shares of right classes, and of objects taken for background, into the storage."""
    if gt_classes.numel() == 0:
        return
    predicted = pred_logits.argmax(dim=1)
    background = pred_logits.shape[1] - 1
    is_right = predicted == gt_classes
    is_object = (gt_classes >= 0) & (gt_classes < background)
    storage = get_event_storage()
    storage.put_scalar(f"{prefix}/cls_accuracy", is_right.float().mean().item())
    if is_object.any():
        storage.put_scalar(f"{prefix}/fg_cls_accuracy", is_right[is_object].float().mean().item())
        missed = (predicted[is_object] == background).float().mean().item()
        storage.put_scalar(f"{prefix}/false_negative", missed)


class FastRCNNOutputLayers(nn.Module):
    """Class scores and box deltas of each proposal, their losses, and detections of them."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        box2box_transform: Box2BoxTransform,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | dict[str, float] = 1.0,
        use_fed_loss: bool = False,
        use_sigmoid_ce: bool = False,
        get_fed_loss_cls_weights: Callable | None = None,
        fed_loss_num_classes: int = 50,
    ):
        """Takes the shape of the input and options.

        Args:
            input_shape: channels and size of what the box head returns; an int: its channels.
            box2box_transform: from proposals to boxes.
            num_classes: K, without background.
            test_score_thresh, test_nms_thresh, test_topk_per_image: of ``fast_rcnn_inference``.
            cls_agnostic_bbox_reg: one box for all classes.
            smooth_l1_beta, box_reg_loss_type: "smooth_l1" or "giou".
            loss_weight: one factor, or one per name of loss.
            use_fed_loss, use_sigmoid_ce: must be False.
            get_fed_loss_cls_weights, fed_loss_num_classes: without effect.
        """
        super().__init__()
        if use_fed_loss or use_sigmoid_ce:
            raise lacks("FastRCNNOutputLayers with USE_FED_LOSS or USE_SIGMOID_CE")
        if isinstance(input_shape, int):
            input_shape = ShapeSpec(channels=input_shape)
        self.num_classes = num_classes
        size = input_shape.channels * (input_shape.width or 1) * (input_shape.height or 1)
        box_dim = len(box2box_transform.weights)
        self.cls_score = nn.Linear(size, num_classes + 1)
        self.bbox_pred = nn.Linear(size, (1 if cls_agnostic_bbox_reg else num_classes) * box_dim)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        for layer in (self.cls_score, self.bbox_pred):
            nn.init.constant_(layer.bias, 0)
        self.box2box_transform = box2box_transform
        self.smooth_l1_beta = smooth_l1_beta
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        self.box_reg_loss_type = box_reg_loss_type
        if isinstance(loss_weight, int | float):
            loss_weight = dict.fromkeys(("loss_cls", "loss_box_reg"), loss_weight)
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg, input_shape):
        heads, node = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "box2box_transform": Box2BoxTransform(weights=node.BBOX_REG_WEIGHTS),
            "num_classes": heads.NUM_CLASSES,
            "cls_agnostic_bbox_reg": node.CLS_AGNOSTIC_BBOX_REG,
            "smooth_l1_beta": node.SMOOTH_L1_BETA,
            "test_score_thresh": heads.SCORE_THRESH_TEST,
            "test_nms_thresh": heads.NMS_THRESH_TEST,
            "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "box_reg_loss_type": node.BBOX_REG_LOSS_TYPE,
            "loss_weight": {"loss_box_reg": node.BBOX_REG_LOSS_WEIGHT},
            "use_fed_loss": node.USE_FED_LOSS,
            "use_sigmoid_ce": node.USE_SIGMOID_CE,
        }

    def forward(self, x):
        """Returns (R, K + 1) logits and (R, 4K) or (R, 4) deltas of (R, D) or (R, C, h, w)."""
        if x.dim() > 2:
            x = torch.flatten(x, start_dim=1)  # (R, C*h*w)
        return self.cls_score(x), self.bbox_pred(x)

    def losses(self, predictions, proposals):
        """Returns "loss_cls" and "loss_box_reg", means over all R proposals.

        Args:
            predictions: of ``forward``.
            proposals: Instances with "proposal_boxes", "gt_classes" and, where there are objects,
                "gt_boxes".
        """
        scores, deltas = predictions
        gt_classes = cat([p.gt_classes for p in proposals]) if proposals else torch.empty(0)
        _log_classification_stats(scores, gt_classes)
        if proposals:
            boxes = cat([p.proposal_boxes.tensor for p in proposals])  # (R, 4)
            assert not boxes.requires_grad, "Proposals should not require gradients!"
            # An image without objects has no gt_boxes; all its proposals are background.
            matched = [p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes for p in proposals]
            gt_boxes = cat([item.tensor for item in matched])  # (R, 4)
        else:
            boxes = gt_boxes = torch.empty((0, 4), device=deltas.device)
        losses = {
            "loss_cls": cross_entropy(scores, gt_classes, reduction="mean"),
            "loss_box_reg": self.box_reg_loss(boxes, gt_boxes, deltas, gt_classes),
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def box_reg_loss(self, proposal_boxes, gt_boxes, pred_deltas, gt_classes):
        """Returns the box loss of the objects, divided by the number R of all proposals.

        Args:
            proposal_boxes, gt_boxes: (R, 4) xyxy.
            pred_deltas: (R, 4) or (R, 4K).
            gt_classes: (R,) in 0...K, K being background.
        """
        box_dim = proposal_boxes.shape[1]
        (rows,) = nonzero_tuple((gt_classes >= 0) & (gt_classes < self.num_classes))
        if pred_deltas.shape[1] == box_dim:
            deltas = pred_deltas[rows]
        else:
            by_class = pred_deltas.view(-1, self.num_classes, box_dim)
            deltas = by_class[rows, gt_classes[rows]]  # (F, 4)
        loss = _dense_box_regression_loss(
            [proposal_boxes[rows]],
            self.box2box_transform,
            [deltas[None]],
            [gt_boxes[rows]],
            ...,
            self.box_reg_loss_type,
            self.smooth_l1_beta,
        )
        return loss / max(gt_classes.numel(), 1.0)

    def inference(self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]):
        """Returns what ``fast_rcnn_inference`` does for the predictions of all proposals."""
        return fast_rcnn_inference(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [p.image_size for p in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )

    def predict_boxes_for_gt_classes(self, predictions, proposals):
        """Returns, per image, the (R_i, 4) boxes of the true classes."""
        if not proposals:
            return []
        boxes = torch.cat(self.predict_boxes(predictions, proposals))
        if boxes.shape[1] > 4:
            # Background has no box of its own; any will do.
            classes = torch.cat([p.gt_classes for p in proposals]).clamp(0, self.num_classes - 1)
            rows = torch.arange(len(boxes), device=boxes.device)
            boxes = boxes.view(len(boxes), self.num_classes, 4)[rows, classes]
        return boxes.split([len(p) for p in proposals])

    def predict_boxes(
        self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]
    ) -> list[Any]:
        """Returns, per image, (R_i, 4K) or (R_i, 4) decoded boxes."""
        if not proposals:
            return []
        boxes = cat([p.proposal_boxes.tensor for p in proposals])
        decoded = self.box2box_transform.apply_deltas(predictions[1], boxes)
        return decoded.split([len(p) for p in proposals])

    def predict_probs(
        self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]
    ):
        """Returns, per image, (R_i, K + 1) probabilities."""
        return F.softmax(predictions[0], dim=-1).split([len(p) for p in proposals])
