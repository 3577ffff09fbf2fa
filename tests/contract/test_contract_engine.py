"""detectron2.engine, real or lite: the recorded numbers, and behaviour that both
share."""

import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contract.active import lite_only
from contract.data_cases import assert_same, jsonable, make_image, registered
from contract.engine_cases import (
    ContractModel,
    ContractTrainer,
    detected,
    make_trainer,
    trainer_cfg,
)
from contract.record_data_engine import ENGINE_CASES, RECORD
from detectron2.config import get_cfg
from detectron2.engine import (
    AMPTrainer,
    DefaultPredictor,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    create_ddp_model,
    default_setup,
    hooks,
    launch,
)
from detectron2.evaluation import COCOEvaluator

RECORDED = json.loads(RECORD.read_text())


@pytest.mark.parametrize("case", ENGINE_CASES, ids=lambda case: case.__name__)
def test_engine_does_what_was_recorded_with_the_real_one(case):
    assert_same(jsonable(case()), RECORDED[case.__name__])


# ---- the loop ---------------------------------------------------------------------------------


def test_hooks_run_in_order_around_each_step():
    calls = []

    class Recorder(HookBase):
        def __init__(self, name):
            self.name = name

        def __getattribute__(self, attribute):
            if attribute in ("before_train", "after_train", "before_step", "after_step"):
                calls.append((attribute, object.__getattribute__(self, "name")))
            return object.__getattribute__(self, attribute)

    trainer = make_trainer()
    trainer.register_hooks([Recorder("x"), None, Recorder("y")])
    trainer.train(4, 6)
    step = ["before_step", "after_step"]
    expected = ["before_train", *step, *step, "after_train"]
    assert calls == [(moment, name) for moment in expected for name in "xy"]
    assert (trainer.start_iter, trainer.iter, trainer.max_iter) == (4, 6, 6)
    with pytest.raises(AssertionError):
        trainer.register_hooks(["not a hook"])


def test_step_follows_the_gradient_of_the_sum_and_records_the_losses():
    trainer = make_trainer()
    seen = []
    trainer.register_hooks(
        [hooks.CallbackHook(after_step=lambda t: seen.append(t.storage.latest()))]
    )
    trainer.train(0, 1)
    assert trainer.model.weight.item() == pytest.approx(0.5 - 0.1 * (2 * 0.5 + 1))
    values = {name: value for name, (value, _) in seen[0].items() if "time" not in name}
    assert values == pytest.approx({"total_loss": 0.75, "a": 0.25, "b": 0.5})


@pytest.mark.parametrize(
    "options", [{"zero_grad_before_forward": True}, {"async_write_metrics": True}]
)
def test_options_do_not_change_the_steps(options):
    plain, other = make_trainer(), make_trainer(**options)
    plain.train(0, 3)
    other.train(0, 3)
    assert other.model.weight.item() == plain.model.weight.item()


def test_metrics_are_gathered_every_period():
    trainer = make_trainer(gather_metric_period=2)
    iterations = []

    def note(t):
        iterations.append(t.storage.latest().get("total_loss", (None, None))[1])

    trainer.register_hooks([hooks.CallbackHook(after_step=note)])
    trainer.train(0, 4)
    assert iterations == [None, 1, 1, 3]


def test_one_loss_may_be_a_tensor():
    trainer = make_trainer(lambda w, x: (w * x).sum())
    trainer.train(0, 1)
    assert trainer.model.weight.item() == pytest.approx(0.4)


def test_loss_that_is_not_finite_stops_training_before_the_step():
    trainer = make_trainer(lambda w, x: {"a": (w * math.inf).sum()})
    finished = []
    trainer.register_hooks([hooks.CallbackHook(after_train=lambda t: finished.append(t.iter))])
    with pytest.raises(FloatingPointError, match=r"(?s)inf.*0|0.*inf"):
        trainer.train(0, 5)
    assert trainer.model.weight.item() == 0.5 and finished == [0]


