"""One folder with everything about an image."""

import json

import numpy as np
import pytest

from sparsenet.errors import ConfigError, OutputError
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.predictor import GigapixelResult
from sparsenet.gigapixel.report import ReportOptions, save_report
from sparsenet.tiling.reader import ArrayReader


class CountingReader(ArrayReader):
    """Counts how often the pixels are read."""

    passes = 0

    def _rows(self, level, band_height, first_row):
        self.passes += 1
        return super()._rows(level, band_height, first_row)

    def _fetch(self, level, window):
        raise AssertionError("a window of a strip file decodes the whole image")


@pytest.fixture
def result():
    found = Detections(
        boxes_xyxy=np.array([[10, 10, 60, 90], [200, 100, 250, 160]]),
        scores=np.array([0.9, 0.2]),
        classes=np.array([1, 0]),
        truncated=np.zeros(2),
        tile_ids=np.zeros(2),
        image_size=(300, 400),
        class_names=("person", "vehicle"),
    )
    return GigapixelResult(found, {"decode": 1.0, "detect": 2.0, "merge": 0.1, "total": 3.0}, 4, 99)


def test_the_image_is_decoded_once_for_all_pictures(result, tmp_path):
    reader = CountingReader(np.zeros((300, 400, 3), np.uint8), path="photos/a.jpg")
    summary = save_report(result, reader, tmp_path)
    assert reader.passes == 1
    assert {f.name for f in tmp_path.iterdir()} == {
        "detections.json", "detections.geojson", "detections.csv",
        "overview.jpg", "crops.jpg", "viewer", "summary.json",
    }  # fmt: skip
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["counts"] == {"vehicle": 1}
    assert summary["seconds"]["detect"] == 2.0
    assert summary["seconds"]["write"] > 0


def test_ids_of_the_coco_results(result, tmp_path):
    reader = ArrayReader(np.zeros((300, 400, 3), np.uint8), path="photos/a.jpg")
    save_report(result, reader, tmp_path, ReportOptions(has_viewer=False))
    coco = json.loads((tmp_path / "detections.json").read_text())
    assert [(r["image_id"], r["category_id"]) for r in coco] == [("a.jpg", 2), ("a.jpg", 1)]
    options = ReportOptions(has_viewer=False, image_id=5, category_ids=[7, 9])
    save_report(result, reader, tmp_path, options)
    coco = json.loads((tmp_path / "detections.json").read_text())
    assert [(r["image_id"], r["category_id"]) for r in coco] == [(5, 9), (5, 7)]


def test_chosen_formats_hold_what_is_reported(result, tmp_path):
    reader = ArrayReader(np.zeros((300, 400, 3), np.uint8), path="photos/a.jpg")
    options = ReportOptions(has_viewer=False, formats=["panda", "csv", "yolo"])
    save_report(result, reader, tmp_path, options)
    assert len(json.loads((tmp_path / "detections.panda.json").read_text())) == 2  # all
    assert len((tmp_path / "detections.csv").read_text().splitlines()) == 1 + 1
    assert len((tmp_path / "yolo" / "labels" / "a.txt").read_text().splitlines()) == 1
    assert not (tmp_path / "detections.json").exists()


def test_bad_options_and_folders(result, tmp_path):
    with pytest.raises(ConfigError, match="Formats must be some of"):
        ReportOptions(formats=["xml"])
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        ReportOptions(threshold=40)
    (tmp_path / "file").write_text("")
    reader = ArrayReader(np.zeros((300, 400, 3), np.uint8))
    with pytest.raises(OutputError, match="Results must go to a folder"):
        save_report(result, reader, tmp_path / "file")
