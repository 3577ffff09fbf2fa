import numpy as np
import pytest
import torch
from golden_data import load_golden

from sparsenet.ops.soft_vote import soft_vote


@pytest.mark.golden
def test_the_recorded_vote():
    golden = load_golden("sparsercnn_units.npz")
    inputs = (torch.from_numpy(golden[f"vote_in_{name}"]) for name in ("boxes", "scores", "labels"))
    boxes, scores, labels = soft_vote(*inputs)
    np.testing.assert_allclose(boxes, golden["vote_out_boxes"], atol=1e-4)
    np.testing.assert_allclose(scores, golden["vote_out_scores"], atol=1e-6)
    np.testing.assert_array_equal(labels, golden["vote_out_labels"])


def test_boxes_apart_stay_as_they_are():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 50], [0, 0, 10, 10]])
    scores, classes = torch.tensor([0.3, 0.9, 0.8]), torch.tensor([0, 0, 1])
    found, values, labels = soft_vote(boxes, scores, classes)
    assert values.tolist() == pytest.approx([0.9, 0.8, 0.3]) and labels.tolist() == [0, 1, 0]
    torch.testing.assert_close(found, boxes[[1, 2, 0]])


def test_equal_boxes_become_one_with_the_best_score():
    boxes = torch.tensor([[5.0, 5, 25, 15]]).repeat(4, 1)
    found, values, _ = soft_vote(boxes, torch.tensor([0.2, 0.9, 0.4, 0.1]), torch.zeros(4).long())
    torch.testing.assert_close(found, boxes[:1])
    assert values.tolist() == pytest.approx([0.9])


def test_order_of_the_input_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(60, 2, generator=generator) * 30
    boxes = torch.cat([low, low + 10 + 20 * torch.rand(60, 2, generator=generator)], dim=1)
    scores = torch.rand(60, generator=generator)
    classes = torch.randint(0, 3, (60,), generator=generator)
    expected = soft_vote(boxes, scores, classes)
    shuffled = torch.randperm(60, generator=generator)
    for one, two in zip(expected, soft_vote(boxes[shuffled], scores[shuffled], classes[shuffled])):
        torch.testing.assert_close(one, two)
    assert (expected[1][:-1] >= expected[1][1:]).all()


def test_nothing_and_boxes_without_area():
    for boxes in (torch.zeros(0, 4), torch.tensor([[5.0, 5, 5, 40]])):
        found, values, labels = soft_vote(boxes, torch.ones(len(boxes)), torch.ones(len(boxes)))
        assert found.shape == (0, 4) and len(values) == len(labels) == 0
