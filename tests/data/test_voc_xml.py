"""VOC folders: boxes count from 1, difficult objects are ignored, mistakes are told with a line."""

from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sparsenet.data.loaded_dataset import make_annotation
from sparsenet.data.voc_xml import read_voc
from sparsenet.errors import AnnotationError, DatasetNotFoundError, ImageReadError

SIZE = (60, 80)  # h, w


def xml_text(objects, *, filename="", size=SIZE):
    """The xml of objects (name, (xmin, ymin, xmax, ymax), difficult), an object per line."""
    lines = ["<annotation>", f"<filename>{filename}</filename>"]
    lines.append(f"<size><width>{size[1]}</width><height>{size[0]}</height></size>")
    for name, box, difficult in objects:
        corners = "".join(
            f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box)
        )
        lines.append(
            f"<object><name>{escape(name)}</name><difficult>{difficult}</difficult>"
            f"<bndbox>{corners}</bndbox></object>"
        )
    return "\n".join([*lines, "</annotation>"])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """VOC2007 with three images, two of them in the list "train"."""
    root = tmp_path / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    objects = {
        "000005": [("dog", (1, 1, 80, 60), 0), ("cat", (11, 21, 30, 40), 1)],
        "000007": [],
        "000009": [("bird", (5, 5, 9, 9), 0)],
    }
    for stem, content in objects.items():
        write(root, stem, xml_text(content, filename=f"{stem}.jpg"))
    (root / "ImageSets/Main/train.txt").write_text("000005\n000007  -1\n")
    return root


def write(root: Path, stem: str, text: str, *, size=SIZE) -> None:
    Image.new("RGB", size[::-1]).save(root / "JPEGImages" / f"{stem}.jpg")
    (root / "Annotations" / f"{stem}.xml").write_text(text)


def test_a_tree_of_the_benchmark(tree: Path) -> None:
    dataset = read_voc(tree, "train")
    assert dataset.class_names == ("bird", "cat", "dog")  # of all files: all splits agree
    assert dataset.class_of_category == {0: 0, 1: 1, 2: 2}
    first, second = dataset.dicts
    assert first["file_name"] == str(tree / "JPEGImages/000005.jpg")
    assert (first["height"], first["width"], first["image_id"]) == (60, 80, 1)
    assert first["annotations"] == [
        make_annotation((0, 0, 80, 60), 2, is_ignore=False),
        make_annotation((10, 20, 30, 40), 1, is_ignore=True),
    ]
    assert second["annotations"] == [] and second["image_id"] == 2
    assert len(read_voc(tree).dicts) == 3


@pytest.mark.parametrize("images", [".", "images"])
def test_folders_of_labelling_tools(tmp_path: Path, images: str) -> None:
    (tmp_path / images).mkdir(exist_ok=True)
    Image.new("RGB", SIZE[::-1]).save(tmp_path / images / "renamed.PNG")
    text = xml_text([("b", (0, 3, 90, 9.5), 0)], filename="before.png", size=(0, 0))
    (tmp_path / "renamed.xml").write_text(text)
    (tmp_path / "classes.txt").write_text("b\na\n")
    dataset = read_voc(tmp_path)
    assert dataset.class_names == ("b", "a")
    assert dataset.dicts[0]["annotations"][0]["bbox"] == [0, 2, 80, 9.5]
    assert read_voc(tmp_path, class_names=("a", "b")).class_names == ("a", "b")


def test_parts_of_an_object_are_not_objects(tree: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    text = xml_text([("dog", (1, 1, 10, 10), 0)]).replace("<bndbox>", f"{part}<bndbox>", 1)
    write(tree, "000005", text)
    (annotation,) = read_voc(tree, "train").dicts[0]["annotations"]
    assert annotation["bbox"] == [0, 0, 10, 10]


@settings(max_examples=20, deadline=None)
@given(
    boxes=st.lists(
        st.tuples(*[st.integers(1, n) for n in (40, 30)], *[st.integers(0, n) for n in (39, 29)])
    )
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, boxes) -> None:
    root = tmp_path_factory.mktemp("voc")
    corners = [(x, y, x + w, y + h) for x, y, w, h in boxes]
    Image.new("L", SIZE[::-1]).save(root / "a.png")
    (root / "a.xml").write_text(xml_text([("<&>", box, 0) for box in corners]))
    found = read_voc(root, class_names=["<&>"]).dicts[0]["annotations"]
    assert [a["bbox"] for a in found] == [[x - 1, y - 1, x2, y2] for x, y, x2, y2 in corners]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([("dog", (1, 1, 9, 9), 0), ("fox", (1, 1, 9, 9), 0)], r"xml:5: the class 'fox' must be"),
        ([("dog", (1, 1, "x", 9), 0)], r"xml:4: <bndbox> must have the numbers .*'x'"),
        ([("dog", (9, 1, 3, 9), 0)], r"xml:4: <bndbox> must have xmin <= xmax"),
        ([("dog", (1, 1, "nan", 9), 0)], r"xml:4: <bndbox> must have xmin <= xmax"),
        ([("dog", (90, 1, 99, 9), 0)], r"xml:4: <bndbox> .* is outside its image of 80 × 60"),
    ],
)
def test_malformed_objects_are_named_with_their_line(tree: Path, objects, message: str) -> None:
    write(tree, "000005", xml_text(objects))
    with pytest.raises(AnnotationError, match=r"1 are not:\n.*000005\." + message):
        read_voc(tree, "train", class_names=("dog", "cat"))


def test_malformed_files(tree: Path) -> None:
    write(tree, "000005", xml_text([], size=(60, 99)))
    with pytest.raises(AnnotationError, match="<size> says 99 × 60, the image has 80 × 60"):
        read_voc(tree)
    (tree / "Annotations/000005.xml").write_text("<annotation>\n<object></annotation>")
    with pytest.raises(AnnotationError, match=r"000005\.xml must be an xml .*line 2"):
        read_voc(tree)
    (tree / "Annotations/000005.xml").write_text("\n<data/>")
    with pytest.raises(AnnotationError, match=r"000005\.xml:2: the root .*got <data>"):
        read_voc(tree)


def test_missing_images_lists_and_folders(tree: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"'val' must be a list .*there are: train"):
        read_voc(tree, "val")
    (tree / "ImageSets/Main/val.txt").write_text("000009\n000011\n")
    with pytest.raises(AnnotationError, match=r"000011\.xml is not in"):
        read_voc(tree, "val")
    with pytest.raises(DatasetNotFoundError, match="It holds VOC2007: name one of these"):
        read_voc(tree.parent)
    (tree / "JPEGImages/000009.jpg").write_bytes(b"no image")
    with pytest.raises(ImageReadError, match=r"000009\.jpg must be an image"):
        read_voc(tree)
    (tree / "JPEGImages/000009.jpg").unlink()
    with pytest.raises(AnnotationError, match=r"000009\.xml: its image 000009\.jpg is in none"):
        read_voc(tree)
