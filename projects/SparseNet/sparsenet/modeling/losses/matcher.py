"""One-to-one assignment of predictions to objects by the Hungarian algorithm.

Paper: Sparse R-CNN, arXiv 2011.12450, section 3.3 (after DETR, arXiv 2005.12872).
Differs from upstream in: costs of all stages and images come from one batched computation and one
copy to the host, an image is compared with its own objects only, more objects than predictions are
allowed, and NaN costs raise an error that says what to do.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from sparsenet.errors import ConfigError, NumericalError
from sparsenet.modeling.losses.targets import DetectionTargets
from sparsenet.ops.boxes import BOX_SIMILARITIES, paired_giou
from sparsenet.ops.focal import focal_matching_cost
from sparsenet.ops.precision import at_least_float32, without_autocast


class Matches(NamedTuple):
    """M matched pairs of all stages and images: equal-length int64 tensors on the model's device.

    Ordered by stage, image and prediction.
    """

    stage: Tensor
    image: Tensor
    prediction: Tensor
    target: Tensor


class LossWeights(NamedTuple):
    """Weights of the three parts of matching costs, or of losses."""

    classification: float = 2.0
    l1: float = 5.0
    overlap: float = 2.0


def require_box_similarity(key: str, kind: str) -> None:
    """Raises ConfigError where ``kind`` is no key of ``BOX_SIMILARITIES``."""
    if kind not in BOX_SIMILARITIES:
        raise ConfigError(
            f"MODEL.SparseRCNN.{key} must be one of {', '.join(BOX_SIMILARITIES)}, got {kind!r}. "
            "'giou' is the paper's."
        )


class HungarianMatcher(nn.Module):
    """Minimises class cost + L1 cost of normalised corners + overlap cost over one-to-one pairs."""

    def __init__(
        self,
        *,
        weights: LossWeights | None = None,
        box_cost: str = "giou",
        use_focal: bool = True,
        alpha: float = 0.25,
        gamma: float = 2.0,
        min_giou: float = -1.0,
    ) -> None:
        """
        Args:
            weights: of the costs; None takes the paper's.
            box_cost: similarity of boxes, a key of ``BOX_SIMILARITIES``; its negative is the cost.
            use_focal: sigmoid logits of K classes; False: softmax over K + 1.
            alpha: balance of the focal cost.
            gamma: exponent of the focal cost.
            min_giou: pairs with less in common are dropped; -1 keeps all.

        Raises:
            ConfigError: ``box_cost`` is not known.
        """
        super().__init__()
        require_box_similarity("BOX_COST", box_cost)
        self.weights = weights or LossWeights()
        self.box_cost = box_cost
        self.use_focal = use_focal
        self.alpha = alpha
        self.gamma = gamma
        self.min_giou = min_giou

    @torch.no_grad()
    def forward(self, logits: Tensor, boxes_xyxy: Tensor, targets: DetectionTargets) -> Matches:
        """Matches every stage and image on its own.

        Args:
            logits: ``(S, N, P, K)``.
            boxes_xyxy: ``(S, N, P, 4)`` pixels of the network input.
            targets: G objects at most per image.

        Returns:
            min(P, objects) pairs per stage and image, or fewer with ``min_giou``.

        Raises:
            NumericalError: a cost is NaN or infinite.
        """
        costs = self.cost(logits, boxes_xyxy, targets).cpu().numpy()
        columns: list[np.ndarray] = [np.zeros((4, 0), np.int64)]
        for stage, stage_costs in enumerate(costs):
            for image, count in enumerate(targets.counts):
                if count:
                    columns.append(_assign(stage_costs[image, :, :count], stage, image))
        matched = torch.from_numpy(np.concatenate(columns, axis=1))
        matches = Matches(*matched.to(logits.device, non_blocking=True))
        return self._drop_apart(matches, boxes_xyxy, targets) if self.min_giou > -1 else matches

    def _drop_apart(
        self, matches: Matches, boxes_xyxy: Tensor, targets: DetectionTargets
    ) -> Matches:
        """The pairs of at least ``min_giou``."""
        with without_autocast(boxes_xyxy):
            predicted = boxes_xyxy[matches.stage, matches.image, matches.prediction]  # (M, 4)
            truth = targets.boxes_xyxy[matches.image, matches.target]  # (M, 4)
            is_kept = paired_giou(at_least_float32(predicted), truth) >= self.min_giou
        return Matches(*(column[is_kept] for column in matches))

    @torch.no_grad()
    def cost(self, logits: Tensor, boxes_xyxy: Tensor, targets: DetectionTargets) -> Tensor:
        """Costs ``(S, N, P, G)`` in float32; columns of padding objects mean nothing."""
        with without_autocast(logits):
            logits, boxes = at_least_float32(logits), at_least_float32(boxes_xyxy)
            whwh = targets.image_whwh[:, None]  # (N, 1, 4)
            l1 = torch.cdist(boxes / whwh, (targets.boxes_xyxy / whwh).to(boxes), p=1)
            similarity = BOX_SIMILARITIES[self.box_cost](
                boxes.unsqueeze(-2), targets.boxes_xyxy.unsqueeze(-3)
            )  # (S, N, P, G)
            return (
                self.weights.classification * self._class_cost(logits, targets.classes)
                + self.weights.l1 * l1
                - self.weights.overlap * similarity
            )

    def _class_cost(self, logits: Tensor, classes: Tensor) -> Tensor:
        index = classes[None, :, None].expand(*logits.shape[:3], -1)  # (S, N, P, G)
        if not self.use_focal:
            return -logits.softmax(-1).gather(-1, index)
        return focal_matching_cost(logits.gather(-1, index), alpha=self.alpha, gamma=self.gamma)


def _assign(cost: np.ndarray, stage: int, image: int) -> np.ndarray:
    """Rows (stage, image, prediction, target) of the best pairs of one ``(P, objects)`` cost."""
    if not np.isfinite(cost).all():
        raise NumericalError(
            f"Matching costs must be finite, got NaN or infinity in stage {stage}, image {image} "
            "of the batch: the predicted boxes or logits diverged. Lower SOLVER.BASE_LR, keep "
            "SOLVER.CLIP_GRADIENTS enabled, and check the training boxes."
        )
    prediction, target = linear_sum_assignment(cost)
    return np.stack(
        [np.full_like(prediction, stage), np.full_like(prediction, image), prediction, target]
    ).astype(np.int64)
