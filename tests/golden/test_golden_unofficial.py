"""Recorded numbers of the unofficial port: overlaps, letterbox, EMA, schedules."""

import math

import pytest
import torch
from detectron2.solver import build_lr_scheduler
from golden_data import load_golden

from sparsenet.config import load_config
from sparsenet.engine.ema import ema_decay
from sparsenet.ops.boxes import BOX_SIMILARITIES, paired_box_loss

pytestmark = pytest.mark.golden
NAME = "sparsercnn_unofficial.npz"


@pytest.mark.parametrize("kind", BOX_SIMILARITIES)
def test_box_similarities_and_losses(kind):
    golden = load_golden(NAME)
    a, b = (torch.from_numpy(golden[f"box_{n}"]) for n in "ab")
    for name, value in (
        ("sim", BOX_SIMILARITIES[kind](a, b)),
        ("loss", paired_box_loss(a, b, kind)),
    ):
        expected = torch.from_numpy(golden[f"{name}_{kind}"])
        # The port gives infinite losses for boxes apart and NaN for equal ones.
        is_defined = expected.isfinite()
        assert is_defined.sum() >= 8 and value.isfinite().all()
        torch.testing.assert_close(value[is_defined], expected[is_defined], atol=2e-6, rtol=1e-5)
    assert math.isclose(paired_box_loss(a[:1], a[:1], kind).item(), 0, abs_tol=1e-6)


def test_decay_of_the_moving_average():
    golden = load_golden(NAME)
    decays = [ema_decay(int(n), 0.9999, 2000.0) for n in golden["ema_updates"]]
    assert decays == pytest.approx(golden["ema_decay"].tolist(), rel=1e-6)


def _scheduled(opts, max_iter, wanted):
    """Learning rates at the iterations ``wanted`` of a schedule of ``SOLVER``."""
    cfg = load_config(None, ["SOLVER.BASE_LR", "2.5e-5", "SOLVER.MAX_ITER", str(max_iter), *opts])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    optimizer.step()  # torch warns where a schedule goes ahead of its optimiser
    rates = []
    for iteration in wanted:
        scheduler.last_epoch = iteration - 1
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_warm_up_and_multistep():
    golden = load_golden(NAME)
    per_epoch = 7330
    wanted = [epoch * per_epoch + it for it, epoch in golden["lr_ite_epoch"].tolist()]
    opts = (
        "SOLVER.STEPS", f"({27 * per_epoch}, {33 * per_epoch})", "SOLVER.WARMUP_FACTOR", "0.01",
        "SOLVER.WARMUP_ITERS", "1000",
    )  # fmt: skip
    rates = _scheduled(opts, 36 * per_epoch, wanted)
    assert rates == pytest.approx(golden["lr_vals"].tolist(), rel=1e-6)


def test_warm_up_and_cosine():
    """Two steps an epoch: a warm-up of one epoch, then the port's first half wave, to epoch 27."""
    opts = (
        "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", "2.5e-6",
        "SOLVER.WARMUP_FACTOR", "0.0", "SOLVER.WARMUP_ITERS", "2",
        "SOLVER.RESCALE_INTERVAL", "True",
    )  # fmt: skip
    rates = _scheduled(opts, 54, range(54))
    assert rates == pytest.approx(load_golden(NAME)["cos_vals"][:54].tolist(), rel=1e-6, abs=1e-12)
