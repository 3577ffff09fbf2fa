"""Composed scenes: truth, determinism, splits, files and the command line."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import pyvips

from sparsenet.data.scene import (
    PERSON,
    SCENERY,
    VEHICLE,
    Placement,
    SceneComposer,
    TruthOptions,
    contact_shadow,
)
from sparsenet.data.scene_cutouts import load_cutouts, split_members
from sparsenet.data.scene_drawn import Perspective, draw_scene
from sparsenet.data.scene_figures import PERSON_ASPECT, draw_person
from sparsenet.data.scene_files import check_format
from sparsenet.data.scene_ground import PhotoGround, list_photos
from sparsenet.data.scene_layout import (
    choose_layout,
    load_layouts,
    place_cutouts,
    resize_rgba,
    scene_of,
)
from sparsenet.data.scene_paving import DrawnGround, Road
from sparsenet.data.scene_pen import sprite_size
from sparsenet.data.scene_pixels import PixelFile
from sparsenet.data.scene_recipe import SceneRecipe, make_scenes
from sparsenet.data.scene_scenery import SCENERY_KINDS, draw_scenery
from sparsenet.data.scene_vehicles import KINDS, VIEWS, draw_vehicle, vehicle_aspect
from sparsenet.errors import AnnotationError, ConfigError, DatasetError, DatasetNotFoundError

sys.path.insert(0, str(Path(__file__).parents[2] / "datasets"))
import make_scene


class FlatGround:
    """A grey ground."""

    def __init__(self, size):
        self.size = size

    def band(self, top, bottom):
        return np.full((bottom - top, self.size[1], 3), 100, np.uint8)


def block(category, x, y, size, depth, colour=(200, 0, 0)):
    """An opaque rectangle."""
    sprite = np.zeros((*size, 4), np.uint8)
    sprite[...] = (*colour, 255)
    return Placement(category, x, y, size, depth, lambda: sprite)


def compose(placements, size=(100, 120), band_height=32, **options):
    composer = SceneComposer(FlatGround(size), placements, band_height=band_height)
    image = np.concatenate(list(composer.bands()))
    return image, composer.truth(TruthOptions(**options)) if options else composer.truth()


# --- composer ---------------------------------------------------------------------------------


def test_truth_is_the_visible_extent():
    far = block(PERSON, 10, 10, (60, 20), depth=70)
    near = block(VEHICLE, 5, 40, (40, 40), depth=80, colour=(0, 0, 200))
    image, truth = compose([near, far])  # given in the wrong order: depth decides
    assert [t["bbox"] for t in truth] == [[10, 10, 20, 30], [5, 40, 40, 40]]
    assert truth[0]["visibility"] == 0.5 and truth[0]["area"] == 600
    assert truth[1]["visibility"] == 1.0 and truth[1]["iscrowd"] == 0
    assert image[45, 15].tolist() == [0, 0, 200] and image[20, 15].tolist() == [200, 0, 0]


@pytest.mark.parametrize("band_height", [1, 7, 33, 1000])
def test_bands_do_not_change_the_scene(band_height):
    rng = np.random.default_rng(3)
    placements = [
        block(PERSON, int(x), int(y), (30, 12), depth=float(y), colour=(int(x) + 20, 9, 9))
        for x, y in rng.integers(-10, 100, (25, 2))
    ]
    expected_image, expected_truth = compose(placements, band_height=100)
    image, truth = compose(placements, band_height=band_height)
    np.testing.assert_array_equal(image, expected_image)
    assert truth == expected_truth


def test_hidden_and_small_objects_are_ignored_and_invisible_ones_left_out():
    covered = block(PERSON, 0, 0, (40, 20), depth=1)
    mostly = block(PERSON, 30, 0, (40, 20), depth=2)
    small = block(PERSON, 80, 0, (8, 4), depth=3)
    screens = [block(SCENERY, 0, 0, (40, 20), 4), block(SCENERY, 30, 0, (30, 20), 5)]
    _, truth = compose([covered, mostly, small, *screens], min_visible=0.35, min_side=12)
    assert [(t["bbox"], t["iscrowd"]) for t in truth] == [
        ([30, 30, 20, 10], 1),
        ([80, 0, 4, 8], 1),
    ]
    assert truth[0]["visibility"] == 0.25


def test_what_is_outside_the_image_counts_as_hidden():
    _, truth = compose([block(PERSON, -15, 60, (80, 20), depth=1)])
    assert truth[0]["bbox"] == [0, 60, 5, 40]
    assert truth[0]["visibility"] == pytest.approx(5 * 40 / (20 * 80))


def test_shadows_and_soft_edges_hide_nothing():
    person = block(PERSON, 40, 10, (50, 20), depth=1)
    other = block(PERSON, 40, 45, (40, 20), depth=2)
    shadow = contact_shadow(other, strength=0.9)
    image, truth = compose([person, shadow, other])
    assert truth[0]["visibility"] == pytest.approx(0.7)
    assert shadow.category_id == SCENERY and shadow.render().max() < 128
    assert image[82:88, 36:40].min() < 100, "the ground beside the feet is darker"


def test_too_many_sprites_are_refused():
    with pytest.raises(ConfigError, match="at most 65534 sprites, got 65535"):
        SceneComposer(FlatGround((10, 10)), [block(PERSON, 0, 0, (1, 1), 0)] * 65_535)


# --- drawn figures ----------------------------------------------------------------------------


@pytest.mark.parametrize("height", [12, 90, 333])
def test_figures_have_their_declared_size_and_fill_it(height):
    person = draw_person(height, (1, 2, 3))
    assert person.shape == (*sprite_size(height, PERSON_ASPECT), 4)
    rows = np.flatnonzero((person[..., 3] > 128).any(1))
    assert rows[0] <= 0.06 * height and rows[-1] >= 0.94 * height - 1, "from head to toe"
    for kind in KINDS:
        for view in VIEWS:
            vehicle = draw_vehicle(height, kind, view, (1, 2, 3))
            assert vehicle.shape == (*sprite_size(height, vehicle_aspect(kind, view)), 4)
            assert (vehicle[..., 3] > 128).mean() > 0.5
    for name, (_, aspect, _) in SCENERY_KINDS.items():
        assert draw_scenery(height, name, (1,)).shape == (*sprite_size(height, aspect), 4)


def test_figures_depend_on_the_seed_only():
    np.testing.assert_array_equal(draw_person(80, (1, 2)), draw_person(80, (1, 2)))
    looks = {draw_person(80, (1, i)).tobytes() for i in range(20)}
    assert len(looks) == 20


def test_drawn_ground_is_the_same_in_any_bands():
    roads = [Road(90.0, 60.0, 200.0)]
    whole = DrawnGround((300, 500), roads, seed=4).band(0, 300)
    ground = DrawnGround((300, 500), roads, seed=4)
    parts = [ground.band(top, min(300, top + 77)) for top in range(0, 300, 77)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.reshape(-1, 3).std(0).min() > 5, "textured"
    assert not np.array_equal(whole, DrawnGround((300, 500), roads, seed=5).band(0, 300))


def test_people_grow_towards_the_camera():
    view = Perspective((12_288, 17_408))
    heights = [view.person_height(y) for y in (0, 3000, 6000, 12_288)]
    assert heights == sorted(heights) and heights[0] == 40 and heights[-1] == 640
    _, placements = draw_scene((3000, 4000), seed=1)
    for category in (PERSON, VEHICLE, SCENERY):
        assert sum(p.category_id == category for p in placements) > 3


# --- cut-outs, layout and ground --------------------------------------------------------------


def photo_of(category, seed, size=(240, 320)):
    """A noisy photo with one or two textured ellipses, and their annotations without ids."""
    rng = np.random.default_rng(seed)
    photo = rng.integers(90, 130, (*size, 3)).astype(np.uint8)
    centre, axes = ((100, 120), (30, 90)) if category == "person" else ((160, 120), (110, 60))
    outline = cv2.ellipse2Poly(centre, axes, 0, 0, 360, 6)
    tones = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [outline], 1)
    photo[mask > 0] = tones[mask > 0]
    box = [int(v) for v in (*outline.min(0), *np.ptp(outline, axis=0))]
    return photo, {"bbox": box, "segmentation": [outline.ravel().tolist()], "iscrowd": 0}


def write_coco(folder, entries, names=("person", "car")):
    """``entries``: (file name, photo, annotations with 'category')."""
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, (name, photo, found) in enumerate(entries, start=1):
        cv2.imwrite(str(folder / name), photo)
        images.append(
            {"id": number, "file_name": name, "height": photo.shape[0], "width": photo.shape[1]}
        )
        for item in found:
            category = names.index(item["category"]) + 1
            record = {k: v for k, v in item.items() if k != "category"}
            record.update(id=len(annotations) + 1, image_id=number, category_id=category)
            annotations.append(record)
    categories = [{"id": i, "name": n} for i, n in enumerate(names, start=1)]
    path = folder / "instances.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def sources(tmp_path):
    """A small set of cut-outs, ground photos and a layout of four scenes."""
    entries = []
    for i in range(6):
        for category in ("person", "car"):
            photo, item = photo_of(category, i)
            entries.append((f"{category}{i}.png", photo, [{**item, "category": category}]))
    cutouts = write_coco(tmp_path / "cutouts", entries)
    ground = tmp_path / "ground"
    ground.mkdir()
    for i in range(4):
        noise = np.random.default_rng(i).integers(60, 120, (40, 50, 3)).astype(np.uint8)
        cv2.imwrite(str(ground / f"g{i}.png"), cv2.resize(noise, (700, 600)))
    images, annotations = [], []
    for i in range(1, 5):
        images.append({"id": i, "file_name": f"IMG_0{i}_29.jpg", "height": 500, "width": 640})
        for bbox, category in (
            ([50, 60, 30, 80], 1),
            ([300, 200, 160, 90], 2),
            ([310, 150, 60, 180], 1),
        ):
            record = {"id": len(annotations), "image_id": i, "category_id": category}
            annotations.append({**record, "bbox": bbox, "iscrowd": 0})
    layout = tmp_path / "layout.json"
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "vehicle"}]
    layout.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return {"cutouts": (cutouts,), "ground": ground, "layout": layout}


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


# --- files and command line -------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 5), (16, 7), (100, 33)])
def test_pixel_file_is_a_readable_image(tmp_path, size):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    file = PixelFile(tmp_path / "p.tif", size)
    assert sum(file.write(np.array_split(pixels, min(3, size[0])))) == size[0]
    image = pyvips.Image.new_from_file(str(file.path), access="sequential", fail_on="warning")
    np.testing.assert_array_equal(image.numpy(), pixels)
    assert image.interpretation == "srgb"
    np.testing.assert_array_equal(file.rows(0, 99_999), pixels)
    np.testing.assert_array_equal(file.rows(size[0] // 2, size[0]), pixels[size[0] // 2 :])


def read_all(folder):
    return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}


def test_drawn_scenes_are_deterministic_files(tmp_path):
    recipe = SceneRecipe(size=(500, 600), density=0.15)
    for name in ("a", "b"):
        make_scenes(recipe, tmp_path / name, seed=5, num_scenes=2, quiet=True)
    content = make_scenes(recipe, tmp_path / "c", seed=6, quiet=True)
    first = read_all(tmp_path / "a")
    assert sorted(first) == [
        "annotations.json", "scene_0005.jpg", "scene_0005.tif", "scene_0005_contact_sheet.jpg",
        "scene_0006.jpg", "scene_0006.tif", "scene_0006_contact_sheet.jpg",
    ]  # fmt: skip
    assert first == read_all(tmp_path / "b"), "same seed, same bytes"
    assert first["scene_0005.tif"] != first["scene_0006.tif"], "another seed, another scene"
    assert first["scene_0006.tif"] == (tmp_path / "c" / "scene_0006.tif").read_bytes()
    assert content["info"]["seed"] == 6 and content["info"]["size"] == [500, 600]


def test_truth_file_and_pixels_agree(tmp_path):
    make_scenes(SceneRecipe(size=(1100, 1500), density=0.6), tmp_path, seed=2, quiet=True)
    content = json.loads((tmp_path / "annotations.json").read_text())
    image = content["images"][0]
    assert (image["height"], image["width"]) == (1100, 1500)
    assert image["file_name"] == "scene_0002.tif" and image["seed"] == 2
    assert [c["name"] for c in content["categories"]] == ["person", "vehicle"]
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        assert 0 <= x < x + w <= 1500 and 0 <= y < y + h <= 1100
        assert 0 < annotation["area"] <= w * h
        assert annotation["iscrowd"] or annotation["visibility"] >= 0.35
    ids = [a["id"] for a in content["annotations"]]
    assert ids == list(range(1, len(ids) + 1)) and len(ids) > 20
    tiff = pyvips.Image.new_from_file(str(tmp_path / "scene_0002.tif"))
    assert (tiff.width, tiff.height, tiff.get("n-pages")) == (1500, 1100, 4), "a pyramid"
    assert tiff.get("tile-width") == 256
    jpeg = pyvips.Image.new_from_file(str(tmp_path / "scene_0002.jpg"))
    assert abs(tiff.numpy().astype(int) - jpeg.numpy()).mean() < 2, "the same picture"


def test_pixels_differ_from_the_ground_only_near_objects():
    """The boxes are where something was painted."""
    _, placements = draw_scene((900, 1200), seed=8, density=0.3)
    objects = [p for p in placements if p.category_id in (PERSON, VEHICLE)]
    painted, truth = compose(objects, size=(900, 1200), band_height=400, min_visible=0.0)
    assert len(truth) > 20
    bare = np.full_like(painted, 100)
    changed = (painted != bare).any(-1)
    inside = np.zeros_like(changed)
    for annotation in truth:
        x, y, w, h = annotation["bbox"]
        edge = 2 + h // 8  # hands and feet of small figures cover less than half a pixel
        inside[max(0, y - edge) : y + h + edge, max(0, x - edge) : x + w + edge] = True
        assert changed[y : y + h, x : x + w].mean() > 0.25
    assert not (changed & ~inside).any(), "nothing is painted outside the boxes' soft edges"


def test_real_scenes_by_command_line(sources, tmp_path, capsys):
    arguments = [
        "--cutouts", str(sources["cutouts"][0]), "--ground", str(sources["ground"]),
        "--layout", str(sources["layout"]), "--num-scenes", "2", "--seed", "3", "--quiet",
        "--scale", "1.5",
    ]  # fmt: skip
    for part in ("train", "eval"):
        output = ["--output", str(tmp_path / part), "--split", part, "--format", "tiff"]
        assert make_scene.main([*arguments, *output]) == 0
    assert "persons" in capsys.readouterr().out
    content = {
        p: json.loads((tmp_path / p / "annotations.json").read_text()) for p in ("train", "eval")
    }
    layouts = {p: {i["layout"] for i in c["images"]} for p, c in content.items()}
    assert not layouts["train"] & layouts["eval"]
    assert content["train"]["info"]["split"] == "train"
    assert all(i["width"] == 960 for i in content["train"]["images"])
    assert len(content["train"]["annotations"]) == 6
    assert not (tmp_path / "train" / "scene_0003.jpg").exists()


def test_jpeg_limits(tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"at most 65500 pixels per side.*--format tiff"):
        check_format((100, 65_535), ["jpeg", "tiff"])
    check_format((100, 65_535), ["tiff"])
    with pytest.raises(ConfigError, match="jpeg or tiff"):
        check_format((100, 100), ["png"])
    size = ["--size", "64", "70000", "--format", "jpeg"]
    assert make_scene.main(["--output", str(tmp_path / "o"), *size]) == 2
    assert "Write it with --format tiff" in capsys.readouterr().err
    assert not (tmp_path / "o").exists(), "refused before anything is written"


def test_bad_arguments_are_named(sources, tmp_path, capsys):
    ground = str(sources["ground"])
    assert make_scene.main(["--output", str(tmp_path / "o"), "--ground", ground]) == 2
    assert "together, got only --ground" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="sides of 64 px or more"):
        SceneRecipe(size=(10, 100))
    with pytest.raises(ConfigError, match="got 0, 0 and 88"):
        make_scenes(SceneRecipe(size=(100, 100)), tmp_path, seed=0, num_scenes=0)
    (tmp_path / "file").write_text("")
    assert make_scene.main(["--output", str(tmp_path / "file"), "--size", "100", "100"]) == 2
    assert "must be a folder that can be written" in capsys.readouterr().err
