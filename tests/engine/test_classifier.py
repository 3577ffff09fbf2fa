"""The training loop: what it writes, how it goes on, and what each option does."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

pytest.importorskip("timm", reason="schedules and clipping are timm's")

from timm.scheduler import create_scheduler_v2

from sparsenet.data.image_folder import build_eval_loader, build_train_loader
from sparsenet.engine.classifier import (
    ClassifierTrainer,
    LoopOptions,
    clip_gradients,
)
from sparsenet.errors import CheckpointError, ConfigError, NumericalError, OutputError
from sparsenet.modeling.losses.distillation import ClassifierLoss

FACTS = {"arch": "small", "class_names": ["a", "b"], "input_size": 4}


def _data(count: int = 16) -> TensorDataset:
    torch.manual_seed(5)
    targets = torch.arange(count) % 2
    return TensorDataset(torch.randn(count, 3, 4, 4) + targets.view(-1, 1, 1, 1), targets)


def _trainer(folder: Path, epochs: int = 4, facts=FACTS, mixup=None, **options):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1),
        nn.Linear(16, 2),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    scheduler, _ = create_scheduler_v2(
        optimizer, "cosine", num_epochs=4, warmup_epochs=1, warmup_lr=0.001, min_lr=0.0005,
        step_on_epochs=False, updates_per_epoch=4,
    )  # fmt: skip
    return ClassifierTrainer(
        model,
        optimizer,
        scheduler,
        ClassifierLoss(nn.CrossEntropyLoss()),
        LoopOptions(folder, epochs, quiet=True, **options),
        mixup=mixup,
        facts=facts,
    )


def _fit(trainer: ClassifierTrainer) -> dict[str, float]:
    return trainer.fit(build_train_loader(_data(), 4), build_eval_loader(_data(), 5))


def _read(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def test_files_after_training(tmp_path):
    trainer = _trainer(tmp_path, ema_decay=0.9, ema_ramp=2.0)
    best = _fit(trainer)
    rows = [json.loads(line) for line in (tmp_path / "train_log.txt").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3] and best in rows
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] and rows[-1]["val_top1"] > 60
    assert max(max(row["val_top1"], row["ema_top1"]) for row in rows) == max(
        best["val_top1"], best["ema_top1"]
    )
    last, saved = _read(tmp_path / "checkpoint.pth"), _read(tmp_path / "model_best.pth")
    assert last["epoch"] == 4 and last["history"] == rows and saved["metrics"] == best
    assert {key: saved[key] for key in FACTS} == {key: last[key] for key in FACTS} == FACTS
    assert list(tmp_path.glob("events.out.tfevents*")) and not list(tmp_path.glob("*.part*"))


def test_the_best_file_holds_the_weights_that_were_best(tmp_path):
    trainer = _trainer(tmp_path, ema_decay=0.9, ema_ramp=2.0)
    best = _fit(trainer)
    trainer.model.load_state_dict(_read(tmp_path / "model_best.pth")["model"])
    trainer.ema = None
    metrics = trainer._evaluate(build_eval_loader(_data(), 5))
    assert metrics["val_top1"] == max(best["val_top1"], best["ema_top1"])


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_resumed_run_ends_like_one_that_was_not_interrupted(tmp_path, ema_decay):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    _fit(_trainer(tmp_path / "whole", ema_decay=ema_decay))
    _fit(_trainer(tmp_path / "parts", epochs=2, ema_decay=ema_decay))
    resumed = _trainer(tmp_path / "parts", ema_decay=ema_decay)
    torch.rand(7)  # other random numbers than those of the first part
    resumed.resume(tmp_path / "parts" / "checkpoint.pth")
    _fit(resumed)
    whole, parts = (_read(tmp_path / name / "checkpoint.pth") for name in ("whole", "parts"))
    for rows in (whole["history"], parts["history"]):
        for row in rows:
            del row["seconds"]
    assert whole["history"] == parts["history"]
    for name in ("model", "ema"):
        torch.testing.assert_close(whole[name], parts[name], atol=0, rtol=0)
    torch.testing.assert_close(whole["optimizer"]["state"], parts["optimizer"]["state"])


def test_a_resumed_run_takes_rate_and_decay_of_the_new_recipe(tmp_path):
    _fit(_trainer(tmp_path, epochs=1))
    resumed, rates = _trainer(tmp_path, epochs=8), []
    for group in resumed.optimizer.param_groups:
        group["weight_decay"] = 0.3
    resumed.scheduler, _ = create_scheduler_v2(
        resumed.optimizer, "poly", num_epochs=8, warmup_epochs=0, min_lr=0.0,
        step_on_epochs=False, updates_per_epoch=4, decay_rate=1.0,
    )  # fmt: skip
    resumed.resume(tmp_path / "checkpoint.pth")
    step = resumed.optimizer.step
    resumed.optimizer.step = lambda: (rates.append(resumed.optimizer.param_groups[0]["lr"]), step())
    _fit(resumed)
    assert rates == pytest.approx([0.02 * (1 - k / 32) for k in range(4, 32)])  # 8 epochs of 4
    assert {group["weight_decay"] for group in resumed.optimizer.param_groups} == {0.3}


def test_the_best_weights_come_along_into_another_folder(tmp_path, caplog):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    _fit(_trainer(first, epochs=1))
    _trainer(second).resume(first / "checkpoint.pth")
    assert (second / "model_best.pth").read_bytes() == (first / "model_best.pth").read_bytes()
    assert not caplog.records
    (first / "model_best.pth").unlink()
    _trainer(second).resume(first / "checkpoint.pth")
    assert "waits for a better epoch" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("limit", [150, 1000])  # bytes: TensorBoard's events fit in the second
def test_a_full_disk_is_told_and_the_last_checkpoint_stays(tmp_path, limit):
    resource = pytest.importorskip("resource", reason="limits of files are POSIX's")
    _fit(_trainer(tmp_path, epochs=1))
    before = (tmp_path / "checkpoint.pth").read_bytes()
    trainer = _trainer(tmp_path)
    trainer.resume(tmp_path / "checkpoint.pth")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OutputError, match="must be written"):
            _fit(trainer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "checkpoint.pth").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_resume_refuses_what_is_not_its_checkpoint(tmp_path):
    _fit(_trainer(tmp_path, epochs=1))
    with pytest.raises(CheckpointError, match="of this model and recipe: class_names differ"):
        _trainer(tmp_path, facts={**FACTS, "class_names": ["b", "a"]}).resume(
            tmp_path / "checkpoint.pth"
        )
    with pytest.raises(CheckpointError, match="of this model and recipe: 'optimizer'"):
        _trainer(tmp_path).resume(tmp_path / "model_best.pth")
    with pytest.raises(CheckpointError, match="must be a file"):
        _trainer(tmp_path).resume(tmp_path / "none.pth")


def test_learning_rate_warms_up_and_falls_by_steps(tmp_path):
    trainer, rates = _trainer(tmp_path), []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda: (rates.append(trainer.optimizer.param_groups[0]["lr"]), step())
    _fit(trainer)
    assert len(rates) == 16 and rates[0] == 0.001
    assert rates[:5] == sorted(rates[:5]) and rates[4:] == sorted(rates[4:], reverse=True)
    expected = 0.0005 + 0.5 * 0.0195 * (1 + math.cos(math.pi * 15 / 16))
    assert rates[15] == pytest.approx(expected)


def test_mixed_images_have_soft_targets(tmp_path):
    seen = []

    def mixup(images, targets):
        soft = nn.functional.one_hot(targets, 2).float()
        seen.append(soft)
        return (images + images.flip(0)) / 2, (soft + soft.flip(0)) / 2

    _fit(_trainer(tmp_path, epochs=1, mixup=mixup))
    assert len(seen) == 4


def test_trains_in_bfloat16_and_keeps_float32_weights(tmp_path):
    trainer = _trainer(tmp_path, precision="bfloat16")
    assert _fit(trainer)["val_top1"] > 60
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_clipping_limits_what_its_mode_says():
    def gradients(mode: str) -> list[torch.Tensor]:
        model = nn.Linear(2, 2)
        nn.init.constant_(model.weight, 0.5)
        model.weight.grad, model.bias.grad = torch.full((2, 2), 3.0), torch.full((2,), 4.0)
        clip_gradients(model, 0.1, mode)
        return [model.weight.grad, model.bias.grad]

    assert torch.cat([g.flatten() for g in gradients("norm")]).norm().item() == pytest.approx(0.1)
    assert all((g == 0.1).all() for g in gradients("value"))
    weight, _ = gradients("agc")  # each unit: 0.1 of the norm of its weights
    torch.testing.assert_close(weight.norm(dim=1), torch.full((2,), 0.1 * 0.5**0.5))


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    trainer = _trainer(tmp_path)
    trainer.model[0].weight.data.fill_(float("nan"))
    with pytest.raises(NumericalError, match="became nan in epoch 0"):
        _fit(trainer)
    assert not (tmp_path / "checkpoint.pth").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"precision": "float8"}, "must be one of float32, bfloat16, float16"),
        ({"clip_mode": "hard"}, "one of norm, value, agc"),
        ({"epochs": 0}, "at least one epoch"),
        ({"clip": -1.0}, "not negative"),
    ],
)
def test_options_that_cannot_work_are_named(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        _trainer(tmp_path, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_float16_needs_a_gpu(tmp_path):
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        _trainer(tmp_path, precision="float16")
