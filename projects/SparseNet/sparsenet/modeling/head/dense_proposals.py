"""First proposals from a dense objectness map instead of learned whole-image boxes.

``MODEL.SparseRCNN.PROPOSAL_INIT: dense``. A light branch, shared by all pyramid levels, predicts at
every location whether an object is centred there and how far its four sides are (as FCOS, arXiv
1904.01355); the best locations of an image give the first boxes and features of the head. The
branch is trained one-to-many, by size per level. Its best score per image tells a gigapixel
predictor whether a tile holds anything at all.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsenet.modeling.losses.targets import DetectionTargets
from sparsenet.ops.boxes import box_area, paired_giou
from sparsenet.ops.focal import sigmoid_focal_loss
from sparsenet.ops.precision import at_least_float32, without_autocast

# A location of stride s starts with a box of side 8 s, the anchor size of FPN detectors, and serves
# objects within a factor of 2 ** 0.75 of it: neighbouring levels overlap by half an octave.
SIDE_PER_STRIDE = 8.0
LEVEL_OCTAVES = 0.75
# Locations within this many strides of an object's centre are positive (FCOS centre sampling).
CENTRE_RADIUS = 1.5
# Sides reach from 1/16 to 16 times half the starting side.
MAX_LOG_DISTANCE = math.log(16.0)
# Locations that are not the best of their 3 x 3 neighbours come after all that are.
_NOT_A_PEAK = 100.0


@dataclass(frozen=True)
class DenseOutput:
    """Predictions at all L locations, finest level first, row-major.

    Attributes:
        logits: ``(N, L)`` objectness.
        boxes_xyxy: ``(N, L, 4)`` pixels of the network input.
        centres: ``(L, 2)`` x, y of the locations, pixels.
        strides: ``(L,)`` pixels.
        is_inside: ``(N, L)`` False for locations in the padding of the batch.
        level_sizes: (h, w) of each level.
    """

    logits: Tensor
    boxes_xyxy: Tensor
    centres: Tensor
    strides: Tensor
    is_inside: Tensor
    level_sizes: tuple[tuple[int, int], ...]

    def image_scores(self) -> Tensor:
        """Best objectness probability of each image, ``(N,)``."""
        masked = self.logits.masked_fill(~self.is_inside, -math.inf)
        return masked.amax(dim=1).sigmoid()


class DenseProposals(nn.Module):
    """Objectness and box branch, and the choice of the first proposals."""

    def __init__(
        self,
        channels: int,
        num_proposals: int,
        strides: tuple[int, ...],
        *,
        prior_prob: float = 0.01,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        """
        Args:
            channels: of every pyramid level and of the proposal features.
            num_proposals: locations chosen per image.
            strides: of the levels, finest first.
            prior_prob: initial objectness.
            alpha: balance of the focal loss.
            gamma: exponent of the focal loss.
        """
        super().__init__()
        self.num_proposals = num_proposals
        self.strides = strides
        self.alpha = alpha
        self.gamma = gamma
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(math.gcd(channels, 32), channels)
        self.objectness = nn.Conv2d(channels, 1, 1)
        self.distances = nn.Conv2d(channels, 4, 1)
        self.project = nn.Linear(channels, channels)
        self.project_norm = nn.LayerNorm(channels)
        for conv in (self.objectness, self.distances):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        nn.init.constant_(self.objectness.bias, -math.log((1 - prior_prob) / prior_prob))

    def forward(self, features: list[Tensor], image_whwh: Tensor) -> DenseOutput:
        """Predicts objectness and boxes everywhere.

        Args:
            features: ``(N, C, h, w)`` per level, finest first.
            image_whwh: ``(N, 4)`` unpadded input sizes.
        """
        logits, distances = [], []
        for feature in features:
            x = F.relu(self.norm(self.conv(feature)))
            # Half precision would tie the scores of most locations.
            with without_autocast(x):
                x = at_least_float32(x)
                logits.append(self.objectness(x).flatten(1))  # (N, h*w)
                distances.append(self.distances(x).flatten(2).transpose(1, 2))  # (N, h*w, 4)
        level_sizes = tuple((f.shape[-2], f.shape[-1]) for f in features)
        centres, strides = _locations(level_sizes, self.strides, image_whwh)
        log_distance = torch.cat(distances, dim=1)  # (N, L, 4)
        return DenseOutput(
            logits=torch.cat(logits, dim=1),
            boxes_xyxy=_decode_distances(log_distance, centres, strides),
            centres=centres,
            strides=strides,
            is_inside=(centres < image_whwh[:, None, :2]).all(-1),
            level_sizes=level_sizes,
        )

    def select(
        self, output: DenseOutput, features: list[Tensor], image_whwh: Tensor
    ) -> tuple[Tensor, Tensor]:
        """First boxes ``(N, P, 4)``, detached and clipped, and features ``(N, P, C)``."""
        index = _best_locations(output, self.num_proposals)  # (N, P)
        boxes = output.boxes_xyxy.detach().gather(1, index[..., None].expand(-1, -1, 4))
        boxes = _clip(boxes, image_whwh)
        picked = _gather_features(features, index)  # (N, P, C)
        return boxes, self.project_norm(self.project(picked))

    def losses(self, output: DenseOutput, targets: DetectionTargets) -> dict[str, Tensor]:
        """Focal loss of objectness and GIoU loss of boxes, each per positive location."""
        with without_autocast(output.logits):
            assigned = assign_locations(output, targets)  # (N, L), -1 = background
            is_positive = assigned >= 0
            counted = (is_positive | ~_is_ignored(output, targets)).to(output.logits)
            positive = is_positive.to(output.logits)
            num_positive = positive.sum().clamp(min=1.0)
            objectness = sigmoid_focal_loss(
                output.logits, positive, alpha=self.alpha, gamma=self.gamma
            )
            truth = _gather_truth(targets, assigned).to(output.boxes_xyxy)  # (N, L, 4)
            giou = paired_giou(output.boxes_xyxy, truth)
        return {
            "loss_dense_objectness": (objectness * counted).sum() / num_positive,
            "loss_dense_box": ((1 - giou) * positive).sum() / num_positive,
        }


def assign_locations(output: DenseOutput, targets: DetectionTargets) -> Tensor:
    """Object of each location ``(N, L)``, -1 where there is none.

    A location serves an object if its level fits the object's size, and if it lies within
    `CENTRE_RADIUS` strides of the object's centre and inside the object (the location nearest to
    the centre serves in any case, so that objects smaller than a stride are learned too). Of
    several objects, the smallest wins.
    """
    boxes = targets.boxes_xyxy[:, None]  # (N, 1, G, 4)
    num_images, num_locations = output.logits.shape
    if not boxes.shape[2]:
        return output.strides.new_full((num_images, num_locations), -1, dtype=torch.int64)
    centres, strides = output.centres[:, None], output.strides[:, None]  # (L, 1, 2), (L, 1)
    offset = (centres - 0.5 * (boxes[..., :2] + boxes[..., 2:])).abs().amax(-1)  # (N, L, G)
    is_inside = ((centres > boxes[..., :2]) & (centres < boxes[..., 2:])).all(-1)
    is_near = (is_inside & (offset < CENTRE_RADIUS * strides)) | (offset <= 0.5 * strides)
    serves = is_near & _level_fits(targets.boxes_xyxy, output.strides)
    serves &= targets.is_object[:, None] & output.is_inside[..., None]
    area = box_area(targets.boxes_xyxy)[:, None].expand(serves.shape)
    smallest, assigned = area.masked_fill(~serves, math.inf).min(dim=-1)  # (N, L)
    return assigned.masked_fill(smallest.isinf(), -1)


def _level_fits(boxes_xyxy: Tensor, strides: Tensor) -> Tensor:
    """``(N, L, G)``: the location's level serves boxes of that size. Every box has a level."""
    side = box_area(boxes_xyxy).clamp(min=1.0).sqrt()[:, None]  # (N, 1, G)
    level_side = SIDE_PER_STRIDE * strides
    # Smaller and larger boxes than any level was made for go to the first and the last.
    side = torch.maximum(torch.minimum(side, level_side.max()), level_side.min())
    octaves = torch.log2(side / level_side[:, None]).abs()
    return octaves <= LEVEL_OCTAVES


