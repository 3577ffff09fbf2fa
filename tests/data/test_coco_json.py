import json
import logging

import pytest
from detectron2.structures import BoxMode

from sparsenet.data.coco_json import load_coco_json, read_coco_json
from sparsenet.errors import AnnotationError, DatasetNotFoundError


def content(annotations):
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "height": 100, "width": 200},
            {"id": 3, "file_name": "sub/b.jpg", "height": 50, "width": 50},
        ],
        "categories": [{"id": 5, "name": "vehicle"}, {"id": 2, "name": "person"}],
        "annotations": annotations,
    }


def annotation(number, **changes):
    return {
        "id": number,
        "image_id": 7,
        "category_id": 2,
        "bbox": [10, 20, 30, 40],
        "iscrowd": 0,
        **changes,
    }


def write(tmp_path, value):
    path = tmp_path / "boxes.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_reads_boxes_classes_and_paths(tmp_path):
    path = write(tmp_path, content([annotation(1), annotation(2, image_id=3, category_id=5)]))
    dataset = read_coco_json(path, "root")
    assert dataset.class_names == ("person", "vehicle")
    assert dataset.class_of_category == {2: 0, 5: 1}
    assert [item["file_name"] for item in dataset.dicts] == ["root/a.jpg", "root/sub/b.jpg"]
    assert [item["image_id"] for item in dataset.dicts] == [7, 3]
    assert dataset.dicts[0]["annotations"] == [
        {
            "bbox": [10, 20, 40, 60],
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": 0,
            "iscrowd": 0,
        }
    ]
    assert dataset.dicts[1]["annotations"][0]["category_id"] == 1
    assert (dataset.dicts[1]["height"], dataset.dicts[1]["width"]) == (50, 50)


def test_images_without_annotations_are_kept(tmp_path):
    value = content([])
    del value["annotations"]
    assert [d["annotations"] for d in load_coco_json(write(tmp_path, value), "")] == [[], []]


@pytest.mark.parametrize("marks", [{"ignore": 1}, {"iscrowd": 1}, {"ignore": 1, "iscrowd": 1}])
def test_ignore_and_crowd_both_become_crowd(tmp_path, marks):
    dicts = load_coco_json(write(tmp_path, content([annotation(1, **marks)])), "")
    assert dicts[0]["annotations"][0]["iscrowd"] == 1


def test_boxes_partly_outside_are_clipped_and_counted(tmp_path, caplog):
    boxes = [[-5, -5, 20, 20], [190, 90, 100, 100], [0, 0, 200.2, 100.1], [10, 10, 5, 5]]
    path = write(tmp_path, content([annotation(i, bbox=b) for i, b in enumerate(boxes)]))
    with caplog.at_level(logging.WARNING):
        dicts = load_coco_json(path, "")
    assert [a["bbox"] for a in dicts[0]["annotations"]] == [
        [0, 0, 15, 15],
        [190, 90, 200, 100],
        [0, 0, 200, 100],
        [10, 10, 15, 15],
    ]
    assert "clipped 2 boxes" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 99}, "annotation 4 belongs to image 99, which is not in 'images'"),
        ({"category_id": 9}, r"annotation 4 has category 9, known are \[2, 5\]"),
        ({"bbox": [10, 10, 0, 5]}, r"annotation 4 must have a bbox .* got \[10, 10, 0, 5\]"),
        ({"bbox": [10, 10, 5, -5]}, "annotation 4 must have a bbox"),
        ({"bbox": [10, 10, 5]}, "annotation 4 must have a bbox"),
        ({"bbox": [10, 10, 5, None]}, "annotation 4 must have a bbox"),
        ({"bbox": None}, "annotation 4 must have a bbox"),
        ({"bbox": [200, 10, 5, 5]}, "annotation 4 has bbox .* outside its image of 200 × 100"),
        ({"bbox": [10, -9, 5, 5]}, "annotation 4 has bbox .* outside its image"),
        ({"id": 1}, "annotation id 1 occurs twice"),
        ({"segmentation": {"size": [9, 9]}}, "annotation 4 must have a segmentation .* or {size"),
        ({"segmentation": {"counts": [81]}}, "annotation 4 must have a segmentation"),
        (
            {"segmentation": [1, 1, 9, 1, 9, 9]},
            r"annotation 4 must have .* got \[1, 1, 9, 1, 9, 9\]",
        ),
        ({"segmentation": [[1, 1, 9, None, 9, 9]]}, "annotation 4 must have a segmentation"),
        ({"segmentation": "outline"}, "annotation 4 must have a segmentation"),
    ],
)
def test_malformed_annotations_are_named(tmp_path, changes, message):
    path = write(tmp_path, content([annotation(1), annotation(4, **changes)]))
    with pytest.raises(AnnotationError, match=message) as caught:
        load_coco_json(path, "")
    assert str(path) in str(caught.value)


def test_many_problems_are_counted_and_the_first_shown(tmp_path):
    path = write(tmp_path, content([annotation(i, image_id=99) for i in range(40)]))
    with pytest.raises(AnnotationError, match="40 are not") as caught:
        load_coco_json(path, "")
    assert str(caught.value).count("belongs to image") == 5


@pytest.mark.parametrize(
    ("section", "entry", "message"),
    [
        ("images", {"id": 7, "file_name": "c", "height": 1, "width": 1}, "image id 7 occurs twice"),
        ("images", {"id": 8, "file_name": "c", "height": 1}, r"images\[2\] lacks width"),
        ("images", {"id": 8, "file_name": "c", "height": 0, "width": 9}, "has size 9 × 0"),
        ("categories", {"id": 2, "name": "again"}, "category id 2 occurs 2 times"),
        ("categories", {"name": "no id"}, "every category must have an integer id"),
    ],
)
def test_malformed_images_and_categories(tmp_path, section, entry, message):
    value = content([])
    value[section].append(entry)
    with pytest.raises(AnnotationError, match=message):
        load_coco_json(write(tmp_path, value), "")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "must be a JSON file"),
        ("[]", "must hold a JSON object, it holds a list"),
        ({"images": []}, "must have a list 'categories'"),
        ({"categories": []}, "must have a list 'images'"),
        ({"categories": [], "images": []}, "must list at least one image"),
    ],
)
def test_files_that_are_not_coco(tmp_path, value, message):
    with pytest.raises(AnnotationError, match=message):
        load_coco_json(write(tmp_path, value), "")


def test_missing_file(tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"nothing\.json does not exist"):
        load_coco_json(tmp_path / "nothing.json", "")
