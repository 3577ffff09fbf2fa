"""CrowdHuman's lines: three boxes per person, ignored ones, mistakes told with their line."""

import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from sparsenet.data.crowdhuman_odgt import read_odgt
from sparsenet.data.loaded_dataset import make_annotation
from sparsenet.errors import AnnotationError, ConfigError, DatasetNotFoundError


def person(**changes):
    return {
        "tag": "person",
        "fbox": [-10, 20, 60, 100],
        "vbox": [0, 20, 40, 50],
        "hbox": [10, 20, 10, 10],
        "head_attr": {"ignore": 0, "occ": 0, "unsure": 0},
        "extra": {"box_id": 0, "occ": 0},
    } | changes


def write(folder: Path, *lines: object) -> Path:
    for name in ("1,a", "2,b"):
        Image.new("RGB", (200, 80)).save(folder / f"{name}.jpg")
    path = folder / "val.odgt"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("box", "expected", "name"),
    [
        ("fbox", (0, 20, 50, 80), "person"),  # cut at the left and at the bottom
        ("vbox", (0, 20, 40, 70), "person"),
        ("hbox", (10, 20, 20, 30), "head"),
    ],
)
def test_the_box_is_chosen(tmp_path: Path, box: str, expected, name: str) -> None:
    lines = {"ID": "1,a", "gtboxes": [person()]}, {"ID": "2,b", "gtboxes": []}
    dataset = read_odgt(write(tmp_path, *lines), tmp_path, box=box)
    assert dataset.class_names == (name,) and dataset.class_of_category == {0: 0}
    first, second = dataset.dicts
    assert first == {
        "file_name": str(tmp_path / "1,a.jpg"),
        "height": 80,
        "width": 200,
        "image_id": 1,
        "annotations": [make_annotation(expected, 0, is_ignore=False)],
    }
    assert second["annotations"] == [] and second["image_id"] == 2


def test_what_is_no_single_person_is_ignored(tmp_path: Path) -> None:
    boxes = [
        person(),
        person(tag="mask"),
        person(extra={"ignore": 1}),
        person(head_attr={"ignore": 1}),
    ]
    path = write(tmp_path, {"ID": "1,a", "gtboxes": boxes})
    (item,) = read_odgt(path, tmp_path).dicts
    assert [a["iscrowd"] for a in item["annotations"]] == [0, 1, 1, 0]
    (item,) = read_odgt(path, tmp_path, box="hbox").dicts
    assert [a["iscrowd"] for a in item["annotations"]] == [0, 1, 1, 1]


def test_ignored_boxes_without_area_are_told(tmp_path: Path, caplog) -> None:
    boxes = [
        person(tag="mask", fbox=[0, 0, 0, 5]),
        person(extra={"ignore": 1}, fbox=[300, 0, 9, 9]),
    ]
    with caplog.at_level(logging.WARNING):
        (item,) = read_odgt(write(tmp_path, {"ID": "1,a", "gtboxes": boxes}), tmp_path).dicts
    assert item["annotations"] == [] and "left out 2 ignore boxes" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "a line must be a JSON object"),
        ({"ID": "1,a"}, "a line must be a JSON object with ID and gtboxes: KeyError"),
        ({"ID": "1,a", "gtboxes": None}, "gtboxes must be a list of JSON objects, got None"),
        ({"ID": "1,a", "gtboxes": [person(), 3]}, "gtboxes must be a list of JSON objects"),
        ({"ID": 273, "gtboxes": []}, r"the image .*273\.jpg does not exist"),
        ({"ID": "3,c", "gtboxes": []}, r"the image .*3,c\.jpg does not exist"),
        ({"ID": "1,a", "gtboxes": [person(fbox=[1, 2, 3])]}, r"gtboxes\[0\] must have a fbox"),
        ({"ID": "1,a", "gtboxes": [person(fbox=[1, 2, 0, 3])]}, r"got \[1, 2, 0, 3\]"),
        ({"ID": "1,a", "gtboxes": [person(fbox=[250, 2, 9, 3])]}, "image of 200 × 80 pixels"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: object, message: str) -> None:
    path = write(tmp_path, {"ID": "2,b", "gtboxes": []}, line)
    with pytest.raises(AnnotationError, match=rf"val\.odgt:2: .*{message}"):
        read_odgt(path, tmp_path)


def test_missing_files_and_unknown_boxes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be one of fbox, vbox, hbox, got 'body'"):
        read_odgt(tmp_path / "a.odgt", tmp_path, box="body")
    with pytest.raises(DatasetNotFoundError, match=r"a\.odgt does not exist"):
        read_odgt(tmp_path / "a.odgt", tmp_path)
    with pytest.raises(DatasetNotFoundError, match="must be in a folder"):
        read_odgt(write(tmp_path, ""), tmp_path / "none")
    with pytest.raises(AnnotationError, match="has no line"):
        read_odgt(write(tmp_path, ""), tmp_path)
