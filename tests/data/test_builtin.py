import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from sparsenet.config import load_config
from sparsenet.data import builtin
from sparsenet.data.builtin import (
    prefer_pyramids,
    register_coco_files,
    register_datasets,
    register_panda,
)
from sparsenet.errors import AnnotationError, ConfigError, DatasetNotFoundError


@pytest.fixture
def names():
    """Names that a test registers; forgotten afterwards."""
    used = []
    yield used
    for name in used:
        builtin._registered.pop(name, None)
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
        if name in MetadataCatalog.list():
            MetadataCatalog.remove(name)


@pytest.fixture
def panda(tmp_path):
    yield tmp_path / "panda"
    register_panda()


def write_coco(path, *, category="person"):
    path.parent.mkdir(parents=True, exist_ok=True)
    value = {
        "images": [{"id": 1, "file_name": "scene/a.jpg", "height": 100, "width": 200}],
        "categories": [{"id": 4, "name": category}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 4, "bbox": [1, 2, 3, 4]}],
    }
    path.write_text(json.dumps(value))
    return path


def test_panda_names_are_registered_by_importing_the_package():
    for subject in ("person", "vehicle", "all"):
        for split in ("train", "val"):
            assert f"panda_{subject}_{split}" in DatasetCatalog.list()


def test_panda_root_follows_the_environment(monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/somewhere")
    assert str(builtin.panda_root()) == "/somewhere/panda"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert str(builtin.panda_root()) == "datasets/panda"


def test_missing_panda_shows_the_expected_tree(panda):
    register_panda(panda)
    with pytest.raises(DatasetNotFoundError, match=r"panda_all_train\.json") as caught:
        DatasetCatalog.get("panda_all_train")
    assert "image_train/" in str(caught.value)
    assert "DETECTRON2_DATASETS" in str(caught.value)


def test_panda_loads_with_its_metadata(panda):
    json_file = write_coco(panda / "annotations" / "panda_person_val.json")
    register_panda(panda)
    register_panda(panda)
    (item,) = DatasetCatalog.get("panda_person_val")
    assert item["file_name"] == str(panda / "image_train" / "scene" / "a.jpg")
    metadata = MetadataCatalog.get("panda_person_val")
    assert metadata.thing_classes == ["person"]
    assert metadata.thing_dataset_id_to_contiguous_id == {4: 0}
    assert metadata.json_file == str(json_file)
    assert metadata.evaluator_type == "panda"


def test_malformed_panda_file_is_an_annotation_error(panda):
    path = write_coco(panda / "annotations" / "panda_all_val.json")
    path.write_text("{}")
    register_panda(panda)
    with pytest.raises(AnnotationError, match="must have a list 'images'"):
        DatasetCatalog.get("panda_all_val")


def test_coco_files_may_be_registered_again_and_changed(tmp_path, names):
    names.append("mine")
    first = write_coco(tmp_path / "first.json")
    second = write_coco(tmp_path / "second.json", category="boat")
    for _ in range(2):
        register_coco_files([["mine", str(first), str(tmp_path)]])
    assert DatasetCatalog.get("mine")[0]["annotations"][0]["bbox"] == [1, 2, 4, 6]
    assert MetadataCatalog.get("mine").evaluator_type == "coco"
    register_coco_files([["mine", str(second), str(tmp_path)]], evaluator_type="panda")
    DatasetCatalog.get("mine")
    assert MetadataCatalog.get("mine").thing_classes == ["boat"]
    assert MetadataCatalog.get("mine").evaluator_type == "panda"


def test_names_of_others_are_not_taken(names):
    names.append("of_another_project")
    DatasetCatalog.register("of_another_project", list)
    with pytest.raises(ConfigError, match="'of_another_project' is already registered"):
        register_coco_files([["of_another_project", "a.json", "images"]])


@pytest.mark.parametrize("entry", [["name", "file.json"], "name", ["name", "file.json", 3]])
def test_entries_of_another_form(entry):
    with pytest.raises(ConfigError, match=r"\[name, json file, image folder\]"):
        register_coco_files([entry])


@pytest.mark.parametrize(
    "place",
    [
        "images/scene/a.tif",
        "images/scene/a.tiff",
        "images/scene/pyramids/a.tif",
        "images/pyramids/scene/a.tif",
        "pyramids/scene/a.tif",
    ],
)
def test_pyramids_are_preferred(tmp_path, place):
    pyramid = tmp_path / place
    pyramid.parent.mkdir(parents=True)
    pyramid.touch()
    root = tmp_path / "images"
    dicts = [{"file_name": str(root / "scene" / name)} for name in ("a.jpg", "b.jpg", "c.tif")]
    assert prefer_pyramids(dicts, root) == 1
    assert [item["file_name"] for item in dicts] == [
        str(pyramid),
        str(root / "scene" / "b.jpg"),
        str(root / "scene" / "c.tif"),
    ]


def test_every_kind_of_dataset_is_registered_by_its_key(tmp_path, names):
    names += ["a_coco", "a_voc", "a_yolo", "an_odgt"]
    Image.new("RGB", (200, 100)).save(tmp_path / "a.jpg")
    corners = "<xmin>2</xmin><ymin>3</ymin><xmax>4</xmax><ymax>6</ymax>"
    (tmp_path / "a.xml").write_text(
        f"<annotation><object><name>person</name><bndbox>{corners}</bndbox></object></annotation>"
    )
    (tmp_path / "a.txt").write_text("0 0.0125 0.04 0.015 0.04")
    person = {"tag": "person", "vbox": [1, 2, 3, 4], "fbox": [0, 0, 9, 9]}
    (tmp_path / "a.odgt").write_text(json.dumps({"ID": "a", "gtboxes": [person]}))
    value = json.loads(write_coco(tmp_path / "a.json").read_text())
    value["images"][0]["file_name"] = "a.jpg"
    (tmp_path / "a.json").write_text(json.dumps(value))
    folder = str(tmp_path)
    cfg = load_config()
    cfg.DATASETS.COCO_FILES = [["a_coco", f"{folder}/a.json", folder]]
    cfg.DATASETS.VOC_FOLDERS = [["a_voc", folder, ""]]
    cfg.DATASETS.YOLO_FOLDERS = [["a_yolo", folder, ""]]
    cfg.DATASETS.ODGT_FILES = [["an_odgt", f"{folder}/a.odgt", folder]]
    cfg.DATASETS.CLASS_NAMES = ("person",)
    cfg.DATASETS.ODGT_BOX = "vbox"
    for _ in range(2):
        register_datasets(cfg)
    for name in names:
        (item,) = DatasetCatalog.get(name)
        assert item["file_name"] == f"{folder}/a.jpg"
        assert item["annotations"][0]["bbox"] == pytest.approx([1, 2, 4, 6])
        metadata = MetadataCatalog.get(name)
        assert metadata.thing_classes == ["person"]
        assert metadata.evaluator_type == ("crowd" if name == "an_odgt" else "coco")
    cfg.DATASETS.CLASS_NAMES = ("cat",)
    register_datasets(cfg)
    with pytest.raises(AnnotationError, match="'person' must be one of cat"):
        DatasetCatalog.get("a_voc")


@pytest.mark.parametrize(
    ("key", "form"),
    [
        ("VOC_FOLDERS", "folder, split"),
        ("YOLO_FOLDERS", r"folder or data\.yaml, split"),
        ("ODGT_FILES", "odgt file, image folder"),
    ],
)
def test_the_form_of_an_entry_is_told(key, form):
    cfg = load_config()
    cfg.DATASETS[key] = [["name", "folder"]]
    with pytest.raises(ConfigError, match=rf"DATASETS\.{key} must list \[name, {form}\]"):
        register_datasets(cfg)


@pytest.mark.parametrize("second", ["COCO_FILES", "YOLO_FOLDERS"])
def test_a_name_occurs_once_in_a_config(names, second):
    names.append("twice")
    cfg = load_config()
    cfg.DATASETS.COCO_FILES = [["twice", "a.json", "images"]]
    cfg.DATASETS[second] = [*cfg.DATASETS[second], ["twice", "other", "val"]]
    with pytest.raises(ConfigError, match="name of its own, twice occurs more than once"):
        register_datasets(cfg)
