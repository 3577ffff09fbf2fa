"""Stands in for detectron2.modeling.proposal_generator.proposal_utils: has find_top_rpn_proposals
and add_ground_truth_to_proposals; lacks tracing."""

import math

import torch
from detectron2.layers import batched_nms, cat
from detectron2.structures import Boxes, Instances

# Objectness of true boxes: the logit of a probability of nearly one.
_TRUE_LOGIT = math.log((1.0 - 1e-10) / (1 - (1.0 - 1e-10)))


def find_top_rpn_proposals(
    proposals: list[torch.Tensor],
    pred_objectness_logits: list[torch.Tensor],
    image_sizes: list[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
):
    """Returns the best boxes of each image after suppression within each level.

    Args:
        proposals: per level, (N, R_l, 4) xyxy.
        pred_objectness_logits: per level, (N, R_l).
        image_sizes: N times (h, w), to which the boxes are clipped.
        nms_thresh: greatest IoU of two boxes of a level.
        pre_nms_topk: best so many of a level take part.
        post_nms_topk: best so many of an image are left.
        min_box_size: both sides must be longer, pixels.
        training: infinite numbers are an error; otherwise such boxes are dropped.

    Returns:
        N Instances with "proposal_boxes" and "objectness_logits", best first.
    """
    top_boxes, top_logits, levels = [], [], []
    for level, (boxes, logits) in enumerate(zip(proposals, pred_objectness_logits)):
        count = min(logits.shape[1], pre_nms_topk)
        values, indices = logits.topk(count, dim=1)  # (N, count)
        top_boxes.append(boxes.gather(1, indices[..., None].expand(-1, -1, 4)))  # (N, count, 4)
        top_logits.append(values)
        levels.append(torch.full((count,), level, dtype=torch.int64, device=logits.device))
    all_boxes, all_logits, all_levels = cat(top_boxes, 1), cat(top_logits, 1), cat(levels)
    results = []
    for boxes, logits, image_size in zip(all_boxes, all_logits, image_sizes):
        keep = torch.isfinite(boxes).all(dim=1) & torch.isfinite(logits)
        if training and not keep.all():
            raise FloatingPointError(
                "Proposals must be finite, some are infinite or NaN: the training has diverged. "
                "Lower SOLVER.BASE_LR or clip the gradients."
            )
        clipped = Boxes(boxes[keep])
        clipped.clip(image_size)
        logits, box_levels = logits[keep], all_levels[keep]
        keep = clipped.nonempty(threshold=min_box_size)
        clipped, logits, box_levels = clipped[keep], logits[keep], box_levels[keep]
        best = batched_nms(clipped.tensor, logits, box_levels, nms_thresh)[:post_nms_topk]
        results.append(
            Instances(image_size, proposal_boxes=clipped[best], objectness_logits=logits[best])
        )
    return results


def add_ground_truth_to_proposals(
    gt: list[Instances] | list[Boxes], proposals: list[Instances]
) -> list[Instances]:
    """Adds each image's true boxes to its proposals; see the function for one image."""
    assert gt is not None, "the ground truth must be given"
    if len(proposals) != len(gt):
        raise ValueError(f"proposals and gt must have one length, got {len(proposals)}, {len(gt)}.")
    return list(map(add_ground_truth_to_proposals_single_image, gt, proposals))


def add_ground_truth_to_proposals_single_image(
    gt: Instances | Boxes, proposals: Instances
) -> Instances:
    """Returns the proposals, then the true boxes as proposals that are certain.

    Args:
        gt: true boxes, or Instances with "gt_boxes" and every field that ``proposals`` has beyond
            boxes and logits.
        proposals: has "proposal_boxes" and "objectness_logits".
    """
    fields = {} if isinstance(gt, Boxes) else dict(gt.get_fields())
    boxes = gt if isinstance(gt, Boxes) else gt.gt_boxes
    fields["proposal_boxes"] = boxes
    device = proposals.objectness_logits.device
    fields["objectness_logits"] = torch.full((len(boxes),), _TRUE_LOGIT, device=device)
    missing = set(proposals.get_fields()) - set(fields)
    assert not missing, f"The ground truth lacks the fields {sorted(missing)} of the proposals."
    return Instances.cat([proposals, Instances(proposals.image_size, **fields)])
