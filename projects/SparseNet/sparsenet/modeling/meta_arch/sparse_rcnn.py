"""Sparse R-CNN: a small set of proposals, refined by a cascade of dynamic heads, without NMS.

Paper: Sparse R-CNN: End-to-End Object Detection with Learnable Proposals, arXiv 2011.12450.
Upstream: PeizeSun/SparseR-CNN (MIT); configuration and state_dict keys are the same, so released
weights load unchanged.
Differs from it in: geometry and losses stay in float32 under autocast, more objects than proposals
are allowed, ignore boxes, first proposals from a dense map (``PROPOSAL_INIT: dense``, or ``both``
kinds side by side), supervision of the window scores of a sparse backbone, and clear errors instead
of assertions.
"""

import logging

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from sparsenet.errors import ConfigError, NumericalError
from sparsenet.modeling.head.dense_proposals import DenseOutput, DenseProposals
from sparsenet.modeling.head.dynamic_head import DynamicHead
from sparsenet.modeling.losses.criterion import SetCriterion
from sparsenet.modeling.losses.matcher import HungarianMatcher, LossWeights
from sparsenet.modeling.losses.targets import DetectionTargets
from sparsenet.modeling.losses.window_score import find_window_selector, window_score_losses
from sparsenet.ops.boxes import cxcywh_to_xyxy
from sparsenet.ops.precision import at_least_float32

logger = logging.getLogger(__name__)

PROPOSAL_INITS = ("learned", "dense", "both")


