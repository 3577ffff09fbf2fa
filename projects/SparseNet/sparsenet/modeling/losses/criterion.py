"""Set prediction losses of Sparse R-CNN on every stage of the cascade.

Paper: Sparse R-CNN, arXiv 2011.12450, section 3.3. Upstream: PeizeSun/SparseR-CNN (MIT).
Differs from it in: all stages are computed together, boxes are compared in float32, more objects
than predictions are allowed, predictions inside ignore boxes are not taught "background", and other
overlaps than GIoU.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor, nn

from sparsenet.modeling.losses.matcher import (
    HungarianMatcher,
    LossWeights,
    Matches,
    require_box_similarity,
)
from sparsenet.modeling.losses.targets import DetectionTargets
from sparsenet.ops.boxes import paired_box_loss, pairwise_ioa
from sparsenet.ops.focal import sigmoid_focal_loss
from sparsenet.ops.precision import at_least_float32, without_autocast


class SetCriterion(nn.Module):
    """Classification, overlap and L1 losses between matched pairs."""

    def __init__(
        self,
        matcher: HungarianMatcher,
        num_classes: int,
        *,
        weights: LossWeights | None = None,
        box_loss: str = "giou",
        no_object_weight: float = 0.1,
        ignore_ioa: float = 0.5,
    ) -> None:
        """
        Args:
            matcher: one-to-one assignment.
            num_classes: K; the softmax variant has one logit more.
            weights: of the losses; None takes those of the matcher's costs, as the paper.
            box_loss: a key of ``BOX_SIMILARITIES``; the overlap loss is named after it.
            no_object_weight: weight of the background, softmax variant only.
            ignore_ioa: an unmatched prediction with at least this share of its own area in an
                ignore box takes part in no classification loss.

        Raises:
            ConfigError: ``box_loss`` is not known.
        """
        super().__init__()
        require_box_similarity("BOX_LOSS", box_loss)
        self.matcher = matcher
        self.num_classes = num_classes
        self.ignore_ioa = ignore_ioa
        self.box_loss = box_loss
        weights = weights or matcher.weights
        self.weights = {
            "loss_ce": weights.classification,
            f"loss_{box_loss}": weights.overlap,
            "loss_bbox": weights.l1,
        }
        if not matcher.use_focal:
            empty_weight = torch.ones(num_classes + 1)
            empty_weight[-1] = no_object_weight
            self.register_buffer("empty_weight", empty_weight)

    def forward(
        self, logits: Tensor, boxes_xyxy: Tensor, targets: DetectionTargets
    ) -> dict[str, Tensor]:
        """Weighted losses: ``loss_ce`` of the last stage, ``loss_ce_0`` of the first, and so on.

        Args:
            logits: ``(S, N, P, K)``.
            boxes_xyxy: ``(S, N, P, 4)`` pixels of the network input.
            targets: of the N images.
        """
        last = len(logits) - 1
        losses = {}
        for name, per_stage in self.stage_losses(logits, boxes_xyxy, targets).items():
            for stage in (last, *range(last)):
                key = name if stage == last else f"{name}_{stage}"
                losses[key] = per_stage[stage] * self.weights[name]
        return losses

    def stage_losses(
        self, logits: Tensor, boxes_xyxy: Tensor, targets: DetectionTargets
    ) -> dict[str, Tensor]:
        """Unweighted losses ``(S,)`` by name."""
        matches = self.matcher(logits, boxes_xyxy, targets)
        num_boxes = _mean_count_over_processes(targets.num_objects, logits.device)
        with without_autocast(logits):
            logits, boxes = at_least_float32(logits), at_least_float32(boxes_xyxy)
            kept = self._kept_predictions(boxes.detach(), targets, matches)
            losses = self._box_losses(boxes, targets, matches, num_boxes)
            if self.matcher.use_focal:
                losses["loss_ce"] = self._focal_loss(logits, targets, matches, kept) / num_boxes
            else:
                losses["loss_ce"] = self._softmax_loss(logits, targets, matches, kept)
        return losses

    def _kept_predictions(
        self, boxes: Tensor, targets: DetectionTargets, matches: Matches
    ) -> Tensor:
        """``(S, N, P)`` float: 0 where a prediction takes no part in the classification loss."""
        kept = boxes.new_ones(boxes.shape[:-1])
        if targets.ignore_xyxy.shape[1]:
            ioa = pairwise_ioa(boxes, targets.ignore_xyxy).amax(-1)  # (S, N, P)
            kept = (ioa < self.ignore_ioa).to(kept.dtype)
            kept[matches.stage, matches.image, matches.prediction] = 1.0
        return kept

    def _focal_loss(
        self, logits: Tensor, targets: DetectionTargets, matches: Matches, kept: Tensor
    ) -> Tensor:
        one_hot = torch.zeros_like(logits)
        matched_class = targets.classes[matches.image, matches.target]
        one_hot[matches.stage, matches.image, matches.prediction, matched_class] = 1.0
        loss = sigmoid_focal_loss(
            logits, one_hot, alpha=self.matcher.alpha, gamma=self.matcher.gamma
        )
        return (loss * kept[..., None]).sum(dim=(1, 2, 3))

    def _softmax_loss(
        self, logits: Tensor, targets: DetectionTargets, matches: Matches, kept: Tensor
    ) -> Tensor:
        classes = torch.full(logits.shape[:-1], self.num_classes, device=logits.device)
        classes[matches.stage, matches.image, matches.prediction] = targets.classes[
            matches.image, matches.target
        ]
        # The mean is weighted by the classes' weights, as torch's cross entropy does it.
        weight = self.empty_weight.to(logits)[classes] * kept  # (S, N, P)
        loss = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), reduction="none")
        total = (loss.view_as(weight) * weight).sum(dim=(1, 2))
        return total / weight.sum(dim=(1, 2)).clamp(min=torch.finfo(weight.dtype).tiny)

    def _box_losses(
        self,
        boxes: Tensor,
        targets: DetectionTargets,
        matches: Matches,
        num_boxes: Tensor | float,
    ) -> dict[str, Tensor]:
        matched = boxes[matches.stage, matches.image, matches.prediction]  # (M, 4)
        truth = targets.boxes_xyxy[matches.image, matches.target].to(boxes)  # (M, 4)
        whwh = targets.image_whwh[matches.image].to(boxes)  # (M, 4)
        overlap = paired_box_loss(matched, truth, self.box_loss)  # (M,)
        l1 = ((matched - truth) / whwh).abs().sum(-1)  # (M,)
        zeros = boxes.new_zeros(len(boxes))
        return {
            f"loss_{self.box_loss}": zeros.index_add(0, matches.stage, overlap) / num_boxes,
            "loss_bbox": zeros.index_add(0, matches.stage, l1) / num_boxes,
        }


def _mean_count_over_processes(count: int, device: torch.device) -> Tensor | float:
    """Mean of ``count`` over all processes, at least 1; without copying anything to the host."""
    world_size = comm.get_world_size()
    if world_size == 1:
        return float(max(count, 1))
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return (total / world_size).clamp(min=1.0)
