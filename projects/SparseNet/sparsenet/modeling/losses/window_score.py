"""Supervision of the window scores by which a sparse backbone selects what it computes.

The published SparseFormer trains its ScoreNet only through a re-parameterisation whose gradient
fades with the number of windows; here the scores learn where the objects are.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sparsenet.ops.boxes import box_area, paired_intersection
from sparsenet.ops.precision import at_least_float32, without_autocast

# A window at least this far inside an ignore box teaches nothing.
IGNORED_SHARE = 0.5


class WindowSelection(Protocol):
    """What a backbone stage tells about its window selection.

    Attributes:
        logits: ``(B, W)`` score of each window, row-major over ``grid_size``.
        kept: ``(B, W)`` bool.
        grid_size: windows (rows, columns); W is their product.
        window_stride: side of a window in pixels of the network input.
        valid: ``(B, W)`` bool; False for windows of padding.
    """

    logits: Tensor
    kept: Tensor
    grid_size: tuple[int, int]
    window_stride: int
    valid: Tensor


def find_window_selector(backbone: nn.Module) -> nn.Module | None:
    """The first module inside ``backbone`` with an attribute ``selections``, or None."""
    return next((m for m in backbone.modules() if hasattr(m, "selections")), None)


def window_score_losses(
    selections: Sequence[WindowSelection],
    gt_boxes: Sequence[Tensor],
    *,
    score_weight: float,
    budget_weight: float,
    ignore_boxes: Sequence[Tensor] | None = None,
) -> dict[str, Tensor]:
    """Losses of the window scores of all stages, averaged over stages.

    The score of a window is taught the overlap with the objects, see `window_targets`; the budget
    term keeps the mean score at the mean of these targets, so that windows are not kept in vain.

    Args:
        selections: one per stage, of the last forward pass.
        gt_boxes: per image ``(n, 4)`` xyxy, pixels of the network input.
        score_weight: weight of ``loss_window_score``.
        budget_weight: weight of ``loss_window_budget``.
        ignore_boxes: per image ``(i, 4)``; windows mostly inside one, without object, do not count.
    """
    with without_autocast(selections[0].logits):
        boxes = pad_sequence(list(gt_boxes), batch_first=True)  # (B, G, 4)
        ignored = None if ignore_boxes is None else pad_sequence(list(ignore_boxes), True)
        terms = [_stage_terms(selection, boxes, ignored) for selection in selections]
    score, budget = (torch.stack(term).mean() for term in zip(*terms, strict=True))
    return {
        "loss_window_score": score * score_weight,
        "loss_window_budget": budget * budget_weight,
    }


def window_targets(grid_size: tuple[int, int], window_stride: int, boxes_xyxy: Tensor) -> Tensor:
    """Largest overlap of each window with one of the boxes, relative to the smaller of the two.

    An object inside a window and a window inside an object both give 1; an object without area
    gives 0.

    Args:
        grid_size: windows (rows, columns).
        window_stride: side of a window, pixels.
        boxes_xyxy: ``(B, G, 4)``, pixels.

    Returns:
        ``(B, rows * columns)`` in [0, 1].
    """
    windows = _window_boxes(grid_size, window_stride, boxes_xyxy)  # (W, 4)
    if not boxes_xyxy.shape[1]:
        return boxes_xyxy.new_zeros(len(boxes_xyxy), len(windows))
    overlap = paired_intersection(windows[None, :, None], boxes_xyxy[:, None])  # (B, W, G)
    smaller = box_area(boxes_xyxy).clamp(max=float(window_stride**2))[:, None]  # (B, 1, G)
    return (overlap / smaller.clamp(min=1e-7)).amax(-1)  # (B, W)


def _window_boxes(grid_size: tuple[int, int], stride: int, like: Tensor) -> Tensor:
    rows, columns = (torch.arange(n, device=like.device, dtype=like.dtype) for n in grid_size)
    y, x = torch.meshgrid(rows * stride, columns * stride, indexing="ij")
    return torch.stack([x, y, x + stride, y + stride], dim=-1).flatten(0, 1)  # (W, 4)


def _stage_terms(
    selection: WindowSelection, boxes: Tensor, ignored: Tensor | None
) -> tuple[Tensor, Tensor]:
    logits = at_least_float32(selection.logits)  # (B, W)
    stride = selection.window_stride
    targets = window_targets(selection.grid_size, stride, boxes).to(logits)
    counted = selection.valid.to(logits)
    if ignored is not None and ignored.shape[1]:
        share = _share_inside(selection, ignored)  # (B, W)
        counted = counted * ((share < IGNORED_SHARE) | (targets > 0))
    num_counted = counted.sum().clamp(min=1.0)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    surplus = ((logits.sigmoid() - targets) * counted).sum() / num_counted
    return (loss * counted).sum() / num_counted, surplus**2


def _share_inside(selection: WindowSelection, regions: Tensor) -> Tensor:
    """Largest share ``(B, W)`` of the area of each window inside one region of its image."""
    windows = _window_boxes(selection.grid_size, selection.window_stride, regions)
    overlap = paired_intersection(windows[None, :, None], regions[:, None])  # (B, W, I)
    return overlap.amax(-1) / float(selection.window_stride**2)
