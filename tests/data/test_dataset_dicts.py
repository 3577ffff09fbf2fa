"""Datasets by name: what cannot be trained on, and classes that differ between train and test."""

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from sparsenet.data import load_training_dicts, register_coco_files, require_same_classes
from sparsenet.errors import AnnotationError, DatasetError


def register(folder: Path, name: str, classes: str, *, has_objects: bool = True) -> str:
    """A COCO file of one image; a letter per class."""
    annotation = {"id": 1, "image_id": 1, "category_id": 0, "bbox": [1, 1, 5, 5]}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 9, "width": 9}],
        "categories": [{"id": i, "name": letter} for i, letter in enumerate(classes)],
        "annotations": [annotation] * has_objects,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    name = f"{folder.name}_{name}"
    register_coco_files([[name, str(path), str(folder)]])
    return name


def test_several_sets_of_the_same_classes_are_joined(tmp_path: Path) -> None:
    names = [register(tmp_path, name, "ab") for name in ("one", "two")]
    assert len(load_training_dicts(names, filter_empty=True)) == 2


def test_sets_without_objects(tmp_path: Path) -> None:
    name = register(tmp_path, "empty", "ab", has_objects=False)
    assert len(load_training_dicts([name], filter_empty=False)) == 1
    with pytest.raises(DatasetError, match=r"must have images with objects .*FILTER_EMPTY"):
        load_training_dicts([name], filter_empty=True)


def test_training_sets_of_different_classes(tmp_path: Path) -> None:
    names = [register(tmp_path, "one", "ab"), register(tmp_path, "two", "ba")]
    with pytest.raises(DatasetError, match=f"same classes, {', '.join(names)} have not"):
        load_training_dicts(names, filter_empty=True)


def test_errors_of_ours_stay_as_they_are(tmp_path: Path) -> None:
    name = register(tmp_path, "one", "ab")
    (tmp_path / "one.json").write_text("{}")
    with pytest.raises(AnnotationError, match="must have a list 'images'"):
        load_training_dicts([name], filter_empty=True)


@pytest.mark.parametrize("classes", ["ba", "a", "abc"])
def test_test_sets_of_other_classes(tmp_path: Path, classes: str) -> None:
    train = register(tmp_path, "train", "ab")
    good, bad = register(tmp_path, "good", "ab"), register(tmp_path, "bad", classes)
    require_same_classes([train], [good])
    with pytest.raises(DatasetError, match=rf"'{train}' has 2 \(a, b\), '{bad}' has .*CLASS_NAMES"):
        require_same_classes([train], [good, bad])


def test_what_is_not_known_is_not_compared(tmp_path: Path, caplog) -> None:
    test = register(tmp_path, "test", "ab")
    absent = register(tmp_path, "train", "abc")
    (tmp_path / "train.json").unlink()
    require_same_classes([], [test])
    require_same_classes([absent], [test])
    assert "were not compared: The annotation file" in caplog.text
    DatasetCatalog.register("nameless", list)
    try:
        require_same_classes(["nameless"], [test])
    finally:
        DatasetCatalog.remove("nameless")
        MetadataCatalog.remove("nameless")
