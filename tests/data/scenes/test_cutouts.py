"""Cut-outs, layouts and photo grounds of composed scenes."""

import json

import cv2
import numpy as np
import pytest
from data.scenes.sources import photo_of, write_coco, write_sources

from sparsenet.data.scenes.cutouts import load_cutouts, split_members
from sparsenet.data.scenes.ground import PhotoGround, list_photos
from sparsenet.data.scenes.layout import (
    choose_layout,
    load_layouts,
    place_cutouts,
    resize_rgba,
    scene_of,
)
from sparsenet.data.scenes.scene import (
    PERSON,
    SCENERY,
    VEHICLE,
)
from sparsenet.errors import AnnotationError, ConfigError, DatasetError, DatasetNotFoundError


@pytest.fixture
def sources(tmp_path):
    return write_sources(tmp_path)


def test_only_whole_large_objects_are_cut_out(tmp_path):
    photo, item = photo_of("person", 0)
    good = {**item, "category": "person"}
    x, y, w, h = item["bbox"]
    half = [p for p in item["segmentation"][0]]
    bad = [
        {**good, "iscrowd": 1},
        {**good, "bbox": [0, y, w + x, h]},  # touches the border
        {**good, "bbox": [x, y, 20, 30]},  # small
        {**good, "bbox": [x, y, w, w]},  # a square is no standing person
        {**good, "segmentation": [half, half]},  # in two pieces
        {**good, "category": "dog"},
    ]
    path = write_coco(tmp_path, [("a.png", photo, [*bad, good])], names=("person", "dog"))
    found = load_cutouts([path], quiet=True)
    assert [c.source for c in found] == ["a.png: 7"]
    cutout = found[0]
    assert cutout.category_id == PERSON and cutout.aspect == pytest.approx(w / h, abs=0.02)
    alpha = cutout.rgba[..., 3]
    assert alpha[alpha.shape[0] // 2, alpha.shape[1] // 2] == 255
    assert ((alpha > 0) & (alpha < 255)).sum() > 50, "the edge is soft"


def test_objects_without_mask_are_cut_out_by_colour(tmp_path):
    photo = np.full((120, 200, 3), 90, np.uint8)
    photo += np.random.default_rng(0).integers(0, 8, photo.shape).astype(np.uint8)
    cv2.rectangle(photo, (50, 40), (139, 79), (200, 40, 30), -1)
    cv2.rectangle(photo, (70, 45), (120, 74), (230, 200, 190), -1)
    item = {"bbox": [49, 39, 92, 42], "category": "car", "iscrowd": 0}
    found = load_cutouts([write_coco(tmp_path, [("a.png", photo, [item])])], quiet=True)
    assert found[0].category_id == VEHICLE
    height, width = found[0].rgba.shape[:2]
    assert abs(height - 40) <= 4 and abs(width - 90) <= 4


def test_cutouts_refuse_bad_files(tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"must exist at .*none\.json"):
        load_cutouts([tmp_path / "none.json"])
    (tmp_path / "bad.json").write_text("[1, 2]")
    with pytest.raises(AnnotationError, match=r"bad\.json must be a COCO json file; it lacks"):
        load_cutouts([tmp_path / "bad.json"])
    photo, item = photo_of("person", 0)
    entry = ("a.png", photo, [{**item, "category": "person", "bbox": [1, 2]}])
    path = write_coco(tmp_path / "c", [entry])
    with pytest.raises(AnnotationError, match=r"annotation 1: bbox must be"):
        load_cutouts([path], quiet=True)
    path = write_coco(tmp_path / "d", [("a.png", photo, [{**item, "category": "person"}])])
    (tmp_path / "d" / "a.png").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"names a\.png, which must be a readable photo"):
        load_cutouts([path], quiet=True)
    path = write_coco(tmp_path / "e", [("a.png", photo, [])])
    with pytest.raises(DatasetError, match="At least one whole object"):
        load_cutouts([path], quiet=True)


def test_split_depends_on_names_only_and_shares_nothing():
    names = [f"photo{i}" for i in range(20)]
    train = split_members(names, "train", 0.7)
    held_out = split_members(names, "eval", 0.7)
    assert len(train) == 14 and set(train) | set(held_out) == set(names)
    assert not set(train) & set(held_out)
    assert set(split_members(names[::-1], "train", 0.7)) == set(train)
    frames = split_members(range(6), "train", 0.5, ["a", "a", "a", "b", "b", "b"])
    assert frames in ([0, 1, 2], [3, 4, 5]), "members with the same name stay together"
    with pytest.raises(DatasetError, match="At least two sources"):
        split_members(["a"], "train", 0.7)
    with pytest.raises(ConfigError, match=r"got 'test' and 0.7"):
        split_members(names, "test", 0.7)


