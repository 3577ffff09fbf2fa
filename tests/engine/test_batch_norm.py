"""MODEL.BATCH_NORM: one kind of batch norm for a whole model."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from torch import nn

from sparsenet.config import load_config
from sparsenet.engine import Trainer
from sparsenet.engine.batch_norm import set_batch_norms, share_statistics
from sparsenet.engine.processes import run_processes
from sparsenet.engine.trainer import distribute
from sparsenet.errors import ConfigError

R18 = (
    "MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "SparseRCNN", "MODEL.RESNETS.DEPTH", "18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.BACKBONE.FREEZE_AT", "2",
    "MODEL.SparseRCNN.NUM_HEADS", "1", "MODEL.SparseRCNN.DIM_DYNAMIC", "8",
)  # fmt: skip
CONFIG = "configs/coco/Base-SparseRCNN.yaml"


def _norms(model: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def test_the_key_switches_all_norms_of_a_detector_but_the_frozen_ones() -> None:
    as_configured = Trainer.build_model(load_config(CONFIG, R18))
    switched = Trainer.build_model(load_config(CONFIG, [*R18, "MODEL.BATCH_NORM", "BN"]))
    total = _norms(as_configured, FrozenBatchNorm2d)
    frozen = _norms(switched.backbone.bottom_up.stem, FrozenBatchNorm2d)
    frozen += _norms(switched.backbone.bottom_up.res2, FrozenBatchNorm2d)
    assert frozen == 5 and _norms(switched, FrozenBatchNorm2d) == frozen
    assert _norms(switched, nn.BatchNorm2d) == total - frozen
    assert set(as_configured.state_dict()) <= set(switched.state_dict())


def test_live_norms_of_frozen_layers_become_frozen_if_all_are() -> None:
    layers = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
    model = nn.Sequential(*layers).requires_grad_(False)
    assert isinstance(set_batch_norms(model, "BN")[1], nn.BatchNorm2d)
    assert isinstance(set_batch_norms(model, "FrozenBN")[1], FrozenBatchNorm2d)


def test_values_survive_and_evaluation_is_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4)))
    for norm in (model[1], model[2][0]):
        norm.running_mean.uniform_(), norm.running_var.uniform_(0.5, 2)
    images = torch.rand(2, 3, 5, 5)
    expected = model.eval()(images)
    frozen = set_batch_norms(model, "FrozenBN")
    assert _norms(frozen, nn.BatchNorm2d) == 0
    torch.testing.assert_close(frozen.train()(images), expected)
    thawed = set_batch_norms(frozen, "BN").eval()
    assert _norms(thawed, nn.BatchNorm2d) == 2
    torch.testing.assert_close(thawed(images), expected)


def test_unknown_kinds_and_synchronised_norms_on_a_cpu_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be one of FrozenBN, BN, SyncBN or empty"):
        set_batch_norms(nn.Linear(1, 1), "GN")
    with pytest.raises(ConfigError, match="SyncBN needs GPUs"):
        set_batch_norms(nn.Linear(1, 1), "SyncBN")


def test_norms_that_do_more_are_refused() -> None:
    timm_layers = pytest.importorskip("timm.layers")
    with pytest.raises(ConfigError, match=r"got a BatchNormAct2d.*set MODEL.TIMM.NORM instead"):
        set_batch_norms(nn.Sequential(timm_layers.BatchNormAct2d(4)), "FrozenBN")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="SyncBN needs a GPU")
def test_synchronised_norms() -> None:
    model = set_batch_norms(nn.Sequential(nn.BatchNorm2d(2)).cuda(), "SyncBN")
    assert isinstance(model[0], nn.SyncBatchNorm)


def _shared_mean() -> list[float]:
    model = nn.Sequential(nn.BatchNorm2d(1))
    model[0].running_mean.fill_(comm.get_rank() + 1)
    share_statistics(model)
    return comm.all_gather(model[0].running_mean.item())


def test_one_process_keeps_its_statistics() -> None:
    assert _shared_mean() == [1]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="counts processes on the CPU")
def test_all_processes_have_the_statistics_of_the_first() -> None:
    assert run_processes(_shared_mean, 2) == [1, 1]


def test_processes_on_cpus_cannot_share_a_batch_norm(monkeypatch) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match="synchronised between processes need GPUs"):
        distribute(nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4)))