def _is_ignored(output: DenseOutput, targets: DetectionTargets) -> Tensor:
    """``(N, L)``: the location lies in an ignore box or in the padding of the batch."""
    regions = targets.ignore_xyxy[:, None]  # (N, 1, I, 4)
    centres = output.centres[:, None]  # (L, 1, 2)
    is_in_region = ((centres >= regions[..., :2]) & (centres <= regions[..., 2:])).all(-1)
    return is_in_region.any(-1) | ~output.is_inside


def _gather_truth(targets: DetectionTargets, assigned: Tensor) -> Tensor:
    """Box ``(N, L, 4)`` of each location's object; arbitrary where there is none."""
    if not targets.boxes_xyxy.shape[1]:
        return targets.boxes_xyxy.new_zeros(*assigned.shape, 4)
    index = assigned.clamp(min=0)[..., None].expand(-1, -1, 4)
    return targets.boxes_xyxy.gather(1, index)


def _locations(
    level_sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], like: Tensor
) -> tuple[Tensor, Tensor]:
    """Centres ``(L, 2)`` and strides ``(L,)`` of the cells of all levels."""
    centres, repeated = [], []
    for (height, width), stride in zip(level_sizes, strides, strict=True):
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) * stride
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) * stride
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        centres.append(torch.stack([grid_x, grid_y], dim=-1).flatten(0, 1))  # (h*w, 2)
        repeated.append(like.new_full((height * width,), float(stride)))
    return torch.cat(centres), torch.cat(repeated)


