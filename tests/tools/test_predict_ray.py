"""The arguments of detection on several machines."""

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools/predict_ray.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location(TOOL.stem, TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_cfg(tool, folder, *opts, threshold="0.4"):
    (folder / "any.yaml").write_text("VERSION: 2\n")
    arguments = [
        "--config-file", str(folder / "any.yaml"), "--input", "frames", "--output", "out",
        "--confidence-threshold", threshold, "--opts", *opts,
    ]  # fmt: skip
    return tool.read_job(tool.build_parser().parse_args(arguments)).cfg


def test_files_mean_the_same_in_the_folder_of_a_worker(tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").symlink_to(tmp_path / "stored.pth")
    opts = ("MODEL.WEIGHTS", "model.pth", "TEST.TILE.SELECTION.MASK", "area.geojson")
    cfg = read_cfg(tool, tmp_path, *opts)
    assert cfg.MODEL.WEIGHTS == str(tmp_path / "model.pth")
    assert cfg.TEST.TILE.SELECTION.MASK == str(tmp_path / "area.geojson")


def test_no_mask_stays_none(tool, tmp_path):
    assert read_cfg(tool, tmp_path).TEST.TILE.SELECTION.MASK == ""


def test_a_low_threshold_reaches_below_that_of_the_tiles(tool, tmp_path):
    assert read_cfg(tool, tmp_path, threshold="0.01").TEST.TILE.SCORE_THRESHOLD == 0.01
    assert read_cfg(tool, tmp_path).TEST.TILE.SCORE_THRESHOLD == 0.05
