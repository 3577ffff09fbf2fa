"""All checkpoints of a folder are evaluated, the best is found, the table shows it."""

import json
import math
from pathlib import Path

import pytest
import torch
from small_sparse_rcnn import small_cfg

from sparsenet.engine import Trainer
from sparsenet.engine.checkpoint_comparison import (
    best_checkpoint,
    checkpoint_table,
    evaluate_checkpoints,
    find_checkpoints,
)
from sparsenet.errors import CheckpointError, ConfigError

PROPOSALS = "init_proposal_boxes.weight"


@pytest.fixture
def cfg(tmp_path: Path):
    """A folder of three checkpoints; the last lacks the tensor that the metric is read from."""
    cfg = small_cfg()
    cfg.MODEL.WEIGHTS = str(tmp_path / "run")
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    (tmp_path / "run").mkdir()
    for name, value in (("model_0000001", 2.0), ("model_0000003", 7.0), ("model_final", None)):
        state = Trainer.build_model(cfg).state_dict()
        state[PROPOSALS].fill_(value or 0)
        if value is None:
            del state[PROPOSALS]
        torch.save({"model": state, "iteration": 1}, tmp_path / "run" / f"{name}.pth")
    return cfg


def evaluate(cfg, model):
    """The mean of the first boxes as an "AP"."""
    value = float(model.state_dict()[PROPOSALS].mean())
    return {"bbox": {"AP": value, "AP-cat": value, "mMR": value, "AR": math.nan}}


def test_the_best_of_a_folder(cfg, caplog) -> None:
    with caplog.at_level("INFO", logger="sparsenet"):
        results = evaluate_checkpoints(cfg, evaluate)
    assert results["bbox"]["AP"] == 7
    assert "The best is" in caplog.text and "| model_0000003.pth" in caplog.text
    content = json.loads((Path(cfg.OUTPUT_DIR) / "checkpoints/checkpoints.json").read_text())
    assert content["best"] == "model_0000003.pth"
    assert list(content["metrics"]) == ["model_0000001.pth", "model_0000003.pth", "model_final.pth"]
    # What a checkpoint lacks is fresh, not that of the checkpoint before.
    assert content["metrics"]["model_final.pth"]["bbox/AP"] == pytest.approx(0.75)
    assert content["metrics"]["model_final.pth"]["bbox/AR"] is None


def test_of_miss_rates_the_lowest_is_the_best(cfg) -> None:
    cfg.TEST.BEST_METRIC = "bbox/mMR"
    assert evaluate_checkpoints(cfg, evaluate)["bbox"]["mMR"] == pytest.approx(0.75)


def test_of_values_with_a_sign_the_nearest_to_zero_is_the_best() -> None:
    metrics = {"a": {"x/count_error": -40.0}, "b": {"x/count_error": -3.0}}
    assert best_checkpoint(metrics | {"c": {"x/count_error": 9.0}}, "x/count_error") == "b"


def test_undefined_values_lose_and_equal_ones_take_the_first() -> None:
    metrics = {"a": {"x/AP": math.nan}, "b": {"x/AP": 1.0}, "c": {"x/AP": 1.0}, "d": {}}
    assert best_checkpoint(metrics, "x/AP") == "b"
    table = checkpoint_table({"b": {"x/AP": 1, "x/AP50": 2, "x/AP-cat": 3}}, "x/AP", "b")
    assert [cell.strip() for cell in table.splitlines()[0].split("|")[1:-1]] == [
        "checkpoint", "x/AP", "x/AP50", "",
    ]  # fmt: skip
    assert table.splitlines()[2].split("|")[-2].strip() == "best"


def test_mistakes(cfg, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no \.pth"):
        find_checkpoints(tmp_path)
    cfg.TEST.BEST_METRIC = "bbox/APx"
    with pytest.raises(ConfigError, match=r"got 'bbox/APx'\. There are bbox/AP, bbox/AR, bbox/mMR"):
        evaluate_checkpoints(cfg, evaluate)
    (Path(cfg.MODEL.WEIGHTS) / "model_0000002.pth").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"model_0000002\.pth"):
        evaluate_checkpoints(cfg, evaluate)
