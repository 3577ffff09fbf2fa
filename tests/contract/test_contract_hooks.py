"""detectron2.engine.hooks, real or lite: behaviour that both share."""

import math

import pytest
import torch
from contract.active import lite_only
from contract.engine_cases import make_trainer
from detectron2.engine import hooks
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.param_scheduler import LinearParamScheduler


def test_eval_hook_runs_each_period_and_after_training_only():
    iterations = []
    trainer = make_trainer()

    def evaluate():
        iterations.append(trainer.iter)
        return {"bbox": {"AP": 50 + trainer.iter}, "speed": 2}

    latest = []
    trainer.register_hooks(
        [
            hooks.EvalHook(2, evaluate),
            hooks.CallbackHook(after_train=lambda t: latest.append(t.storage.latest())),
        ]
    )
    trainer.train(0, 4)
    assert iterations == [1, 4]
    assert latest[0]["bbox/AP"][0] == 54 and latest[0]["speed"][0] == 2


def test_eval_hook_refuses_what_is_not_a_number():
    trainer = make_trainer()
    trainer.register_hooks([hooks.EvalHook(0, lambda: {"bbox": {"AP": "high"}})])
    with pytest.raises(ValueError, match="high"):
        trainer.train(0, 1)


def best_run(tmp_path, values, mode="max"):
    trainer = make_trainer()
    checkpointer = Checkpointer(trainer.model, str(tmp_path), trainer=trainer)
    queue = list(values)
    trainer.register_hooks(
        [
            hooks.PeriodicCheckpointer(checkpointer, 1),
            hooks.EvalHook(1, lambda: {"m": queue.pop(0)}),
            hooks.BestCheckpointer(1, checkpointer, "m", mode, file_prefix="best"),
        ]
    )
    trainer.train(0, len(values))
    return torch.load(tmp_path / "best.pth", weights_only=False)["iteration"]


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [((1, 3, 2), "max", 1), ((math.nan, 3, 2), "max", 1), ((5, 3, 2), "min", 3)],
)
def test_best_checkpoint_is_that_of_the_best_value(tmp_path, values, mode, best):
    assert best_run(tmp_path, values, mode) == best


@lite_only
def test_lite_best_checkpoint_leaves_the_last_one_alone(tmp_path):
    best_run(tmp_path, (1, 3, 2))
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_lr_hook_accepts_a_param_scheduler_and_records_the_rate():
    trainer = make_trainer()
    rates = []
    trainer.register_hooks(
        [
            hooks.LRScheduler(scheduler=LinearParamScheduler(1, 0)),
            hooks.CallbackHook(after_step=lambda t: rates.append(t.storage.latest()["lr"][0])),
        ]
    )
    trainer.train(0, 4)
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])


@pytest.mark.parametrize(
    ("groups", "expected"),
    [([(1, 0.1), (3, 0.2), (2, 0.3)], 1), ([(1, 0.1), (1, 0.2), (1, 0.2)], 1), ([(1, 0.1)], 0)],
)
def test_recorded_rate_is_that_of_the_largest_or_commonest_group(groups, expected):
    optimizer = torch.optim.SGD(
        [{"params": [torch.zeros(1) for _ in range(n)], "lr": lr} for n, lr in groups], lr=1
    )
    assert hooks.LRScheduler.get_best_param_group_id(optimizer) == expected