def test_no_photo_scene_or_ground_is_in_both_parts(sources):
    path = sources["cutouts"][0]
    parts = {p: load_cutouts([path], part=p, quiet=True) for p in ("train", "eval", "all")}
    photos = {p: {c.source.split(":")[0] for c in found} for p, found in parts.items()}
    assert photos["train"] and not photos["train"] & photos["eval"]
    assert photos["train"] | photos["eval"] == photos["all"]
    for part in ("train", "eval"):
        assert {c.category_id for c in parts[part]} == {PERSON, VEHICLE}, "both parts have both"
    layouts = {
        p: {x.name for x in load_layouts(sources["layout"], part=p)} for p in ("train", "eval")
    }
    assert layouts["train"] and layouts["eval"] and not layouts["train"] & layouts["eval"]
    same = ["car0", "car1", "person", "person0", "person1"]  # the longest prefix counts
    pinned = load_cutouts([path], part="train", same_source=same, quiet=True)
    people = {c.source.split(":")[0] for c in pinned if c.category_id == PERSON}
    rest = {f"person{i}.png" for i in range(2, 6)}
    assert people & rest in (set(), rest), "photos with one prefix are not divided"


def test_scene_of_follows_panda():
    assert scene_of("01_University_Canteen/IMG_01_03.jpg") == "01_University_Canteen"
    assert scene_of("IMG_01_29.jpg") == scene_of("IMG_01_30.jpg") == "IMG_01"
    assert scene_of("photo.jpg") == "photo"


def test_placements_follow_the_layout(sources):
    layout = load_layouts(sources["layout"])[0].scaled(0.5)
    assert layout.size == (250, 320)
    cutouts = load_cutouts(list(sources["cutouts"]), quiet=True)
    placements = place_cutouts(layout, cutouts, seed=1)
    objects = [p for p in placements if p.category_id != SCENERY]
    assert len(placements) == 2 * len(objects) == 6
    for (category, (x, y, w, h)), placed in zip(layout.boxes, objects, strict=True):
        assert placed.category_id == category
        assert placed.bottom == round(y + h) or abs(placed.bottom - (y + h)) <= 1, "feet"
        assert abs(placed.x + placed.size[1] / 2 - (x + w / 2)) <= 1
        assert placed.size[0] <= 1.21 * h + 1 and placed.size[1] <= 1.21 * w + 1
        assert placed.render().shape == (*placed.size, 4)


def test_cutouts_are_not_enlarged_more_than_three_times(sources):
    layout = load_layouts(sources["layout"])[0].scaled(40)
    cutouts = load_cutouts(list(sources["cutouts"]), quiet=True)
    tallest = max(c.rgba.shape[0] for c in cutouts)
    for placed in place_cutouts(layout, cutouts, seed=1):
        if placed.category_id != SCENERY:
            assert placed.size[0] <= 3 * tallest + 1


def test_resize_keeps_hidden_colours_out_of_the_edge():
    sprite = np.zeros((40, 40, 4), np.uint8)
    sprite[..., 1] = 255  # green where transparent
    sprite[10:30, 10:30] = (200, 0, 0, 255)
    small = resize_rgba(sprite, (13, 13))
    edge = (small[..., 3] > 20) & (small[..., 3] < 235)
    assert edge.any() and small[edge][:, 1].max() <= 2


def test_layout_errors(sources, tmp_path):
    layouts = load_layouts(sources["layout"])
    assert choose_layout(layouts, "IMG_02_29", 0).name == "IMG_02_29.jpg"
    assert choose_layout(layouts, "3", 0) is layouts[3]
    assert choose_layout(layouts, None, 5) is layouts[1]
    with pytest.raises(ConfigError, match=r"must be one of .*IMG_01_29"):
        choose_layout(layouts, "IMG_99_29", 0)
    cutouts = [
        c for c in load_cutouts(list(sources["cutouts"]), quiet=True) if c.category_id == PERSON
    ]
    with pytest.raises(DatasetError, match="category 2, but no cut-out is of it"):
        place_cutouts(layouts[0], cutouts, seed=0)
    content = json.loads(sources["layout"].read_text())
    content["annotations"][2]["bbox"] = [1, 2, 0, 4]
    (tmp_path / "l.json").write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"l\.json, annotation 2: bbox"):
        load_layouts(tmp_path / "l.json")


def test_photo_ground_is_seamless_and_the_same_in_any_bands(sources):
    photos = list_photos(sources["ground"])
    settings = {"seed": 3, "patch": 128, "overlap": 32}
    whole = PhotoGround(photos, (500, 700), **settings).band(0, 500)
    ground = PhotoGround(photos, (500, 700), **settings)
    parts = [ground.band(top, min(500, top + 90)) for top in range(0, 500, 90)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    # A seam would make the step across a patch border larger than the steps elsewhere.
    step = np.abs(np.diff(whole.astype(float), axis=1)).mean((0, 2))
    assert step[127:640:128].mean() < 1.5 * step.mean()
    with pytest.raises(DatasetNotFoundError, match="at least one photo"):
        list_photos(sources["layout"].parent / "cutouts" / "nowhere")