@META_ARCH_REGISTRY.register()
class SparseRCNN(nn.Module):
    """Detector with learned or dense first proposals.

    Attributes:
        objectness: after a forward pass with dense proposals, the best objectness of each image,
            ``(N,)`` detached; None with learned proposals.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: tuple[str, ...],
        head: DynamicHead,
        criterion: SetCriterion,
        num_proposals: int,
        dense_proposals: DenseProposals | None = None,
        image_options: dict,
        loss_options: dict,
    ) -> None:
        """
        Args:
            backbone: gives the maps named ``in_features``, finest first.
            in_features: maps that the head pools from.
            head: the cascade.
            criterion: set prediction losses.
            num_proposals: proposals P, and detections returned per image.
            dense_proposals: gives the first of the P proposals; the others, or all where it is
                None, start from learned boxes.
            image_options: ``pixel_mean``, ``pixel_std`` (per channel) and ``input_format``.
            loss_options: weights ``dense``, ``window_score`` and ``window_budget``.
        """
        super().__init__()
        hidden_dim = backbone.output_shape()[in_features[0]].channels
        self.backbone = backbone
        self.in_features = tuple(in_features)
        self.head = head
        self.criterion = criterion
        self.num_proposals = num_proposals
        self.num_classes = criterion.num_classes
        self.loss_options = loss_options
        self.objectness: Tensor | None = None
        self.dense_proposals = dense_proposals
        self.init_proposal_features = nn.Embedding(num_proposals, hidden_dim)
        num_learned = num_proposals - (dense_proposals.num_proposals if dense_proposals else 0)
        if num_learned:
            self.init_proposal_boxes = nn.Embedding(num_learned, 4)
            whole_image = torch.tensor([0.5, 0.5, 1.0, 1.0])  # cx, cy, w, h
            self.init_proposal_boxes.weight.data.copy_(whole_image)
        self.input_format = image_options["input_format"]
        for name in ("pixel_mean", "pixel_std"):
            value = torch.tensor(image_options[name], dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads MODEL.SparseRCNN, the backbone's keys and the pixel statistics."""
        node = cfg.MODEL.SparseRCNN
        backbone = build_backbone(cfg)
        in_features = tuple(cfg.MODEL.ROI_HEADS.IN_FEATURES)
        shapes = _select_shapes(backbone, in_features)
        return {
            "backbone": backbone,
            "in_features": in_features,
            "head": DynamicHead(cfg, shapes),
            "criterion": _build_criterion(node),
            "num_proposals": node.NUM_PROPOSALS,
            "dense_proposals": _build_dense_proposals(node, shapes),
            "image_options": {
                "pixel_mean": cfg.MODEL.PIXEL_MEAN,
                "pixel_std": cfg.MODEL.PIXEL_STD,
                "input_format": cfg.INPUT.FORMAT,
            },
            "loss_options": {
                "dense": node.DENSE_WEIGHT,
                "window_score": cfg.MODEL.SPARSENET.SCORE_WEIGHT,
                "window_budget": cfg.MODEL.SPARSENET.BUDGET_WEIGHT,
            },
        }

    @property
    def device(self) -> torch.device:
        """Where inputs are moved to."""
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict], do_postprocess: bool = True
    ) -> dict[str, Tensor] | list:
        """Losses in training, detections otherwise.

        Args:
            batched_inputs: per image ``image`` (C, H, W) in the channel order ``input_format``;
                optionally ``height`` and ``width`` of the output; in training ``instances``
                and optionally ``ignore_boxes`` (Boxes, pixels of ``image``).
            do_postprocess: scale detections to the output size and wrap them as
                ``[{"instances": Instances}]``; False gives plain Instances in input pixels.
        """
        images, image_whwh = self.preprocess_image(batched_inputs)
        features = self._pyramid(images)
        boxes, proposals, dense = self._first_proposals(features, image_whwh)
        output = self.head(features, boxes, proposals)
        if self.training:
            targets = self._targets(batched_inputs, image_whwh)
            losses = self.criterion(output.logits, output.boxes_xyxy, targets)
            return losses | self._auxiliary_losses(dense, targets)
        results = select_detections(
            output.logits[-1],
            output.boxes_xyxy[-1],
            images.image_sizes,
            use_focal=self.criterion.matcher.use_focal,
        )
        return postprocess_detections(results, batched_inputs) if do_postprocess else results

    def preprocess_image(self, batched_inputs: list[dict]) -> tuple[ImageList, Tensor]:
        """Normalised and padded images, and their unpadded sizes as ``(N, 4)`` w, h, w, h."""
        tensors = [item["image"] for item in batched_inputs]
        sizes = [(t.shape[-2], t.shape[-1]) for t in tensors]
        if len(set(sizes)) == 1 and not _needs_padding(sizes[0], self.backbone):
            # Tiles: one copy to the device and one normalisation for the whole batch.
            images = ImageList(self._normalise(torch.stack(tensors)), sizes)
        else:
            images = ImageList.from_tensors(
                [self._normalise(t) for t in tensors],
                self.backbone.size_divisibility,
                padding_constraints=self.backbone.padding_constraints,
            )
        whwh = torch.tensor([[w, h, w, h] for h, w in sizes], dtype=self.pixel_mean.dtype)
        return images, whwh.to(self.device, non_blocking=True)

    @torch.no_grad()
    def predict_objectness(self, batched_inputs: list[dict]) -> Tensor:
        """Best dense objectness of each image, ``(N,)``, without running the head."""
        if self.dense_proposals is None:
            raise ConfigError(
                "predict_objectness needs MODEL.SparseRCNN.PROPOSAL_INIT 'dense' or 'both', got "
                "'learned'. Train with dense proposals, or use the scores of the detections."
            )
        images, image_whwh = self.preprocess_image(batched_inputs)
        return self.dense_proposals(self._pyramid(images), image_whwh).image_scores()

    def _normalise(self, image: Tensor) -> Tensor:
        image = image.to(self.device, non_blocking=True)
        return (image.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std

    def _pyramid(self, images: ImageList) -> list[Tensor]:
        """The maps ``(N, d, h, w)`` that the head pools from, finest first."""
        pyramid = self.backbone(images.tensor)
        return [pyramid[name] for name in self.in_features]

    def _first_proposals(
        self, features: list[Tensor], image_whwh: Tensor
    ) -> tuple[Tensor, Tensor, DenseOutput | None]:
        """Boxes ``(N, P, 4)`` and features ``(N, P, d)`` that the head starts from."""
        embedding = self.init_proposal_features.weight.expand(len(image_whwh), -1, -1)
        if self.dense_proposals is None:
            return self._learned_boxes(image_whwh), embedding, None
        dense = self.dense_proposals(features, image_whwh)
        self.objectness = dense.image_scores().detach()
        boxes, content = self.dense_proposals.select(dense, features, image_whwh)  # (N, P', ·)
        num_learned = self.num_proposals - boxes.shape[1]
        if num_learned:
            boxes = torch.cat([boxes, self._learned_boxes(image_whwh)], dim=1)  # (N, P, 4)
            content = F.pad(content, (0, 0, 0, num_learned))  # (N, P, d)
        return boxes, content + embedding, dense

    def _learned_boxes(self, image_whwh: Tensor) -> Tensor:
        return cxcywh_to_xyxy(self.init_proposal_boxes.weight) * image_whwh[:, None]

    def _targets(self, batched_inputs: list[dict], image_whwh: Tensor) -> DetectionTargets:
        return DetectionTargets.from_instances(
            [item["instances"] for item in batched_inputs],
            image_whwh,
            num_classes=self.num_classes,
            ignore_boxes=[item.get("ignore_boxes") for item in batched_inputs],
        )

    def _auxiliary_losses(
        self, dense: DenseOutput | None, targets: DetectionTargets
    ) -> dict[str, Tensor]:
        """Losses of the dense branch and of the window scores of a sparse backbone."""
        losses = {}
        if dense is not None:
            for name, value in self.dense_proposals.losses(dense, targets).items():
                losses[name] = value * self.loss_options["dense"]
        selector = find_window_selector(self.backbone)
        if selector is not None and selector.selections:
            losses |= window_score_losses(
                selector.selections,
                targets.boxes_xyxy,
                score_weight=self.loss_options["window_score"],
                budget_weight=self.loss_options["window_budget"],
                ignore_boxes=targets.ignore_xyxy,
            )
        return losses


@torch.no_grad()
def select_detections(
    logits: Tensor, boxes_xyxy: Tensor, image_sizes: list[tuple[int, int]], *, use_focal: bool
) -> list[Instances]:
    """Detections of one stage in input pixels, P per image, neither clipped nor suppressed.

    Args:
        logits: ``(N, P, K)``, or ``(N, P, K + 1)`` in the softmax variant.
        boxes_xyxy: ``(N, P, 4)``.
        image_sizes: unpadded (h, w) of each image.
        use_focal: the best P of P * K scores, so that a proposal may give several classes; False:
            the best class of every proposal.

    Raises:
        NumericalError: a box is NaN or infinite.
    """
    if not torch.isfinite(boxes_xyxy).all():
        raise NumericalError(
            "Predicted boxes must be finite, got NaN or infinity. The weights have diverged or "
            "the image holds NaN; load a sound checkpoint or lower SOLVER.BASE_LR."
        )
    logits = at_least_float32(logits)
    if use_focal:
        num_proposals, num_classes = logits.shape[1:]
        scores, flat = logits.sigmoid().flatten(1).topk(num_proposals, sorted=False)  # (N, P)
        classes = flat % num_classes
        index = (flat // num_classes)[..., None].expand(-1, -1, 4)
        boxes_xyxy = boxes_xyxy.gather(1, index)  # (N, P, 4)
    else:
        scores, classes = logits.softmax(-1)[..., :-1].max(-1)  # (N, P)
    return [
        Instances(size, pred_boxes=Boxes(b), scores=s, pred_classes=c)
        for size, b, s, c in zip(image_sizes, boxes_xyxy, scores, classes, strict=True)
    ]


def _select_shapes(backbone: Backbone, in_features: tuple[str, ...]) -> dict:
    shapes = backbone.output_shape()
    missing = [name for name in in_features if name not in shapes]
    if missing or not in_features:
        raise ConfigError(
            f"MODEL.ROI_HEADS.IN_FEATURES must name maps of the backbone, {sorted(shapes)}, got "
            f"{list(in_features)}. Use for example ['p2', 'p3', 'p4', 'p5'] with an FPN backbone."
        )
    return {name: shapes[name] for name in in_features}


def _build_criterion(node: CfgNode) -> SetCriterion:
    weights = LossWeights(node.CLASS_WEIGHT, node.L1_WEIGHT, node.GIOU_WEIGHT)
    if len(node.COSTS) not in (0, 3):
        raise ConfigError(
            "MODEL.SparseRCNN.COSTS must be three numbers (class, L1, box) or (), got "
            f"{node.COSTS}. () takes the weights of the losses."
        )
    matcher = HungarianMatcher(
        weights=LossWeights(*node.COSTS) if node.COSTS else weights,
        box_cost=node.BOX_COST,
        use_focal=node.USE_FOCAL,
        alpha=node.ALPHA,
        gamma=node.GAMMA,
        min_giou=node.MATCH_MIN_GIOU,
    )
    return SetCriterion(
        matcher,
        node.NUM_CLASSES,
        weights=weights,
        box_loss=node.BOX_LOSS,
        no_object_weight=node.NO_OBJECT_WEIGHT,
        ignore_ioa=node.IGNORE_IOA,
    )


def _build_dense_proposals(node: CfgNode, shapes: dict) -> DenseProposals | None:
    if node.PROPOSAL_INIT not in PROPOSAL_INITS:
        raise ConfigError(
            f"MODEL.SparseRCNN.PROPOSAL_INIT must be one of {PROPOSAL_INITS}, got "
            f"{node.PROPOSAL_INIT!r}. 'learned' is the paper's."
        )
    if node.PROPOSAL_INIT == "learned":
        return None
    share = 2 if node.PROPOSAL_INIT == "both" else 1
    return DenseProposals(
        node.HIDDEN_DIM,
        -(-node.NUM_PROPOSALS // share),
        tuple(shape.stride for shape in shapes.values()),
        prior_prob=node.PRIOR_PROB,
        alpha=node.ALPHA,
        gamma=node.GAMMA,
    )


def _needs_padding(size: tuple[int, int], backbone: Backbone) -> bool:
    constraints = backbone.padding_constraints or {}
    divisor = constraints.get("size_divisibility", backbone.size_divisibility) or 1
    return bool(constraints.get("square_size", 0) or size[0] % divisor or size[1] % divisor)


def postprocess_detections(results: list[Instances], batched_inputs: list[dict]) -> list[dict]:
    """Scales detections to ``height`` and ``width`` of their inputs, clips, drops empty boxes.

    The boxes of ``results`` change in place.
    """
    processed = []
    for result, item in zip(results, batched_inputs, strict=True):
        height = item.get("height", result.image_size[0])
        width = item.get("width", result.image_size[1])
        processed.append({"instances": detector_postprocess(result, height, width)})
    return processed