def test_model_in_eval_mode_is_refused():
    trainer = make_trainer()
    trainer.model.eval()
    with pytest.raises(AssertionError, match="eval"):
        trainer.train(0, 1)


def test_trainer_state_survives_with_its_hooks():
    class Counter(HookBase):
        count = 0

        def after_step(self):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    trainer = make_trainer()
    trainer.register_hooks([Counter()])
    trainer.train(0, 3)
    other = make_trainer()
    other.register_hooks([Counter()])
    other.load_state_dict(trainer.state_dict())
    assert other.iter == 3 and other._hooks[0].count == 3
    make_trainer().load_state_dict(trainer.state_dict())  # a hook less: a warning only


@pytest.mark.skipif(not torch.cuda.is_available(), reason="mixed precision needs CUDA")
def test_mixed_precision_steps_like_single(tmp_path):
    plain, amp = make_trainer(), make_trainer(trainer_class=AMPTrainer)
    for trainer in (plain, amp):
        trainer.model.cuda()
        trainer.data_loader = [torch.ones(1, device="cuda")] * 3
        trainer.train(0, 3)
    assert amp.model.weight.item() == pytest.approx(plain.model.weight.item(), abs=1e-3)
    assert "grad_scaler" in amp.state_dict()


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is available")
def test_mixed_precision_needs_cuda():
    with pytest.raises(AssertionError, match="CUDA"):
        make_trainer(trainer_class=AMPTrainer).train(0, 1)


def test_data_loader_can_be_replaced():
    trainer = make_trainer()
    trainer.train(0, 1)
    trainer.reset_data_loader(lambda: [torch.zeros(1)] * 3)
    before = trainer.model.weight.item()
    trainer.run_step = super(SimpleTrainer, trainer).run_step
    assert next(trainer._data_loader_iter).item() == 0 and trainer.model.weight.item() == before


# ---- defaults ---------------------------------------------------------------------------------


