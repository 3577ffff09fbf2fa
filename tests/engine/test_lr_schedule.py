"""The polynomial schedule; all others are Detectron2's."""

import pytest
import torch

from sparsenet.config import load_config
from sparsenet.engine.lr_schedule import build_schedule

SOLVER = ["SOLVER.MAX_ITER", "10", "SOLVER.BASE_LR", "0.2", "SOLVER.BASE_LR_END", "0.02",
          "SOLVER.WARMUP_FACTOR", "0.1", "SOLVER.STEPS", "()"]  # fmt: skip


def rates(*opts: str) -> list[float]:
    cfg = load_config(None, [*SOLVER, *opts])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], cfg.SOLVER.BASE_LR)
    schedule = build_schedule(cfg, optimizer)
    found = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_polynomial_decay_to_the_end() -> None:
    opts = ("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.WARMUP_ITERS", "0")
    expected = [0.02 + 0.18 * (1 - i / 10) ** 0.9 for i in range(10)]
    assert rates(*opts) == pytest.approx(expected)


def test_polynomial_decay_after_a_warm_up() -> None:
    opts = ("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.WARMUP_ITERS", "4")
    found = rates(*opts)
    assert found[0] == pytest.approx(0.02) and found[:5] == sorted(found[:5])
    assert found[4:] == pytest.approx([0.02 + 0.18 * (1 - i / 10) ** 0.9 for i in range(4, 10)])


def test_other_schedules_are_detectron2s() -> None:
    opts = ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.WARMUP_ITERS", "0")
    assert rates(*opts, "SOLVER.STEPS", "(5,)") == pytest.approx([0.2] * 5 + [0.02] * 5)


def test_the_whole_decay_after_a_warm_up() -> None:
    opts = ("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.WARMUP_ITERS", "5")
    found = rates(*opts, "SOLVER.RESCALE_INTERVAL", "True")
    assert found[5:] == pytest.approx([0.02 + 0.18 * (1 - i / 5) ** 0.9 for i in range(5)])
