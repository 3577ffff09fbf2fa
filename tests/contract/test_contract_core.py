"""The active Detectron2, real or lite, does what the real one did when it was recorded."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import core_model_cases, core_training_cases
from contract.active import lite_only
from contract.core_inputs import BOXES
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, configurable, get_cfg, global_cfg, set_global_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.visualizer import Visualizer

RECORDS = Path(__file__).parent / "records"
VALUES = json.loads((RECORDS / "core_values.json").read_text())
ARRAYS = np.load(RECORDS / "core_values.npz")


def assert_same(actual: Any, expected: Any, path: str) -> None:
    """Equal structure; numbers equal to float32 accuracy."""
    if isinstance(expected, dict):
        assert set(actual) == set(expected), path
        for key in expected:
            assert_same(actual[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), path
        for i, (a, e) in enumerate(zip(actual, expected)):
            assert_same(a, e, f"{path}/{i}")
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=1e-5, abs=1e-7, nan_ok=True), path
    else:
        assert actual == expected, path


CASES = core_model_cases.CASES + core_training_cases.CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_equals_the_record(case):
    actual, name = case(), case.__name__
    arrays = {key: value for key, value in actual.items() if isinstance(value, np.ndarray)}
    values = {key: value for key, value in actual.items() if key not in arrays}
    assert_same(json.loads(json.dumps(values)), VALUES[name], name)
    recorded = {key.split("/", 1)[1] for key in ARRAYS.files if key.startswith(f"{name}/")}
    assert set(arrays) == recorded
    for key, value in arrays.items():
        expected = ARRAYS[f"{name}/{key}"]
        np.testing.assert_allclose(value, expected, rtol=2e-4, atol=2e-5, err_msg=f"{name}/{key}")


class _Head(torch.nn.Module):
    @configurable
    def __init__(self, width, *, depth=2, name="head"):
        super().__init__()
        self.values = (width, depth, name)

    @classmethod
    def from_config(cls, cfg, input_width):
        return {"width": input_width, "depth": cfg.DEPTH}


def test_configurable_class():
    cfg = CfgNode({"DEPTH": 7})
    assert _Head(3).values == (3, 2, "head")
    assert _Head(3, depth=4, name="x").values == (3, 4, "x")
    assert _Head(cfg, 5).values == (5, 7, "head")
    assert _Head(cfg, input_width=5, name="y", depth=1).values == (5, 1, "y")
    assert _Head(cfg=cfg, input_width=6).values == (6, 7, "head")


def test_configurable_function():
    @configurable(from_config=lambda cfg, **kwargs: {"a": cfg.A, **kwargs})
    def add(a, b=1):
        return a + b

    assert add(1, b=2) == 3
    assert add(CfgNode({"A": 10}), b=5) == 15
    assert callable(add.from_config)


def test_configurable_misuse():
    class NoTranslation:
        @configurable
        def __init__(self, a):
            self.a = a

    class NotAClassmethod:
        @configurable
        def __init__(self, a):
            self.a = a

        def from_config(self, cfg):
            return {}

    class WrongName:
        @configurable
        def __init__(self, a):
            self.a = a

        @classmethod
        def from_config(cls, config):
            return {"a": 1}

    with pytest.raises(AttributeError, match="from_config"):
        NoTranslation(CfgNode())
    with pytest.raises(TypeError, match="classmethod"):
        NotAClassmethod(CfgNode())
    with pytest.raises(TypeError, match="first argument"):
        WrongName(CfgNode())
    with pytest.raises(AssertionError, match="configurable"):
        configurable(lambda self: None)


def test_global_cfg():
    cfg = get_cfg()
    cfg.GLOBAL.HACK = 5.0
    set_global_cfg(cfg)
    assert global_cfg.GLOBAL.HACK == 5.0
    assert get_cfg().GLOBAL.HACK == 1.0


def test_build_model_uses_registry_and_device():
    @META_ARCH_REGISTRY.register()
    class RegisteredModel(torch.nn.Module):
        def __init__(self, cfg):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(cfg.SEED))

    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE, cfg.SEED = "RegisteredModel", "cpu", 3
    assert build_model(cfg).weight.shape == (3,)
    cfg.MODEL.META_ARCHITECTURE = "NoSuchModel"
    with pytest.raises(KeyError, match="NoSuchModel"):
        build_model(cfg)


def test_frozen_norm_reads_files_without_statistics():
    norm = FrozenBatchNorm2d(2)
    norm.load_state_dict({"weight": torch.tensor([2.0, 3.0]), "bias": torch.ones(2)})
    assert norm.running_mean.tolist() == [0, 0] and norm.running_var.tolist() == [1, 1]
    assert not any(True for _ in norm.parameters())


def test_frozen_norm_gradient_reaches_the_input():
    norm = FrozenBatchNorm2d(3)
    norm.weight.fill_(2.0)
    x = torch.randn(1, 3, 2, 2, requires_grad=True)
    norm(x).sum().backward()
    assert torch.allclose(x.grad, torch.full_like(x, 2.0))


def test_comm_alone():
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank()) == (1, 0, 0)
    assert comm.get_local_size() == 1 and comm.is_main_process()
    assert comm.all_gather("a") == ["a"] and comm.gather({"b": 1}) == [{"b": 1}]
    losses = {"x": torch.ones(())}
    assert comm.reduce_dict(losses) is losses
    comm.synchronize()
    np.random.seed(0)
    first = comm.shared_random_seed()
    np.random.seed(0)
    assert comm.shared_random_seed() == first


_WORKER = """
import sys, torch, torch.distributed as dist
import sparsenet
from detectron2.utils import comm
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
comm.create_local_process_group(1)
assert (comm.get_world_size(), comm.get_rank()) == (2, rank)
assert (comm.get_local_rank(), comm.get_local_size()) == (0, 1)
assert comm.is_main_process() == (rank == 0)
assert comm.all_gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
assert comm.gather(rank) == ([0, 1] if rank == 0 else [])
assert comm.gather(rank, dst=1) == ([0, 1] if rank == 1 else [])
losses = {name: torch.tensor(value) for name, value in (("b", 1.0 + rank), ("a", 10.0 * rank))}
mean = comm.reduce_dict(losses)
assert rank == 1 or (mean["a"].item(), mean["b"].item()) == (5.0, 1.5)
seeds = comm.all_gather(comm.shared_random_seed())
assert seeds[0] == seeds[1]
comm.synchronize()
dist.destroy_process_group()  # gloo's threads may else abort the interpreter's end
"""


def test_comm_two_processes(tmp_path):
    command = [sys.executable, "-c", _WORKER]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors


def test_seed_all_rng_repeats():
    draws = []
    for _ in range(2):
        seed_all_rng(11)
        draws.append((np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]


def _zoo_pickle(path: Path, weights: dict) -> str:
    content = {"model": weights, "__author__": "contract", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=2))
    return str(path)


def test_zoo_pickle_is_matched_by_name(tmp_path, caplog):
    model = torch.nn.ModuleDict({"net": torch.nn.Linear(3, 2)})
    weights = {"weight": np.full((2, 3), 7, np.float32), "fc": np.ones(4, np.float32)}
    with caplog.at_level("WARNING"):
        DetectionCheckpointer(model).load(_zoo_pickle(tmp_path / "a.pkl", weights))
    assert (model["net"].weight == 7).all()
    assert "fc" in caplog.text and "net.bias" in caplog.text


def test_wrong_shapes_are_skipped_and_told(tmp_path, caplog):
    model = torch.nn.Linear(3, 2)
    before = model.weight.clone()
    torch.save({"weight": torch.zeros(5, 5), "bias": torch.ones(2)}, tmp_path / "a.pth")
    with caplog.at_level("WARNING"):
        DetectionCheckpointer(model).load(str(tmp_path / "a.pth"))
    assert torch.equal(model.weight, before) and (model.bias == 1).all()
    assert "weight" in caplog.text and "(5, 5)" in caplog.text


class _Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


@lite_only
def test_pickles_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = _zoo_pickle(tmp_path / "a.pkl", {"weight": _Trap()})
    checkpointer = DetectionCheckpointer(torch.nn.Linear(1, 1))
    with pytest.raises(pickle.UnpicklingError, match="could run code"):
        checkpointer.load(path)
    torch.save({"model": _Trap()}, tmp_path / "a.pth")
    with pytest.raises(pickle.UnpicklingError):
        checkpointer.load(str(tmp_path / "a.pth"))
    assert not (tmp_path / "trapped").exists()


@lite_only
def test_failed_save_keeps_the_old_file(tmp_path):
    class Broken:
        def state_dict(self):
            return {"f": lambda: None}  # cannot be pickled

    checkpointer = DetectionCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    checkpointer.save("model_a")
    before = (tmp_path / "model_a.pth").read_bytes()
    checkpointer.add_checkpointable("broken", Broken())
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpointer.save("model_a")
    assert (tmp_path / "model_a.pth").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_a.pth"]


@lite_only
@pytest.mark.parametrize(
    "statement",
    [
        "from detectron2.modeling import PanopticFPN",
        "from detectron2.structures import Keypoints",
        "from detectron2 import model_zoo",
        "import detectron2.export",
        "import detectron2.modeling; detectron2.modeling.CascadeROIHeads",
        "from detectron2.layers import get_norm; get_norm('naiveSyncBN', 4)",
    ],
)
def test_what_lite_lacks_says_how_to_get_it(statement):
    with pytest.raises(NotImplementedError, match=r"sparsenet\[detectron2\]"):
        exec(statement, {})


@lite_only
def test_lite_refuses_what_it_would_ignore(tmp_path):
    (tmp_path / "old.yaml").write_text("MODEL: {WEIGHT: a.pth}\n")
    (tmp_path / "code.yaml").write_text("VERSION: 2\nSEED: !!python/object/apply:eval ['1']\n")
    for name in ("old.yaml", "code.yaml"):
        with pytest.raises(NotImplementedError, match="Install the real Detectron2"):
            get_cfg().merge_from_file(str(tmp_path / name))
    points = Instances((4, 4), pred_boxes=Boxes(BOXES[:1]), pred_keypoints=torch.zeros(1, 2, 3))
    with pytest.raises(NotImplementedError, match="pred_keypoints"):
        Visualizer(np.zeros((4, 4, 3))).draw_instance_predictions(points)


@lite_only
def test_absent_names_are_absent():
    import detectron2.modeling

    assert not hasattr(detectron2.modeling, "CascadeROIHeads")
    with pytest.raises(ImportError):  # so that `try: import ... except ImportError` works
        import detectron2.export
