"""Whole detectors and heads by part, on the small Sparse R-CNN of the tests."""

import pytest
import torch
from fvcore.nn import parameter_count
from small_sparse_rcnn import small_cfg, small_model, training_item
from torch import nn

from sparsenet.analysis.detector_speed import (
    STEPS,
    DetectorOptions,
    StepTimer,
    measure_detectors,
)
from sparsenet.analysis.detector_tables import detector_table, head_table, training_table
from sparsenet.analysis.head_speed import load_peer, measure_heads
from sparsenet.analysis.parts import by_part
from sparsenet.errors import CheckpointError, ConfigError
from sparsenet.modeling.head.dynamic_head import DynamicHead

OPTIONS = DetectorOptions(torch.device("cpu"), repetitions=2, quiet=True)
BATCH = [training_item([[4, 4, 30, 30]])]


@pytest.mark.parametrize("proposals", ["learned", "dense"])
def test_the_steps_fill_the_whole(proposals: str) -> None:
    models = {"small": small_model(PROPOSAL_INIT=proposals)}
    (record,) = measure_detectors(models, {"small": BATCH}, OPTIONS)
    assert tuple(record["parts_s"]) == STEPS
    assert record["parts_s"]["neck"] == 0  # the tests' backbone has none
    assert all(record["parts_s"][step] > 0 for step in STEPS if step != "neck")
    gflops = record["gflops"]
    assert gflops["backbone"] + gflops["neck"] + gflops["head"] == pytest.approx(gflops["total"])
    assert "small" in detector_table([record])


def test_a_training_step() -> None:
    model = small_model()
    (record,) = measure_detectors({"a": model}, {"a": BATCH}, OPTIONS, is_training=True)
    assert record["peak_bytes"] > 0 and "| a" in training_table([record])
    assert all(p.grad is not None for p in model.head.parameters())


def test_a_model_without_a_backbone() -> None:
    with pytest.raises(ConfigError, match="`backbone`, which Linear lacks"):
        StepTimer(nn.Linear(1, 1), OPTIONS.device)


def test_the_same_head_as_a_peer_differs_by_nothing() -> None:
    peer = load_peer("sparsenet.modeling.head.dynamic_head:DynamicHead")
    assert peer is DynamicHead
    records = measure_heads(small_cfg(), small_model(), BATCH, peer, OPTIONS)
    assert [(r["head"], r["mode"]) for r in records] == [
        (head, mode) for head in ("ours", "peer") for mode in ("inference", "training")
    ]
    assert {r["difference"] for r in records} == {0.0}
    assert head_table(records).count(" x ") == 2


@pytest.mark.parametrize("name", ["no.such.module:Head", "torch:no_such_head", "torch", ""])
def test_a_peer_that_does_not_exist(name: str) -> None:
    with pytest.raises(ConfigError, match="MODULE:CALLABLE"):
        load_peer(name)


def test_a_peer_with_other_parameters() -> None:
    with pytest.raises(CheckpointError, match="must take the weights"):
        measure_heads(small_cfg(), small_model(), BATCH, lambda *_: nn.Linear(2, 2), OPTIONS)


def test_parts_of_parameters_add_up() -> None:
    model = small_model()
    parts = by_part(parameter_count(model))
    assert parts["total"] == sum(p.numel() for p in model.parameters())
    assert parts["backbone"] == sum(p.numel() for p in model.backbone.parameters())
    assert parts["neck"] == 0 and parts["head"] == parts["total"] - parts["backbone"]


def test_a_pyramid_divides_into_backbone_and_neck() -> None:
    totals = {"": 100.0, "backbone": 60.0, "backbone.bottom_up": 45.0, "head": 40.0}
    assert by_part(totals) == {"backbone": 45, "neck": 15, "head": 40, "total": 100}
    assert by_part({"": 7.0}) == {"backbone": 0, "neck": 0, "head": 7, "total": 7}
