import itertools

import pytest
import torch
from detectron2.structures import Boxes, Instances

from sparsenet.errors import AnnotationError, ConfigError, NumericalError
from sparsenet.modeling.losses import DetectionTargets, HungarianMatcher, LossWeights
from sparsenet.ops.boxes import BOX_SIMILARITIES

SIZE = (100.0, 80.0)


def _targets(per_image, num_classes=4, ignore=None):
    whwh = torch.tensor([[SIZE[1], SIZE[0]] * 2] * len(per_image))
    instances = [
        Instances(
            (100, 80),
            gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
            gt_classes=torch.tensor(classes, dtype=torch.int64),
        )
        for boxes, classes in per_image
    ]
    return DetectionTargets.from_instances(
        instances, whwh, num_classes=num_classes, ignore_boxes=ignore
    )


def _predictions(num_stages, num_images, num_proposals, num_classes, seed=0):
    torch.manual_seed(seed)
    logits = torch.randn(num_stages, num_images, num_proposals, num_classes)
    low = torch.rand(num_stages, num_images, num_proposals, 2) * 50
    return logits, torch.cat([low, low + torch.rand_like(low) * 40 + 1], -1)


TWO_IMAGES = [
    ([[5, 5, 30, 40], [40, 10, 70, 60], [1, 2, 9, 12]], [0, 3, 1]),
    ([[20, 20, 60, 90]], [2]),
]


def test_is_the_cheapest_assignment():
    targets = _targets(TWO_IMAGES)
    logits, boxes = _predictions(2, 2, 5, 4)
    matcher = HungarianMatcher()
    cost, matches = matcher.cost(logits, boxes, targets), matcher(logits, boxes, targets)
    for stage, image in itertools.product(range(2), range(2)):
        table = cost[stage, image, :, : targets.counts[image]]
        here = (matches.stage == stage) & (matches.image == image)
        found = table[matches.prediction[here], matches.target[here]].sum()
        best = min(
            sum(table[p, t] for t, p in enumerate(rows))
            for rows in itertools.permutations(range(5), table.shape[1])
        )
        torch.testing.assert_close(found, best)
        assert matches.prediction[here].diff().gt(0).all()


def test_cost_by_hand():
    targets = _targets([([[10.0, 10, 30, 30]], [1])])
    logits, boxes = torch.zeros(1, 1, 1, 4), torch.tensor([[[[10.0, 10, 30, 50]]]])
    cost = HungarianMatcher(weights=LossWeights(0, 4, 2)).cost(logits, boxes, targets)
    assert cost.item() == pytest.approx(4 * 20 / SIZE[0] - 2 * 0.5)
    softmax = HungarianMatcher(weights=LossWeights(1, 0, 0), use_focal=False)
    assert softmax.cost(logits, boxes, targets).item() == pytest.approx(-0.25)


@pytest.mark.parametrize("num_classes", [1, 4, 256])
def test_finds_perfect_predictions(num_classes):
    classes = [0, num_classes - 1, num_classes // 2]
    targets = _targets([(TWO_IMAGES[0][0], classes)], num_classes)
    order = [2, 0, 1]
    logits = torch.full((1, 1, 3, num_classes), -5.0)
    logits[0, 0, range(3), [classes[i] for i in order]] = 5.0
    boxes = targets.boxes_xyxy[None][:, :, order]
    matches = HungarianMatcher()(logits, boxes, targets)
    assert matches.target.tolist() == order
    assert matches.prediction.tolist() == [0, 1, 2]


def test_more_objects_than_predictions():
    boxes = [[i, i, i + 10.0, i + 10.0] for i in range(9)]
    targets = _targets([(boxes, [0] * 9), ([], [])])
    logits, predicted = _predictions(2, 2, 4, 4)
    matches = HungarianMatcher()(logits, predicted, targets)
    assert len(matches.stage) == 2 * 4
    assert (matches.image == 0).all()


def test_no_objects_at_all():
    logits, boxes = _predictions(3, 2, 5, 4)
    matches = HungarianMatcher()(logits, boxes, _targets([([], []), ([], [])]))
    assert all(len(column) == 0 and column.dtype == torch.int64 for column in matches)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_boxes_are_told(value):
    logits, boxes = _predictions(2, 2, 5, 4)
    boxes[1, 0, 3, 2] = value
    with pytest.raises(NumericalError, match=r"stage 1, image 0.*Lower SOLVER\.BASE_LR"):
        HungarianMatcher()(logits, boxes, _targets(TWO_IMAGES))


def test_half_precision_predictions_are_compared_in_float32():
    logits, boxes = _predictions(1, 2, 5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        cost = HungarianMatcher().cost(logits.bfloat16(), boxes, _targets(TWO_IMAGES))
    assert cost.dtype == torch.float32
    expected = HungarianMatcher().cost(logits.bfloat16().float(), boxes, _targets(TWO_IMAGES))
    torch.testing.assert_close(cost, expected)


def test_class_outside_the_range():
    with pytest.raises(AnnotationError, match=r"Classes must lie in \[0, 4\).*7 in image 0"):
        _targets([([[0, 0, 5, 5]], [7])])


def test_pairs_that_share_nothing_are_dropped_on_request():
    targets = _targets([([[10, 10, 30, 30], [60, 60, 75, 75]], [1, 2])])
    boxes = torch.tensor([[[[12.0, 10, 30, 30], [40, 10, 50, 20]]]])
    logits = torch.zeros(1, 1, 2, 4)
    assert len(HungarianMatcher()(logits, boxes, targets).target) == 2
    matches = HungarianMatcher(min_giou=0.0)(logits, boxes, targets)
    assert matches.prediction.tolist() == [0] and matches.target.tolist() == [0]


@pytest.mark.parametrize("kind", BOX_SIMILARITIES)
def test_the_box_cost_is_the_similarity_taken_from_the_sum(kind):
    targets = _targets(TWO_IMAGES)
    logits, boxes = _predictions(2, 2, 5, 4)
    matcher = HungarianMatcher(weights=LossWeights(0, 0, 3), box_cost=kind)
    cost = matcher.cost(logits, boxes, targets)
    expected = BOX_SIMILARITIES[kind](boxes[1, 0, 4], targets.boxes_xyxy[0, 2])
    torch.testing.assert_close(cost[1, 0, 4, 2], -3 * expected)
    assert len(matcher(logits, boxes, targets).stage) == 2 * (3 + 1)


def test_unknown_box_cost():
    with pytest.raises(ConfigError, match="BOX_COST must be one of iou, giou, diou, ciou"):
        HungarianMatcher(box_cost="siou")
