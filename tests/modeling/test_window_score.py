from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sparsenet.modeling.losses import find_window_selector, window_score_losses
from sparsenet.modeling.losses.window_score import window_targets


def _selection(logits, grid_size=(2, 2), stride=32, valid=None):
    logits = torch.as_tensor(logits, dtype=torch.float32)
    return SimpleNamespace(
        logits=logits,
        kept=logits > 0,
        grid_size=grid_size,
        window_stride=stride,
        valid=torch.ones_like(logits, dtype=torch.bool) if valid is None else valid,
    )


def test_targets_are_the_overlap_relative_to_the_smaller():
    boxes = torch.tensor(
        [
            [[2.0, 2, 10, 10], [0.0, 0, 0, 0]],  # inside the first window; padding row
            [[28.0, 0, 36, 8], [0.0, 32, 32, 64]],  # halves in two windows; fills the third
        ]
    )
    targets = window_targets((2, 2), 32, boxes)
    assert targets.tolist() == [[1, 0, 0, 0], [0.5, 0.5, 1, 0]]


def test_a_window_inside_a_large_object_counts_fully():
    targets = window_targets((2, 3), 16, torch.tensor([[[0.0, 0, 1000, 1000]]]))
    assert targets.tolist() == [[1.0] * 6]


def test_no_objects():
    assert window_targets((2, 2), 32, torch.zeros(1, 0, 4)).tolist() == [[0.0] * 4]


def test_right_scores_cost_less_than_wrong_ones():
    box = [torch.tensor([[2.0, 2, 10, 10]])]
    weights = {"score_weight": 1.0, "budget_weight": 1.0}
    right = window_score_losses([_selection([[9.0, -9, -9, -9]])], box, **weights)
    wrong = window_score_losses([_selection([[-9.0, 9, 9, 9]])], box, **weights)
    assert right["loss_window_score"] < 0.01 < wrong["loss_window_score"]
    assert right["loss_window_budget"] < 1e-4
    assert wrong["loss_window_budget"].item() == pytest.approx(0.25, abs=1e-3)


def test_weights_and_stages():
    box = [torch.tensor([[2.0, 2, 10, 10]])]
    stages = [_selection([[1.0, 0, -1, 0]]), _selection([[0.5]], (1, 1), 64)]
    one = window_score_losses(stages, box, score_weight=1.0, budget_weight=1.0)
    two = window_score_losses(stages, box, score_weight=0.5, budget_weight=0.0)
    assert two["loss_window_score"].item() == pytest.approx(0.5 * one["loss_window_score"].item())
    assert two["loss_window_budget"] == 0


def test_padding_and_ignored_windows_teach_nothing():
    logits = torch.zeros(1, 4, requires_grad=True)
    selection = _selection(logits, valid=torch.tensor([[True, True, True, False]]))
    selection.logits = logits
    losses = window_score_losses(
        [selection],
        [torch.tensor([[2.0, 2, 10, 10]])],
        score_weight=1.0,
        budget_weight=1.0,
        ignore_boxes=[torch.tensor([[0.0, 0, 64, 32]])],  # the upper two windows
    )
    sum(losses.values()).backward()
    assert (logits.grad[0] != 0).tolist() == [True, False, True, False]


def test_find_window_selector():
    selector = nn.Identity()
    selector.selections = []
    assert find_window_selector(nn.Sequential(nn.Linear(1, 1), nn.Sequential(selector))) is selector
    assert find_window_selector(nn.Linear(1, 1)) is None
