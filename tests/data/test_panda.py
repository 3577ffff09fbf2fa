"""Reading PANDA's official annotation files."""

import json

import pytest

from sparsenet.data.panda import (
    PANDA_TREE,
    load_panda_annotations,
    split_by_scene,
    to_coco,
)
from sparsenet.errors import AnnotationError, ConfigError, DatasetError, DatasetNotFoundError


def rect(x1, y1, x2, y2):
    return {"tl": {"x": x1, "y": y1}, "br": {"x": x2, "y": y2}}


def person(full, visible=None, head=None):
    rects = {"full body": full, "visible body": visible or full, "head": head or full}
    return {
        "category": "person", "pose": "walking", "riding type": "null", "age": "adult",
        "rects": rects,
    }  # fmt: skip


def entry(number, objects, size=(1000, 2000)):
    return {
        "image id": number,
        "image size": {"height": size[0], "width": size[1]},
        "objects list": objects,
    }


@pytest.fixture
def root(tmp_path):
    """Annotation files of two scenes, three images."""
    folder = tmp_path / "image_annos"
    folder.mkdir()
    people = {
        "01_A/IMG_01_01.jpg": entry(
            1,
            [
                person(
                    rect(0.1, 0.2, 0.2, 0.5), rect(0.1, 0.2, 0.2, 0.4), rect(0.1, 0.2, 0.15, 0.25)
                ),
                {"category": "crowd", "rect": rect(0.5, 0.5, 0.7, 0.6)},
                {"category": "fake person", "rect": rect(0.8, 0.1, 0.85, 0.3)},
                {"category": "ignore", "rect": rect(0.0, 0.0, 0.1, 0.1)},
            ],
        ),
        "01_A/IMG_01_02.jpg": entry(2, [person(rect(-0.05, 0.9, 0.05, 1.2))]),
        "02_B/IMG_02_01.jpg": entry(3, [person(rect(1.1, 0.2, 1.3, 0.4))]),
    }
    cars = {
        "01_A/IMG_01_01.jpg": entry(
            1,
            [
                {"category": "small car", "rect": rect(0.3, 0.3, 0.4, 0.35)},
                {"category": "vehicles", "rect": rect(0.6, 0.6, 0.9, 0.7)},
            ],
        ),
        "02_B/IMG_02_01.jpg": entry(3, []),
    }
    (folder / "person_bbox_train.json").write_text(json.dumps(people))
    (folder / "vehicle_bbox_train.json").write_text(json.dumps(cars))
    return tmp_path


def change(root, name, edit):
    path = root / "image_annos" / name
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_boxes_become_pixels(root):
    images = load_panda_annotations(root)
    assert [i.file_name for i in images] == [
        "01_A/IMG_01_01.jpg", "01_A/IMG_01_02.jpg", "02_B/IMG_02_01.jpg",
    ]  # fmt: skip
    first = images[0]
    assert first.size == (1000, 2000) and first.scene == "01_A" and first.image_id == 1
    assert first.objects[0].bbox == pytest.approx((200, 200, 200, 300))
    assert first.objects[0].attributes == {
        "category": "person", "pose": "walking", "riding type": "null", "age": "adult",
    }  # fmt: skip
    assert [o.subject for o in first.objects] == ["person"] * 4 + ["vehicle"] * 2


@pytest.mark.parametrize(
    ("name", "bbox"),
    [
        ("full body", (200, 200, 200, 300)),
        ("visible body", (200, 200, 200, 200)),
        ("head", (200, 200, 100, 50)),
    ],
)
def test_choice_of_the_person_box(root, name, bbox):
    images = load_panda_annotations(root, person_box=name)
    assert images[0].objects[0].bbox == pytest.approx(bbox)


def test_regions_are_ignore_boxes(root):
    first = load_panda_annotations(root)[0]
    ignored = {o.attributes["category"]: o.is_ignore for o in first.objects}
    assert ignored == {
        "person": False, "crowd": True, "fake person": True, "ignore": True,
        "small car": False, "vehicles": True,
    }  # fmt: skip
    coco = to_coco([first], ("person",))
    assert [a["iscrowd"] for a in coco["annotations"]] == [0, 1, 1, 1]


def test_boxes_are_cut_at_the_border_and_left_out_beyond_it(root):
    images = load_panda_annotations(root)
    assert images[1].objects[0].bbox == pytest.approx((0, 900, 100, 100))
    assert images[2].objects == ()


