"""Exports are read back with the formats' own libraries."""

import csv
import io
import json
import os
import uuid

import numpy as np
import pytest
import shapely.geometry
from pycocotools.coco import COCO

from sparsenet.errors import ConfigError, OutputError
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports import (
    CSV_COLUMNS,
    make_folder,
    to_coco,
    to_csv,
    to_geojson,
    write_json,
    write_text,
)


@pytest.fixture
def found():
    return Detections(
        boxes_xyxy=np.array([[10.25, 20, 110.5, 220], [5000, 3000, 5040.5, 3090.9], [0, 0, 7, 9]]),
        scores=np.array([0.9, 0.51239, 0.05]),
        classes=np.array([0, 1, 0]),
        truncated=np.array([False, True, False]),
        tile_ids=np.array([0, 4, 2]),
        image_size=(4000, 6000),
        class_names=("person", "vehicle"),
    )


def test_coco_results_are_loaded_by_pycocotools(found, tmp_path):
    truth = {
        "info": {},
        "images": [{"id": 7, "height": 4000, "width": 6000, "file_name": "a.jpg"}],
        "categories": [{"id": 3, "name": "person"}, {"id": 11, "name": "vehicle"}],
        "annotations": [],
    }
    write_json(tmp_path / "truth.json", truth)
    write_json(tmp_path / "results.json", to_coco(found, 7, [3, 11]))
    results = COCO(str(tmp_path / "truth.json")).loadRes(str(tmp_path / "results.json"))
    loaded = results.loadAnns(results.getAnnIds(imgIds=[7]))
    assert [a["category_id"] for a in loaded] == [3, 11, 3]
    boxes = np.array([a["bbox"] for a in loaded])
    boxes[:, 2:] += boxes[:, :2]
    np.testing.assert_allclose(boxes, found.boxes_xyxy, atol=0.11)
    np.testing.assert_allclose([a["score"] for a in loaded], found.scores, atol=1e-4)


def test_coco_categories_may_be_a_mapping(found):
    assert [r["category_id"] for r in to_coco(found, "a.jpg", {0: 8, 1: 9})] == [8, 9, 8]


def test_a_class_without_category_is_refused(found):
    with pytest.raises(ConfigError, match=r"none came for \[1\]"):
        to_coco(found, 1, [3])
    with pytest.raises(ConfigError, match="category_ids must name"):
        to_coco(found, 1, {0: 3})


@pytest.mark.parametrize("object_type", ["annotation", "detection"])
def test_geojson_polygons_are_the_boxes(found, object_type):
    collection = json.loads(json.dumps(to_geojson(found, object_type=object_type)))
    assert collection["type"] == "FeatureCollection"
    for feature, box in zip(collection["features"], found.boxes_xyxy):
        ring = feature["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1]
        polygon = shapely.geometry.shape(feature["geometry"])
        assert polygon.is_valid
        assert polygon.exterior.is_ccw  # RFC 7946
        np.testing.assert_allclose(polygon.bounds, box, atol=0.051)


def test_geojson_carries_what_qupath_reads(found):
    features = to_geojson(found)["features"]
    properties = features[1]["properties"]
    assert properties["objectType"] == "annotation"
    assert properties["classification"]["name"] == "vehicle"
    assert all(0 <= v <= 255 for v in properties["classification"]["color"])
    assert properties["measurements"] == {"score": 0.5124}
    ids = [uuid.UUID(feature["id"]) for feature in features]
    assert len(set(ids)) == 3
    assert [f["id"] for f in to_geojson(found)["features"]] == [str(i) for i in ids]


def test_unknown_object_type_is_refused(found):
    with pytest.raises(ConfigError, match="object_type must be"):
        to_geojson(found, object_type="cell")


def test_csv_is_read_back(found):
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["class"] for row in rows] == ["person", "vehicle", "person"]
    assert [row["truncated"] for row in rows] == ["0", "1", "0"]
    np.testing.assert_allclose([float(r["height"]) for r in rows], [200, 90.9, 9], atol=0.06)


def test_nothing_found_gives_valid_files(found):
    nothing = found[np.zeros(3, dtype=bool)]
    assert to_coco(nothing, 1, []) == []
    assert to_geojson(nothing) == {"type": "FeatureCollection", "features": []}
    assert to_csv(nothing).splitlines() == [",".join(CSV_COLUMNS)]


def test_a_class_without_a_name_is_numbered(found):
    nameless = Detections(*[getattr(found, n) for n in (
        "boxes_xyxy", "scores", "classes", "truncated", "tile_ids", "image_size")])  # fmt: skip
    assert to_csv(nameless).splitlines()[2].startswith("class 1,")


def test_writing_replaces_whole_files_and_leaves_nothing_behind(tmp_path):
    target = tmp_path / "a.json"
    write_text(target, "old")
    write_json(target, {"new": 1})
    assert json.loads(target.read_text()) == {"new": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    write_text(target, "old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, float("nan"))
    assert target.read_text() == "old"
    target_folder = tmp_path / "folder"
    target_folder.mkdir()
    with pytest.raises(OutputError, match="must be written"):
        write_text(target_folder, "a file cannot replace a folder")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "folder"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"Results must go to a folder .* --output"):
        make_folder(tmp_path / "file" / "results")
