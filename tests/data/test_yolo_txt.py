"""YOLO folders: with and without data.yaml; mistakes are told with file and line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsenet.data.yolo_txt import label_path, read_yolo
from sparsenet.errors import AnnotationError, DatasetNotFoundError
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports.yolo import to_yolo, yolo_names

SIZE = (50, 100)  # h, w


def make(root: Path, labels: dict[str, str | None], split: str = "train") -> Path:
    """images/split and labels/split; None writes no label file."""
    for name, text in labels.items():
        image = root / "images" / split / f"{name}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(image)
        if text is not None:
            label_path(image).parent.mkdir(parents=True, exist_ok=True)
            label_path(image).write_text(text)
    return root


def data_yaml(root: Path, text: str) -> Path:
    path = root / "data.yaml"
    path.write_text(text)
    return path


def test_a_data_file(tmp_path: Path) -> None:
    make(tmp_path, {"a": "1 0.5 0.5 0.2 0.4\n\n0 0 0 0.1 0.2\n", "b": None, "sub/c": ""})
    path = data_yaml(tmp_path, "path: .\ntrain: images/train\nnc: 2\nnames: {0: cat, 1: dog}\n")
    dataset = read_yolo(path, "train")
    assert dataset.class_names == ("cat", "dog") and dataset.class_of_category == {0: 0, 1: 1}
    assert [Path(d["file_name"]).name for d in dataset.dicts] == ["a.png", "b.png", "c.png"]
    assert [d["image_id"] for d in dataset.dicts] == [1, 2, 3]
    first = dataset.dicts[0]
    assert (first["height"], first["width"]) == SIZE
    assert first["annotations"][0]["bbox"] == pytest.approx([40, 15, 60, 35])
    assert first["annotations"][0]["category_id"] == 1
    assert first["annotations"][1]["bbox"] == pytest.approx([0, 0, 5, 5])  # cut at the border
    assert dataset.dicts[1]["annotations"] == [] == dataset.dicts[2]["annotations"]
    assert read_yolo(tmp_path, "train").dicts == dataset.dicts  # the folder of data.yaml


def test_outlines_become_boxes(tmp_path: Path) -> None:
    make(tmp_path, {"a": "0 0.1 0.2 0.5 0.3 0.3 0.8\n"})
    (box,) = read_yolo(tmp_path, "train", class_names=["x"]).dicts[0]["annotations"]
    assert box["bbox"] == pytest.approx([10, 10, 50, 40])


@pytest.mark.parametrize("place", ["train/images", "../train/images", "[train/images]", "list.txt"])
def test_places_of_a_split(tmp_path: Path, place: str) -> None:
    image = tmp_path / "train" / "images" / "a.png"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (10, 10)).save(image)
    (tmp_path / "train" / "labels").mkdir()
    (tmp_path / "train" / "labels" / "a.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "list.txt").write_text("train/images/a.png\n")
    path = data_yaml(tmp_path, f"val: {place}\nnames: [x]\n")
    (item,) = read_yolo(path, "val").dicts
    assert item["annotations"][0]["bbox"] == [0, 0, 10, 10]


def test_labels_beside_images_and_a_file_of_classes(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("1 0.5 0.5 1 1")
    (tmp_path / "classes.txt").write_text("x\ny\n")
    dataset = read_yolo(tmp_path)
    assert dataset.class_names == ("x", "y") and len(dataset.dicts[0]["annotations"]) == 1


def test_sizes_are_those_after_rotation(tmp_path: Path) -> None:
    make(tmp_path, {"a": "0 0.5 0.5 1 1"})
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "images/train/a.png", exif=exif)
    (item,) = read_yolo(tmp_path, "train", class_names=["x"]).dicts
    assert (item["height"], item["width"]) == (40, 20)
    assert item["annotations"][0]["bbox"] == [0, 0, 20, 40]


def test_round_trip_through_our_own_export(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = rng.random((30, 2, 2)) * SIZE[::-1]
    boxes = np.concatenate([corners.min(1), corners.max(1) + 0.5], axis=1).clip(0, [100, 50] * 2)
    detections = Detections(
        boxes_xyxy=boxes.astype(np.float32),
        scores=np.ones(30, dtype=np.float32),
        classes=rng.integers(0, 3, 30),
        tile_ids=np.zeros(30, dtype=np.int64),
        truncated=np.zeros(30, dtype=bool),
        image_size=SIZE,
        class_names=("a", "b", "c"),
    )
    make(tmp_path, {"a": to_yolo(detections)})
    path = data_yaml(tmp_path, "train: images/train\n" + yolo_names(detections))
    dataset = read_yolo(path, "train")
    found = dataset.dicts[0]["annotations"]
    assert dataset.class_names == ("a", "b", "c")
    assert [a["category_id"] for a in found] == detections.classes.tolist()
    # Exports give tenths of a pixel.
    assert np.abs(np.array([a["bbox"] for a in found]) - boxes).max() < 0.051


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", "a class and 4 numbers"),
        ("0 0.5 0.5 0.2 0.2 0.9", "a class and 4 numbers"),  # a score: predictions, not labels
        ("x 0.5 0.5 0.2 0.2", "the class must be an integer"),
        ("0 0.5 half 0.2 0.2", "the rest numbers"),
        ("3 0.5 0.5 0.2 0.2", r"the class must be in 0 … 2"),
        ("-1 0.5 0.5 0.2 0.2", r"the class must be in 0 … 2"),
        ("0 50 20 10 10", "must be shares"),
        ("0 0.5 nan 0.2 0.2", "must be shares"),
        ("0 0.5 0.5 0 0.2", "must have an area"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    make(tmp_path, {"a": f"0 0.5 0.5 0.2 0.2\n{line}\n"})
    with pytest.raises(AnnotationError, match=rf"a\.txt:2: .*{message}.*got '{line}'"):
        read_yolo(tmp_path, "train", class_names=["x", "y", "z"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [x\n", "must be a YAML file"),
        ("- x\n", "must map keys"),
        ("train: images\n", "names must be a list"),
        ("names: {1: x}\n", "names must be a list"),
        ("names: [x, x]\n", "x occurs more than once"),
        ("names: [x]\nnc: 2\n", "got 2 and 1 names"),
    ],
)
def test_malformed_data_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        read_yolo(data_yaml(tmp_path, text), "train")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = data_yaml(tmp_path, "train: images/none\nnames: [x]\n")
    with pytest.raises(DatasetNotFoundError, match="must be one of train, got 'val'"):
        read_yolo(path, "val")
    with pytest.raises(DatasetNotFoundError, match="images/none does not exist"):
        read_yolo(path, "train")
    path.unlink()
    make(tmp_path, {"a": None})
    with pytest.raises(AnnotationError, match="needs class names"):
        read_yolo(tmp_path, "train")
    with pytest.raises(DatasetNotFoundError, match=r"labels/train/a\.txt\. It must look"):
        read_yolo(tmp_path, "train", class_names=["x"])
    with pytest.raises(DatasetNotFoundError, match="images of split 'val'"):
        read_yolo(tmp_path, "val", class_names=["x"])
    (tmp_path / "list.txt").write_text("images/train/a.png\n\nimages/train/b.png\n")
    path = data_yaml(tmp_path, "train: list.txt\nnames: [x]\n")
    with pytest.raises(AnnotationError, match=r"list\.txt:3: images/train/b\.png is no file"):
        read_yolo(path, "train")


def test_labels_without_an_image_are_no_silent_loss(tmp_path: Path) -> None:
    make(tmp_path, {"a": "0 0.5 0.5 1 1"})
    (tmp_path / "labels/train/b.txt").write_text("0 0.5 0.5 1 1")
    with pytest.raises(AnnotationError, match=r"labels/train/b\.txt: its image is not in"):
        read_yolo(tmp_path, "train", class_names=["x"])


def test_pyramids_are_no_further_images(tmp_path: Path) -> None:
    root = make(tmp_path, {"a": "0 0.5 0.5 0.2 0.2", "b": None})
    images = root / "images" / "train"
    (images / "pyramids").mkdir()
    for pyramid in (images / "a.tif", images / "pyramids" / "b.tif"):
        Image.new("RGB", SIZE[::-1]).save(pyramid)
    dataset = read_yolo(root, "train", class_names=("x",))
    assert [Path(item["file_name"]).name for item in dataset.dicts] == ["a.png", "b.png"]
