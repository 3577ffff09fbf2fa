"""The benchmark of tiling engines: every contender runs, and its numbers mean what they say."""

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from blob_detector import plant

from sparsenet.analysis.tiling_benchmark import (
    markdown_table,
    measure_contender,
    quality,
    read_truth,
    run_in_this_process,
)
from sparsenet.analysis.tiling_contenders import CONTENDERS, TileRun
from sparsenet.gigapixel.truth import Truth

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark_gigapixel.py"
SIZE = (300, 420)


@pytest.fixture
def run(tmp_path):
    """A small image in tiles of 128 px that overlap by 28, with 12 fixed boxes each."""
    cv2.imwrite(str(tmp_path / "a.jpg"), plant(SIZE, []))
    return TileRun(str(tmp_path / "a.jpg"), None, tile_size=128, overlap=28, threshold=0.3)


@pytest.mark.parametrize("name", CONTENDERS)
def test_contenders_cut_the_same_tiles(name, run, tmp_path):
    if "SAHI" in name:
        pytest.importorskip("sahi", reason="needs sparsenet[bench]")
    if "supervision" in name:
        pytest.importorskip("supervision", reason="needs sparsenet[bench]")
    output = tmp_path / "results.json"
    measured = run_in_this_process({"name": name, "output": str(output), **asdict(run)})
    num_coarse = 1 if name in ("ours, two levels", "ours, coarse to fine") else 0
    if name == "ours, coarse to fine":
        assert num_coarse <= measured["tiles"] <= 12 + num_coarse
    else:
        assert measured["tiles"] == 3 * 4 + num_coarse
    assert measured["peak MB"] >= measured["base MB"] > 0
    assert measured["total"] >= measured["write"] > 0
    results = json.loads(output.read_text())
    assert {"image_id", "category_id", "bbox", "score"} <= results[0].keys()
    assert {one["category_id"] for one in results} == {0}


def results_of(boxes, scores):
    sides = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes.tolist()]
    return [
        {"image_id": 0, "category_id": 0, "bbox": box, "score": score}
        for box, score in zip(sides, scores)
    ]


def test_quality_of_perfect_doubled_and_missing_detections():
    corner = np.arange(10)[:, None] * 100.0
    boxes = np.concatenate([corner, corner, corner + 40, corner + 80], axis=1)
    truth = Truth(boxes, np.zeros(10, dtype=np.int64), np.zeros(10, dtype=bool))
    perfect = quality(results_of(boxes, [0.9] * 10), truth, 0.3)
    assert perfect == pytest.approx(
        {"AP50": 1, "recall": 1, "precision": 1, "duplicates": 0, "count error": 0}
    )
    doubled = results_of(np.concatenate([boxes, boxes[:5] + 1]), [0.9] * 10 + [0.4] * 5)
    errors = quality(doubled, truth, 0.3)
    assert errors["AP50"] == pytest.approx(1)  # what average precision does not show
    assert errors["duplicates"] == pytest.approx(1 / 3)
    assert errors["count error"] == pytest.approx(0.5)
    assert quality([], truth, 0.3)["count error"] == -1
    other = [{**one, "category_id": 7} for one in results_of(boxes, [0.9] * 10)]
    assert quality(other, truth, 0.3)["recall"] == 0  # classes that the truth lacks do not count


def test_the_truth_takes_the_detectors_classes(tmp_path):
    content = {
        "images": [{"id": 4, "file_name": "a.jpg", "height": 300, "width": 420}],
        "categories": [{"id": 1, "name": "vehicle"}, {"id": 2, "name": "person"}],
        "annotations": [
            {"id": i, "image_id": 4, "category_id": c, "bbox": [10, 10, 20, 30], "area": 600,
             "iscrowd": 0}
            for i, c in ((1, 1), (2, 2), (3, 2))
        ],
    }  # fmt: skip
    (tmp_path / "truth.json").write_text(json.dumps(content))
    truth = read_truth(tmp_path / "truth.json", "elsewhere/a.jpg", ["person"])
    assert truth.classes.tolist() == [0, 0]
    assert read_truth(tmp_path / "truth.json", "b.jpg", ["person"]) is None


def test_a_table_with_and_without_truth():
    row = dict.fromkeys(("decode", "detect", "merge", "write", "total", "CPU s"), 1.25)
    row |= {"tiles": 12, "base MB": 800.0, "peak MB": 1234.5, "detections": [{}] * 3}
    plain = markdown_table({"a": row})
    assert "AP50" not in plain
    assert "1,234" in plain
    errors = {"AP50": 0.5, "recall": 1.0, "precision": 1.0, "duplicates": 0.0, "count error": -0.1}
    assert "-10.0%" in markdown_table({"a": {**row, **errors}})


@pytest.mark.slow
def test_the_tool_writes_its_tables(run, tmp_path, capsys):
    specification = importlib.util.spec_from_file_location("benchmark_gigapixel", TOOL)
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    name = "ours, one level"
    assert tool.main([run.image, "--only", name, "--quick", "--quiet", "--tile-size", "128",
                      "--overlap", "28", "--output", str(tmp_path / "out")]) == 0  # fmt: skip
    assert name in capsys.readouterr().out
    assert name in (tmp_path / "out" / "gigapixel.md").read_text()
    record = json.loads((tmp_path / "out" / "gigapixel.json").read_text())
    assert record["images"][0]["rows"][name]["tiles"] == 12
    assert tool.main(["missing.jpg", "--quiet"]) == 2


@pytest.mark.slow
def test_a_contender_that_fails_is_quoted(run):
    from sparsenet.analysis.tiling_benchmark import ContenderError

    broken = TileRun(**{**asdict(run), "detector": "missing.onnx"})
    with pytest.raises(ContenderError, match=r"(?s)it stopped with 1.*missing\.onnx"):
        measure_contender("ours, one level", broken, 1, quiet=True)
