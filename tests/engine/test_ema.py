"""The moving average of the weights: arithmetic, evaluation, checkpoints, resuming."""

from pathlib import Path

import pytest
import torch
from detectron2.engine import SimpleTrainer
from small_sparse_rcnn import small_cfg, training_item
from torch import nn

from sparsenet.engine import Trainer
from sparsenet.engine.checkpoint import SafeCheckpointer
from sparsenet.engine.ema import EMAHook, ema_decay
from sparsenet.errors import ConfigError


class Regression(nn.Module):
    """Fits a line; a batch norm stands for floating and integer buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.layer = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layer(self.norm(x)) - 1).square().mean()}


def _trainer(folder: Path) -> tuple[SimpleTrainer, EMAHook, SafeCheckpointer]:
    torch.manual_seed(0)
    model, data = Regression(), list(torch.rand(6, 8, 3))
    trainer = SimpleTrainer(model, data * 2, torch.optim.SGD(model.parameters(), 0.1))
    hook = EMAHook(model, decay=0.9, ramp=4.0)
    trainer.register_hooks([hook])
    checkpointer = SafeCheckpointer(model, str(folder), trainer=trainer)
    checkpointer.read_weights = lambda: hook.average
    return trainer, hook, checkpointer


def test_the_average_is_the_recursion(tmp_path: Path) -> None:
    trainer, hook, _ = _trainer(tmp_path)
    expected = trainer.model.layer.weight.detach().clone()
    for step in range(1, 4):
        trainer.train(step - 1, step)
        decay = ema_decay(step, 0.9, 4.0)
        expected = decay * expected + (1 - decay) * trainer.model.layer.weight.detach()
        torch.testing.assert_close(hook.average["layer.weight"], expected)
    assert hook.average["norm.num_batches_tracked"] == 3
    assert not torch.equal(hook.average["norm.running_mean"], trainer.model.norm.running_mean)


def test_inside_averaged_the_model_has_the_average_and_errors_give_it_back(tmp_path: Path) -> None:
    trainer, hook, _ = _trainer(tmp_path)
    trainer.train(0, 3)
    before = trainer.model.layer.weight.detach().clone()
    with pytest.raises(RuntimeError, match="evaluation"), hook.averaged():
        assert torch.equal(trainer.model.layer.weight, hook.average["layer.weight"])
        raise RuntimeError("evaluation failed")
    assert torch.equal(trainer.model.layer.weight, before)
    assert not torch.equal(before, hook.average["layer.weight"])


def test_a_checkpoint_holds_the_average_and_resumes_exactly(tmp_path: Path) -> None:
    trainer, hook, checkpointer = _trainer(tmp_path)
    trainer.train(0, 3)
    checkpointer.save("model_0000002")
    average = {key: value.clone() for key, value in hook.average.items()}
    trainer._data_loader_iter_obj = iter(list(trainer.data_loader)[3:])
    trainer.train(3, 5)

    reader = Regression()
    SafeCheckpointer(reader).load(str(tmp_path / "model_0000002.pth"))
    for key, value in reader.state_dict().items():
        assert torch.equal(value, average[key]), key

    resumed, resumed_hook, resumed_checkpointer = _trainer(tmp_path)
    resumed_checkpointer.resume_or_load("", resume=True)
    assert resumed_hook.num_updates == 3
    resumed._data_loader_iter_obj = iter(list(resumed.data_loader)[3:])
    resumed.train(3, 5)
    assert torch.equal(resumed.model.layer.weight, trainer.model.layer.weight)
    for key, value in hook.average.items():
        assert torch.equal(resumed_hook.average[key], value), key


class RecordingTrainer(Trainer):
    """Trains on one example and notes the weights that it evaluates."""

    evaluated: list[torch.Tensor] = []

    @classmethod
    def build_train_loader(cls, cfg):
        return [[training_item([[5.0, 5, 40, 60]])]] * cfg.SOLVER.MAX_ITER

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        cls.evaluated.append(model.init_proposal_features.weight.detach().clone())
        return {"bbox": {"AP": 1.0}}


def test_the_trainer_evaluates_and_saves_the_average(tmp_path: Path) -> None:
    cfg = small_cfg()
    cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD = str(tmp_path), 3, 2
    cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_ITERS = (), 0.01, 0
    cfg.SOLVER.EMA.ENABLED, cfg.SOLVER.EMA.DECAY, cfg.SOLVER.EMA.RAMP = True, 0.9, 1.0
    RecordingTrainer(cfg).train()
    checkpoint = torch.load(tmp_path / "model_final.pth", weights_only=True)
    key = "init_proposal_features.weight"
    live = checkpoint["trainer"]["hooks"]["EMAHook"]["training_weights"][key]
    first, last = RecordingTrainer.evaluated
    assert torch.equal(checkpoint["model"][key], last)
    assert not torch.equal(last, live) and not torch.equal(last, first)


def test_a_run_with_an_average_does_not_go_on_without(tmp_path: Path) -> None:
    cfg = small_cfg()
    cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = str(tmp_path), 1, ()
    cfg.SOLVER.EMA.ENABLED = True
    RecordingTrainer(cfg).train()
    cfg.SOLVER.EMA.ENABLED = False
    trainer = RecordingTrainer(cfg)
    with pytest.raises(ConfigError, match=r"SOLVER\.EMA\.ENABLED must be True to resume"):
        trainer.resume_or_load(resume=True)
    RecordingTrainer(cfg).resume_or_load(resume=False)


@pytest.mark.parametrize(("decay", "ramp"), [(1.0, 2000.0), (-0.1, 2000.0), (0.9, 0.0)])
def test_values_out_of_range(decay: float, ramp: float) -> None:
    with pytest.raises(ConfigError, match=r"SOLVER.EMA.DECAY must be in \[0, 1\)"):
        EMAHook(nn.Linear(1, 1), decay, ramp)
