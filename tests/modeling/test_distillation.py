import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparsenet.errors import ConfigError
from sparsenet.modeling.losses.distillation import ClassifierLoss


class _Teacher(nn.Module):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return self.logits * images.mean()


IMAGES = torch.ones(2, 3, 4, 4)
LOGITS = torch.tensor([[1.0, 2.0, 0.0], [0.5, 0.0, 3.0]])
STUDENT = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 1.0]], requires_grad=True)
TEACHER = torch.tensor([[0.0, 0.0, 4.0], [3.0, 1.0, 0.0]])
TARGETS = torch.tensor([1, 2])


def test_without_a_teacher_it_is_the_criterion():
    loss = ClassifierLoss(nn.CrossEntropyLoss())
    assert loss(IMAGES, LOGITS, TARGETS) == F.cross_entropy(LOGITS, TARGETS)


def test_hard_distillation_is_cross_entropy_with_the_teachers_class():
    loss = ClassifierLoss(nn.CrossEntropyLoss(), _Teacher(TEACHER), kind="hard", alpha=0.25)
    expected = 0.75 * F.cross_entropy(LOGITS, TARGETS)
    expected += 0.25 * F.cross_entropy(STUDENT, torch.tensor([2, 0]))
    torch.testing.assert_close(loss(IMAGES, (LOGITS, STUDENT), TARGETS), expected)


def test_soft_distillation_is_written_out():
    loss = ClassifierLoss(
        nn.CrossEntropyLoss(), _Teacher(TEACHER), kind="soft", alpha=1.0, temperature=2.0
    )
    student, teacher = (STUDENT / 2).softmax(1), (TEACHER / 2).softmax(1)
    expected = 4 * (teacher * (teacher.log() - student.log())).sum() / 6
    torch.testing.assert_close(loss(IMAGES, (LOGITS, STUDENT), TARGETS), expected)


def test_the_teacher_does_not_learn():
    teacher = _Teacher(TEACHER.clone())
    loss = ClassifierLoss(nn.CrossEntropyLoss(), teacher, kind="soft").train()
    loss(IMAGES, (LOGITS, STUDENT), TARGETS).backward()
    assert teacher.logits.grad is None and STUDENT.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{"kind": "warm"}, {"alpha": 1.5}, {"temperature": 0.0}])
def test_values_that_cannot_work_are_named(options):
    with pytest.raises(ConfigError, match="must be one of none, soft, hard, with alpha"):
        ClassifierLoss(nn.CrossEntropyLoss(), _Teacher(TEACHER), **options)