def test_coco_files_hold_what_was_labelled_for_their_subject(root):
    images = load_panda_annotations(root)
    both = to_coco(images, ("person", "vehicle"))
    assert [i["id"] for i in both["images"]] == [1, 3], "image 2 was not labelled for vehicles"
    assert [c["name"] for c in both["categories"]] == ["person", "vehicle"]
    cars = to_coco(images, ("vehicle",))
    assert {a["category_id"] for a in cars["annotations"]} == {2}
    assert cars["annotations"][0]["bbox"] == [600, 300, 200, 50]
    assert cars["annotations"][0]["area"] == 10_000
    assert [i["id"] for i in to_coco(images, ("person",))["images"]] == [1, 2, 3]


def test_split_keeps_scenes_together(root):
    images = load_panda_annotations(root)
    for name in ("02", "02_B"):
        train, val = split_by_scene(images, [name])
        assert {i.scene for i in train} == {"01_A"} and {i.scene for i in val} == {"02_B"}
    assert split_by_scene(images, ["all"]) == ([], images)
    with pytest.raises(ConfigError, match=r"among \['01_A', '02_B'\].*got '07'"):
        split_by_scene(images, ["07"])


def test_missing_files_show_the_tree(tmp_path):
    with pytest.raises(DatasetNotFoundError) as caught:
        load_panda_annotations(tmp_path)
    assert PANDA_TREE in str(caught.value) and str(tmp_path) in str(caught.value)


def test_one_kind_and_the_other_name_suffice(root):
    folder = root / "image_annos"
    (folder / "vehicle_bbox_train.json").unlink()
    (folder / "person_bbox_train.json").rename(folder / "human_bbox_train.json")
    images = load_panda_annotations(root)
    assert len(images) == 3 and images[0].subjects == ("person",)
    assert to_coco(images, ("person", "vehicle"))["images"] == []


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda e: e.pop("image size"), "the key 'image size' is missing"),
        (lambda e: e["objects list"][0].pop("rects"), "in object 0 the key 'rects' is missing"),
        (lambda e: e["objects list"][1].pop("rect"), "in object 1 the key 'rect' is missing"),
        (
            lambda e: e["objects list"][0]["rects"]["full body"]["tl"].update(x="left"),
            "in object 0 could not convert",
        ),
        (lambda e: e["objects list"][1]["rect"]["tl"].update(x=0.9), "corners are exchanged"),
        (lambda e: e["objects list"][1]["rect"]["tl"].update(x=float("nan")), "not finite"),
        (lambda e: e.update({"objects list": 5}), "not iterable"),
        (lambda e: e["image size"].update(width=0), r"its size is \(1000, 0\)"),
    ],
)
def test_malformed_entries_are_named(root, edit, message):
    change(root, "person_bbox_train.json", lambda c: edit(c["01_A/IMG_01_01.jpg"]))
    expected = rf"person_bbox_train\.json, entry '01_A/IMG_01_01\.jpg': .*{message}"
    with pytest.raises(AnnotationError, match=expected):
        load_panda_annotations(root)


def test_contradicting_files_are_refused(root):
    path = root / "image_annos" / "vehicle_bbox_train.json"
    change(root, path.name, lambda c: c["02_B/IMG_02_01.jpg"]["image size"].update(width=5))
    with pytest.raises(DatasetError, match=r"02_B/IMG_02_01.jpg: the image size must equal"):
        load_panda_annotations(root)
    path.write_text("{")
    with pytest.raises(AnnotationError, match=r"vehicle_bbox_train\.json must be json"):
        load_panda_annotations(root)
    path.write_text("[]")
    with pytest.raises(AnnotationError, match="one entry per image, got a list"):
        load_panda_annotations(root)


def test_repeated_ids_and_unknown_boxes_are_refused(root):
    with pytest.raises(ConfigError, match=r"must be one of .*got 'torso'"):
        load_panda_annotations(root, person_box="torso")
    change(
        root,
        "person_bbox_train.json",
        lambda c: c["01_A/IMG_01_02.jpg"].update({"image id": 1}),
    )
    with pytest.raises(AnnotationError, match="needs its own 'image id'; 1 occurs twice"):
        load_panda_annotations(root)
