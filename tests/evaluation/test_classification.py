import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sparsenet.errors import DatasetError
from sparsenet.evaluation.classification import evaluate_classifier


class _Lookup(nn.Linear):
    """Logits of a one-hot "image" are a row of a table."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__(*table.shape, bias=False)
        self.weight.data = table.T.clone()


def _loader(targets: list[int]) -> DataLoader:
    return DataLoader(TensorDataset(torch.eye(len(targets)), torch.tensor(targets)), 2)


def _evaluate(table, targets, **options):
    return evaluate_classifier(_Lookup(table), _loader(targets), quiet=True, **options)


def test_top_1_top_5_and_loss_over_uneven_batches():
    torch.manual_seed(0)
    table, targets = torch.randn(7, 9), [0, 8, 3, 3, 1, 2, 5]
    metrics = _evaluate(table, targets)
    order = table.argsort(1, descending=True)
    ranks = [order[i].tolist().index(target) for i, target in enumerate(targets)]
    assert metrics["top1"] == pytest.approx(100 * sum(r < 1 for r in ranks) / 7)
    assert metrics["top5"] == pytest.approx(100 * sum(r < 5 for r in ranks) / 7)
    assert 0 < metrics["top5"] < 100
    assert metrics["loss"] == pytest.approx(F.cross_entropy(table, torch.tensor(targets)).item())


def test_of_few_classes_all_are_among_the_first_five():
    metrics = _evaluate(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), [0, 1])
    assert metrics["top1"] == 50 and metrics["top5"] == 100


def test_classes_that_are_no_choice_are_left_out():
    table = torch.tensor([[5.0, 1.0, 0.0, 9.0], [5.0, 0.0, 1.0, 9.0]])
    assert _evaluate(table, [0, 1])["top1"] == 0
    assert _evaluate(table, [0, 1], class_numbers=[1, 2])["top1"] == 100


def test_leaves_evaluation_mode_and_needs_photos():
    model = _Lookup(torch.eye(2)).train()
    evaluate_classifier(model, _loader([0, 1]), quiet=True)
    assert not model.training
    with pytest.raises(DatasetError, match="at least one photo"):
        evaluate_classifier(model, [], quiet=True)
