import pytest
import torch
from detectron2.structures import Boxes, Instances

from sparsenet.errors import ConfigError
from sparsenet.modeling.losses import (
    DetectionTargets,
    HungarianMatcher,
    LossWeights,
    SetCriterion,
)

GT = [[10.0, 10, 40, 50], [60.0, 20, 90, 70]]


def _targets(boxes, classes, *, num_classes=4, ignore=None):
    whwh = torch.tensor([[128.0, 96, 128, 96]])
    instances = Instances(
        (96, 128),
        gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        gt_classes=torch.tensor(classes, dtype=torch.int64),
    )
    ignored = [Boxes(torch.tensor(ignore))] if ignore else None
    return DetectionTargets.from_instances(
        [instances], whwh, num_classes=num_classes, ignore_boxes=ignored
    )


def _predictions(num_stages=2, num_proposals=6, num_classes=4):
    torch.manual_seed(3)
    logits = torch.randn(num_stages, 1, num_proposals, num_classes, requires_grad=True)
    low = torch.rand(num_stages, 1, num_proposals, 2) * 60
    boxes = torch.cat([low, low + 5 + torch.rand_like(low) * 30], -1).requires_grad_()
    return logits, boxes


def test_names_and_weights():
    logits, boxes = _predictions(num_stages=3)
    matcher = HungarianMatcher(weights=LossWeights(2, 5, 3))
    criterion = SetCriterion(matcher, 4)
    losses = criterion(logits, boxes, _targets(GT, [0, 2]))
    names = ("loss_ce", "loss_giou", "loss_bbox")
    assert set(losses) == {f"{n}{s}" for n in names for s in ("", "_0", "_1")}
    plain = criterion.stage_losses(logits, boxes, _targets(GT, [0, 2]))
    torch.testing.assert_close(losses["loss_bbox"], 5 * plain["loss_bbox"][2])
    torch.testing.assert_close(losses["loss_giou_1"], 3 * plain["loss_giou"][1])
    torch.testing.assert_close(losses["loss_ce_0"], 2 * plain["loss_ce"][0])


@pytest.mark.parametrize("num_classes", [1, 4, 256])
def test_perfect_predictions_cost_next_to_nothing(num_classes):
    targets = _targets(GT, [0, num_classes - 1], num_classes=num_classes)
    logits = torch.full((1, 1, 2, num_classes), -20.0)
    logits[0, 0, range(2), [0, num_classes - 1]] = 20.0
    losses = SetCriterion(HungarianMatcher(), num_classes)(
        logits, targets.boxes_xyxy[None], targets
    )
    assert all(value.item() == pytest.approx(0, abs=1e-5) for value in losses.values())


def test_more_objects_than_predictions():
    boxes = [[i, i, i + 10.0, i + 10.0] for i in range(9)]
    logits, predicted = _predictions(num_proposals=4)
    losses = SetCriterion(HungarianMatcher(), 4)(logits, predicted, _targets(boxes, [1] * 9))
    sum(losses.values()).backward()
    assert torch.isfinite(logits.grad).all() and torch.isfinite(predicted.grad).all()


@pytest.mark.parametrize("use_focal", [True, False])
def test_no_objects_gives_zero_box_losses_with_a_graph(use_focal):
    logits, boxes = _predictions(num_classes=4 if use_focal else 5)
    criterion = SetCriterion(HungarianMatcher(use_focal=use_focal), 4)
    losses = criterion(logits, boxes, _targets([], []))
    assert losses["loss_giou"] == losses["loss_bbox_0"] == 0
    assert losses["loss_ce"] > 0
    sum(losses.values()).backward()
    assert boxes.grad is not None and logits.grad.abs().sum() > 0


@pytest.mark.parametrize("use_focal", [True, False])
def test_unmatched_predictions_inside_an_ignore_box_are_left_alone(use_focal):
    logits = torch.zeros(1, 1, 4, 4 if use_focal else 5, requires_grad=True)
    rows = [GT[0], [100.0, 60, 120, 80], [90.0, 60, 110, 80], [85.0, 60, 105, 80]]
    boxes = torch.tensor(rows)[None, None]  # shares in the ignore box: 0, 1, 0.5, 0.25
    targets = _targets(GT[:1], [2], ignore=[[100.0, 50, 128, 96]])
    criterion = SetCriterion(HungarianMatcher(use_focal=use_focal), 4, ignore_ioa=0.5)
    criterion(logits, boxes, targets)["loss_ce"].backward()
    has_gradient = logits.grad[0, 0].abs().sum(-1) > 0
    assert has_gradient.tolist() == [True, False, False, True]


