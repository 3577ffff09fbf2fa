"""The command line of the translation."""

import importlib.util
from pathlib import Path

import pytest

from sparsenet.config import load_config

TOOL = Path(__file__).resolve().parents[2] / "tools/convert_config.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location(TOOL.stem, TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_writes_a_file_that_loads_and_prints_what_it_left_out(tool, tmp_path, capsys) -> None:
    (tmp_path / "config.yaml").write_text("model:\n  num_cls: 3\n  colour: red\noptim:\n  lr: 1\n")
    assert tool.main([str(tmp_path / "config.yaml"), str(tmp_path / "ours.yaml")]) == 0
    assert "model.colour: not known, not translated" in capsys.readouterr().out
    cfg = load_config(tmp_path / "ours.yaml")
    assert cfg.MODEL.SparseRCNN.NUM_CLASSES == 3 and cfg.SOLVER.BASE_LR == 1.0


def test_mistakes_are_one_line(tool, tmp_path, capsys) -> None:
    assert tool.main([str(tmp_path / "absent.yaml"), str(tmp_path / "ours.yaml")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and len(message.strip().splitlines()) == 1