def _decode_distances(log_distance: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Boxes ``(N, L, 4)`` from the logarithms of left, top, right and bottom distances."""
    limited = log_distance.clamp(-MAX_LOG_DISTANCE, MAX_LOG_DISTANCE)
    distance = limited.exp() * (0.5 * SIDE_PER_STRIDE * strides)[:, None]
    return torch.cat([centres - distance[..., :2], centres + distance[..., 2:]], dim=-1)


def _best_locations(output: DenseOutput, num_proposals: int) -> Tensor:
    """Indices ``(N, P)`` of the best locations, peaks of their level first, best first.

    A map with fewer than P locations gives some of them repeatedly.
    """
    logits = output.logits.detach()
    sizes = [h * w for h, w in output.level_sizes]
    is_peak = torch.cat(
        [
            _is_peak(level, size)
            for level, size in zip(logits.split(sizes, 1), output.level_sizes, strict=True)
        ],
        dim=1,
    )
    rank = logits - _NOT_A_PEAK * (~is_peak).to(logits) - 4 * _NOT_A_PEAK * ~output.is_inside
    index = rank.topk(min(num_proposals, rank.shape[1]), dim=1).indices
    repeats = -(-num_proposals // index.shape[1])
    return index.repeat(1, repeats)[:, :num_proposals]


def _is_peak(logits: Tensor, size: tuple[int, int]) -> Tensor:
    level = logits.unflatten(1, (1, *size))  # (N, 1, h, w)
    return (level == F.max_pool2d(level, 3, stride=1, padding=1)).flatten(1)  # (N, h*w)


def _gather_features(features: list[Tensor], index: Tensor) -> Tensor:
    """Features ``(N, P, C)`` at flat location indices ``(N, P)``, without joining the levels."""
    picked, start = 0.0, 0
    for feature in features:
        size = feature.shape[-2] * feature.shape[-1]
        local = index - start
        is_here = (local >= 0) & (local < size)
        local = local.clamp(0, size - 1)[:, None].expand(-1, feature.shape[1], -1)  # (N, C, P)
        picked = picked + feature.flatten(2).gather(2, local) * is_here[:, None]
        start += size
    return picked.transpose(1, 2)  # (N, P, C)


def _clip(boxes_xyxy: Tensor, image_whwh: Tensor) -> Tensor:
    """Clips to the image; boxes keep a side of at least one pixel."""
    whwh = image_whwh[:, None].to(boxes_xyxy)  # (N, 1, 4)
    low = torch.minimum(boxes_xyxy[..., :2].clamp(min=0), whwh[..., :2] - 1)
    high = torch.minimum(boxes_xyxy[..., 2:], whwh[..., 2:])
    return torch.cat([low, torch.maximum(high, low + 1)], dim=-1)