def test_setup_writes_config_and_log_and_seeds(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(tmp_path / "out"), 7
    config_file = tmp_path / "small.yaml"
    config_file.write_text("SEED: 7\n")
    default_setup(cfg, SimpleNamespace(config_file=str(config_file), eval_only=False))
    first = np.random.rand()
    default_setup(cfg, SimpleNamespace())
    assert np.random.rand() == first
    written = get_cfg()
    written.merge_from_file(str(tmp_path / "out" / "config.yaml"))
    assert (tmp_path / "out" / "config.yaml").read_text() == cfg.dump() and written.SEED == 7
    assert "small.yaml" in (tmp_path / "out" / "log.txt").read_text()


def test_trainer_without_evaluator_warns_and_returns_nothing(tmp_path, caplog):
    with registered():
        cfg = trainer_cfg(tmp_path, 1)
        model = ContractModel(cfg)
        logging.getLogger("detectron2").propagate = True
        with caplog.at_level(logging.WARNING):
            assert DefaultTrainer.test(cfg, model) == {}
        assert caplog.records
        ap = DefaultTrainer.test(cfg, model, COCOEvaluator("contract_tiny", output_dir=None))
        assert set(ap) == {"bbox"}
        with pytest.raises(AssertionError):
            DefaultTrainer.test(cfg, model, [])


def test_trainer_gives_the_inner_parts(tmp_path):
    with registered():
        trainer = ContractTrainer(trainer_cfg(tmp_path))
        assert len(next(iter(trainer.data_loader))) == 2
    assert isinstance(trainer.model, ContractModel)
    assert isinstance(trainer.optimizer, torch.optim.Optimizer)
    trainer.model = replaced = torch.nn.Linear(1, 1)
    assert trainer._trainer.model is replaced


def test_expected_results_are_verified_at_the_end(tmp_path):
    with registered():
        cfg = trainer_cfg(tmp_path, 1)
        cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP50", 0.0, 100.0]]
        assert "bbox" in ContractTrainer(cfg).train()
        cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP50", 300.0, 1.0]]
        with pytest.raises(SystemExit) as stopped:
            ContractTrainer(cfg).train()
    assert stopped.value.code == 1


def test_predictor_takes_bgr_and_returns_one_output(tmp_path):
    cfg = trainer_cfg(tmp_path)
    cfg.INPUT.FORMAT = "RGB"
    seen = []
    torch.save({"model": ContractModel(cfg).state_dict()}, tmp_path / "weights.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    predictor = DefaultPredictor(cfg)
    predictor.model.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    image = make_image(50, 80)
    image[:] = (0, 0, 200)  # red
    output = predictor(image)
    assert len(output["instances"]) == 1 and not predictor.model.training
    assert seen[0]["image"].shape == (3, 88, 140) and seen[0]["image"].dtype == torch.float32
    assert seen[0]["image"].mean((1, 2)).tolist() == [200, 0, 0]
    assert (seen[0]["height"], seen[0]["width"]) == (50, 80)
    assert predictor.metadata.name == "contract_tiny"


def test_ddp_is_for_several_processes_only():
    model = torch.nn.Linear(1, 1)
    assert create_ddp_model(model) is model


# ---- several processes ------------------------------------------------------------------------


def _fail():
    raise ZeroDivisionError("from the child")


@pytest.mark.slow
def test_errors_of_processes_surface():
    with pytest.raises(Exception, match="from the child"):
        launch(_fail, 2, dist_url="auto")


def test_one_process_runs_in_place():
    seen = []
    launch(seen.append, 1, args=(3,))
    launch(seen.append, 0, args=(4,))
    assert seen == [3, 4]


def test_auto_url_is_for_one_machine():
    with pytest.raises(AssertionError, match="auto"):
        launch(_fail, 1, num_machines=2, dist_url="auto")


# ---- lite's own promises ----------------------------------------------------------------------


@lite_only
def test_lite_resumes_a_checkpoint_of_2020(tmp_path):
    with registered():
        trainer = ContractTrainer(trainer_cfg(tmp_path, 2))
        trainer.train()
        new = torch.load(tmp_path / "model_final.pth", weights_only=False)
        old = {
            "model": new["model"],
            "optimizer": new["trainer"]["_trainer"]["optimizer"],
            "scheduler": new["trainer"]["hooks"]["LRScheduler"],
            "iteration": 1,
        }
        torch.save(old, tmp_path / "model_final.pth")
        resumed = ContractTrainer(trainer_cfg(tmp_path, 5))
        resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    assert resumed.scheduler.last_epoch == trainer.scheduler.last_epoch


@lite_only
def test_lite_refuses_what_it_lacks(tmp_path):
    with registered():
        cfg = trainer_cfg(tmp_path)
        cfg.TEST.PRECISE_BN.ENABLED = True
        with pytest.raises(NotImplementedError, match=r"PRECISE_BN.*pip install"):
            DefaultTrainer(cfg)
        with pytest.raises(NotImplementedError, match="keypoints"):
            COCOEvaluator("contract_tiny", ("bbox", "keypoints"))
        with pytest.raises(NotImplementedError, match="keypoints"):
            COCOEvaluator("contract_tiny", kpt_oks_sigmas=[0.1])
        evaluator = COCOEvaluator("contract_tiny")
        with pytest.raises(NotImplementedError, match="proposals"):
            evaluator.process([{"image_id": 1}], [{"proposals": None}])
        output = detected([[0.0, 0, 5, 5]], [0.5], [0])
        output["instances"].pred_keypoints = torch.zeros(1, 17, 3)
        with pytest.raises(NotImplementedError, match="pred_keypoints"):
            evaluator.process([{"image_id": 1}], [output])
    with pytest.raises(NotImplementedError, match="LazyConfig"):
        default_setup({"OUTPUT_DIR": ""}, SimpleNamespace())
    with pytest.raises(NotImplementedError, match="PreciseBN"):
        _ = hooks.PreciseBN
    with pytest.raises(NotImplementedError, match="LVISEvaluator"):
        from detectron2.evaluation import LVISEvaluator  # noqa: F401