def test_a_match_inside_an_ignore_box_still_learns():
    logits = torch.zeros(1, 1, 1, 4, requires_grad=True)
    targets = _targets(GT[:1], [2], ignore=[[0.0, 0, 128, 96]])
    losses = SetCriterion(HungarianMatcher(), 4)(logits, torch.tensor([[GT[:1]]]), targets)
    losses["loss_ce"].backward()
    assert (logits.grad[0, 0, 0] != 0).all()
    assert logits.grad[0, 0, 0, 2] < 0


def test_ignore_boxes_are_never_matched():
    logits, boxes = _predictions()
    matches = HungarianMatcher()(logits, boxes, _targets([], [], ignore=[[0.0, 0, 128, 96]]))
    assert len(matches.stage) == 0


def test_everything_ignored_in_the_softmax_variant_is_finite():
    logits = torch.zeros(1, 1, 2, 5, requires_grad=True)
    targets = _targets([], [], ignore=[[0.0, 0, 128, 96]])
    criterion = SetCriterion(HungarianMatcher(use_focal=False), 4)
    loss = criterion(logits, torch.tensor([[GT]]), targets)["loss_ce"]
    assert loss.item() == 0


def test_softmax_weights_are_in_the_state_dict():
    criterion = SetCriterion(HungarianMatcher(use_focal=False), 4, no_object_weight=0.25)
    assert criterion.state_dict()["empty_weight"].tolist() == [1, 1, 1, 1, 0.25]
    assert SetCriterion(HungarianMatcher(), 4).state_dict() == {}


def test_half_precision_predictions_give_float32_losses():
    logits, boxes = _predictions()
    criterion, targets = SetCriterion(HungarianMatcher(), 4), _targets(GT, [0, 2])
    with torch.autocast("cpu", torch.bfloat16):
        losses = criterion(logits.bfloat16(), boxes, targets)
    exact = criterion(logits, boxes, targets)
    assert all(value.dtype == torch.float32 for value in losses.values())
    for name in losses:
        assert losses[name].item() == pytest.approx(exact[name].item(), rel=0.05)


@pytest.mark.parametrize("kind", ["iou", "diou", "ciou"])
def test_other_overlaps_name_their_loss_and_pull_boxes_together(kind):
    targets = _targets(GT, [0, 2])
    logits, boxes = _predictions(num_stages=1)
    boxes = boxes.detach()
    boxes[0, 0, :2] = targets.boxes_xyxy[0] + torch.tensor([2.0, 3, 4, 1])
    boxes.requires_grad_()
    criterion = SetCriterion(HungarianMatcher(box_cost=kind), 4, box_loss=kind)
    losses = criterion(logits, boxes, targets)
    assert set(losses) == {"loss_ce", f"loss_{kind}", "loss_bbox"}
    losses[f"loss_{kind}"].backward()
    moved = boxes.detach() - 5 * boxes.grad
    logits = logits.detach()
    assert criterion(logits, moved, targets)[f"loss_{kind}"] < losses[f"loss_{kind}"]


def test_costs_and_losses_can_have_their_own_weights():
    logits, boxes = _predictions()
    targets, own = _targets(GT, [0, 2]), LossWeights(7, 11, 13)
    criterion = SetCriterion(HungarianMatcher(weights=LossWeights(1, 1, 1)), 4, weights=own)
    plain = criterion.stage_losses(logits, boxes, targets)
    losses = criterion(logits, boxes, targets)
    for name, weight in zip(("loss_ce", "loss_bbox", "loss_giou"), own):
        torch.testing.assert_close(losses[name], weight * plain[name][-1])


def test_unknown_box_loss():
    with pytest.raises(ConfigError, match="BOX_LOSS must be one of"):
        SetCriterion(HungarianMatcher(), 4, box_loss="eiou")
