"""The seam rule: properties, single cases, and scenes seen by a detector that knows the truth."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_data import shared_path
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_detector import (
    PERFECT,
    Noise,
    count_matches,
    detect_tiles,
    perspective_crowd,
    tile_windows,
    without_near_twins,
)
from pycocotools import mask as coco_mask
from torchvision.ops import nms

from sparsenet.errors import ConfigError
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.masks import encode_mask, mask_windows
from sparsenet.gigapixel.merge import merge_detections
from sparsenet.tiling.grid import TileGrid


def detections(rows, classes=None):
    """From (x1, y1, x2, y2, score, truncated, tile) rows."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return Detections(
        boxes_xyxy=table[:, :4],
        scores=table[:, 4],
        classes=np.zeros(len(table)) if classes is None else np.array(classes),
        truncated=table[:, 5].astype(bool),
        tile_ids=table[:, 6].astype(int),
        image_size=(1000, 1000),
        class_names=("person", "vehicle"),
    )


def rows_of(found):
    """The detections as a list of comparable tuples, in their order."""
    columns = (found.scores, found.classes, found.truncated, found.tile_ids)
    return [
        (*box, *rest)
        for box, *rest in zip(found.boxes_xyxy.tolist(), *(c.tolist() for c in columns))
    ]


# Coarse values make equal scores, equal boxes and boxes without area frequent.
coordinate = st.integers(0, 20).map(lambda v: v * 5.0)
box_row = st.tuples(
    coordinate, coordinate, coordinate, coordinate,
    st.sampled_from([0.1, 0.5, 0.9]), st.booleans(), st.integers(0, 3), st.integers(0, 1),
).map(lambda r: (*r[:2], r[0] + r[2], r[1] + r[3], *r[4:]))  # fmt: skip
scenes = st.lists(box_row, max_size=40).map(
    lambda rows: detections([row[:7] for row in rows], [row[7] for row in rows])
)


# Four overlapping tiles of the scenes, by number.
WINDOWS = np.array([[0, 0, 120, 120], [80, 0, 200, 120], [0, 80, 120, 200], [80, 80, 200, 200.0]])
suppressing = st.sampled_from(["seam", "nms", "cnms"])


@settings(max_examples=80, deadline=None)
@given(scenes, st.sampled_from(["seam", "nms", "cnms", "nmm"]), st.randoms(use_true_random=False))
def test_neither_order_nor_sharding_of_the_tiles_matters(scene, method, random):
    options = {"method": method, "tile_windows": WINDOWS}
    tiles = list(range(4))
    random.shuffle(tiles)
    shards = [scene[scene.tile_ids == tile] for tile in tiles]
    joined = merge_detections(Detections.cat(shards), **options)
    assert rows_of(joined) == rows_of(merge_detections(scene, **options))


@settings(max_examples=60, deadline=None)
@given(scenes, suppressing)
def test_merging_twice_changes_nothing(scene, method):
    once = merge_detections(scene, method=method, tile_windows=WINDOWS)
    assert rows_of(merge_detections(once, method=method, tile_windows=WINDOWS)) == rows_of(once)


@settings(max_examples=60, deadline=None)
@given(scenes, suppressing)
def test_the_result_is_a_subset_by_falling_score(scene, method):
    merged = merge_detections(scene, method=method, tile_windows=WINDOWS)
    rest = rows_of(scene)
    for row in rows_of(merged):
        rest.remove(row)  # raises if a box was changed, enlarged or invented
    assert (np.diff(merged.scores) <= 0).all()


@settings(max_examples=60, deadline=None)
@given(scenes)
def test_masks_that_fill_their_boxes_change_nothing(scene):
    windows = mask_windows(scene.boxes_xyxy)
    filled = [encode_mask(np.ones((y2 - y1, x2 - x1), bool)) for x1, y1, x2, y2 in windows]
    # A mask has at least one pixel: boxes without area are no boxes of masks.
    has_area = (scene.boxes_xyxy[:, 2:] > scene.boxes_xyxy[:, :2]).all(axis=1)
    with_masks = replace(scene, masks=filled)[has_area]
    merged = merge_detections(with_masks, tile_windows=WINDOWS)
    assert rows_of(merged) == rows_of(merge_detections(scene[has_area], tile_windows=WINDOWS))
    assert len(merged.masks) == len(merged)


@settings(max_examples=60, deadline=None)
@given(scenes)
def test_one_tile_is_plain_nms(scene):
    one_tile = Detections(
        scene.boxes_xyxy, scene.scores, scene.classes, np.zeros(len(scene)),
        np.zeros(len(scene)), scene.image_size,
    )  # fmt: skip
    merged = merge_detections(one_tile)
    expected = []
    for row in sorted(rows_of(one_tile), key=lambda r: (-r[4], area(r) * -1, *r[:4], r[5])):
        if all(kept[5] != row[5] or iou(kept, row) <= 0.5 for kept in expected):
            expected.append(row)
    assert sorted(rows_of(merged)) == sorted(expected)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = area(a) + area(b) - width * height
    return width * height / union if union else 0.0


def test_a_whole_box_removes_a_better_scored_part_of_another_tile():
    whole, part = (0, 0, 100, 100, 0.6, 0, 0), (0, 0, 40, 100, 0.9, 1, 1)
    merged = merge_detections(detections([part, whole]))
    assert rows_of(merged) == rows_of(detections([whole]))


def test_a_part_stays_if_too_little_of_it_lies_inside():
    whole, other = (0, 0, 100, 100, 0.9, 0, 0), (35, 0, 135, 60, 0.8, 1, 1)  # 65 % inside
    assert len(merge_detections(detections([whole, other]))) == 2
    assert len(merge_detections(detections([whole, other]), containment_threshold=0.6)) == 1


def test_a_small_whole_object_inside_a_large_one_stays():
    child, adult = (40, 40, 60, 90, 0.5, 0, 1), (0, 0, 100, 100, 0.9, 0, 0)
    assert len(merge_detections(detections([adult, child]))) == 2


def test_boxes_of_one_tile_are_never_parts_of_each_other():
    large, small = (0, 0, 100, 100, 0.9, 0, 3), (0, 0, 100, 40, 0.8, 1, 3)
    assert len(merge_detections(detections([large, small]))) == 2


def test_classes_do_not_meet():
    same_place = [(0, 0, 100, 100, 0.9, 0, 0), (0, 0, 100, 100, 0.8, 0, 1)]
    assert len(merge_detections(detections(same_place, [0, 1]))) == 2
    assert len(merge_detections(detections(same_place, [1, 1]))) == 1


def test_of_two_cut_parts_the_contained_one_goes_and_halves_stay():
    sliver, part = (0, 0, 20, 100, 0.7, 1, 0), (0, 0, 90, 100, 0.8, 1, 1)
    assert rows_of(merge_detections(detections([sliver, part]))) == rows_of(detections([part]))
    left, right = (0, 0, 60, 100, 0.7, 1, 0), (50, 0, 110, 100, 0.8, 1, 1)
    assert len(merge_detections(detections([left, right]))) == 2


# Two tiles side by side share x from 400 to 500.
SIDE_BY_SIDE = np.array([[0, 0, 500, 500], [400, 0, 900, 500.0]])


def test_parts_of_an_object_that_is_whole_in_no_tile_count_once():
    left, right = (100, 50, 500, 250, 0.8, 1, 0), (400, 55, 700, 245, 0.9, 1, 1)
    scene = detections([left, right])
    assert len(merge_detections(scene)) == 2
    merged = merge_detections(scene, tile_windows=SIDE_BY_SIDE)
    assert rows_of(merged) == rows_of(detections([left]))  # score times area


@pytest.mark.parametrize(
    "neighbour",
    [
        (400, 200, 700, 400, 0.9, 1, 1),
        (460, 50, 700, 250, 0.9, 0, 1),
        (430, 50, 500, 250, 0.9, 1, 0),
    ],
    ids=["beside it at the seam", "whole", "of the same tile"],
)
def test_other_objects_at_the_seam_stay(neighbour):
    left = (100, 50, 500, 250, 0.8, 1, 0)
    assert len(merge_detections(detections([left, neighbour]), tile_windows=SIDE_BY_SIDE)) == 2


def with_masks(rows, covers):
    """Detections whose masks cover a part of the box: "all", "left" or "right"."""
    scene = detections(rows)
    masks = []
    for (x1, y1, x2, y2), cover in zip(mask_windows(scene.boxes_xyxy), covers):
        pixels = np.ones((y2 - y1, x2 - x1), dtype=bool)
        half = (x2 - x1) // 2
        pixels[:, slice(half, None) if cover == "left" else slice(0, 0)] = False
        pixels[:, slice(0, half) if cover == "right" else slice(0, 0)] = False
        masks.append(encode_mask(pixels))
    return replace(scene, masks=masks)


def test_masks_tell_apart_what_boxes_cannot():
    rows = [(0, 0, 100, 100, 0.9, 0, 0), (5, 0, 105, 100, 0.8, 0, 1)]
    assert len(merge_detections(detections(rows))) == 1
    assert len(merge_detections(with_masks(rows, ["left", "right"]))) == 2
    assert len(merge_detections(with_masks(rows, ["left", "left"]))) == 1
    part = [(0, 0, 100, 100, 0.9, 0, 0), (0, 0, 40, 100, 0.8, 1, 1)]
    assert len(merge_detections(with_masks(part, ["right", "all"]))) == 2
    assert len(merge_detections(with_masks(part, ["all", "left"]))) == 1
    cut = [(0, 0, 110, 100, 0.9, 1, 0), (90, 0, 200, 100, 0.8, 1, 1)]  # in tiles 0-110 and 90-200
    windows = np.array([(0, 0, 110, 200), (90, 0, 200, 200)])
    for covers, num in ((["all", "all"], 1), (["left", "right"], 2), (["all", "right"], 2)):
        assert len(merge_detections(with_masks(cut, covers), tile_windows=windows)) == num


@pytest.mark.parametrize("side", [0.4, 1.1, 2.2, 3.9])
def test_small_duplicates_merge_with_masks_as_without(side):
    """Whole-pixel masks are larger than such boxes."""
    rows = [(10.4, 20.4, 10.4 + side, 20.4 + side, 0.9 - 0.1 * i, 0, i) for i in range(2)]
    assert len(merge_detections(detections(rows))) == 1
    assert len(merge_detections(with_masks(rows, ["all", "all"]))) == 1


def test_the_area_of_each_mask_is_taken_once(monkeypatch):
    """However many blocks the ranking is worked through in."""
    rows = [(50 * i, 0, 50 * i + 40, 40, 0.5, 0, i % 3) for i in range(12)]
    areas = []
    area = coco_mask.area
    monkeypatch.setattr(coco_mask, "area", lambda mask: areas.append(mask) or area(mask))
    monkeypatch.setattr("sparsenet.gigapixel.merge._BLOCK", 3)
    assert len(merge_detections(with_masks(rows, ["all"] * 12))) == 12
    assert len(areas) == 12


def test_of_equally_certain_parts_the_larger_stays():
    small, large = (0, 0, 20, 100, 0.7, 1, 0), (0, 0, 90, 100, 0.7, 1, 1)
    assert rows_of(merge_detections(detections([small, large]))) == rows_of(detections([large]))


def test_a_removed_box_removes_nothing():
    # The middle box goes because of the first; the third overlaps the middle one only.
    chain = [(x, 0, x + 100, 100, s, 0, x) for x, s in ((0, 0.9), (30, 0.8), (60, 0.7))]
    assert merge_detections(detections(chain)).boxes_xyxy[:, 0].tolist() == [0, 60]


def test_a_chain_longer_than_one_block_of_the_ranking():
    count = 10_000  # the ranking is worked through in blocks of 4096
    x = np.arange(count) * 30.0
    rows = np.stack([x, x * 0, x + 100, x * 0 + 100, 1 - x / x[-1] / 2, x * 0, x * 0], axis=1)
    merged = merge_detections(detections(rows))
    assert np.array_equal(np.sort(merged.boxes_xyxy[:, 0]), x[::2].astype(np.float32))


def test_max_detections_keeps_the_best():
    rows = [(100 * i, 0, 100 * i + 50, 50, 0.1 * i, i % 2, i) for i in range(1, 9)]
    merged = merge_detections(detections(rows), max_detections=3)
    assert merged.tile_ids.tolist() == [8, 7, 6]


def test_nothing_gives_nothing():
    merged = merge_detections(detections([]))
    assert len(merged) == 0
    assert merged.class_names == ("person", "vehicle")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou_threshold": 0.0}, "iou_threshold must be in"),
        ({"containment_threshold": 1.5}, "containment_threshold must be in"),
        ({"max_detections": -1}, "max_detections must be"),
        ({"method": "wbf"}, "must be one of seam, nms, nmm, cnms"),
        ({"tile_windows": WINDOWS[:2]}, "a window for every tile"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        merge_detections(detections([(0, 0, 9, 9, 0.5, 0, 3)]), **options)


# ---------------------------------------------------------------- other methods


@settings(max_examples=60, deadline=None)
@given(scenes)
def test_nms_is_that_of_torchvision(scene):
    # Distinct scores: how torchvision breaks ties is its own affair. Its boxes must have an area.
    has_area = (scene.boxes_xyxy[:, 2:] > scene.boxes_xyxy[:, :2]).all(axis=1)
    scene = scene[has_area & (scene.classes == 0)]
    scene = replace(scene, scores=np.linspace(0.9, 0.1, len(scene)))
    kept = nms(torch.from_numpy(scene.boxes_xyxy), torch.from_numpy(scene.scores), 0.5)
    assert rows_of(merge_detections(scene, method="nms")) == rows_of(scene[kept.numpy()])


def test_cnms_lets_the_larger_box_win_whatever_its_score():
    sure, larger = (0, 0, 100, 100, 0.95, 0, 0), (0, 0, 101, 101, 0.05, 0, 0)
    merged = merge_detections(detections([sure, larger]), method="cnms", iou_threshold=0.7)
    assert rows_of(merged) == rows_of(detections([larger]))
    body, half = (0, 0, 50, 200, 0.9, 0, 0), (0, 0, 50, 100, 0.8, 1, 1)
    assert len(merge_detections(detections([body, half]), method="cnms", iou_threshold=0.7)) == 2


def test_nmm_grows_the_better_box_over_what_it_takes():
    chain = [
        (0, 0, 100, 100, 0.9, 0, 0),
        (50, 0, 150, 100, 0.8, 0, 1),
        (110, 0, 210, 100, 0.7, 0, 2),
    ]
    merged = merge_detections(detections(chain), method="nmm")
    # The third overlaps only what the first has become, which came too late.
    assert merged.boxes_xyxy.tolist() == [[0, 0, 150, 100], [110, 0, 210, 100]]
    masked = with_masks(chain, ["all"] * 3)
    with pytest.raises(ConfigError, match="no rule for masks"):
        merge_detections(masked, method="nmm")


@settings(max_examples=40, deadline=None)
@given(scenes)
def test_nmm_is_that_of_sahi(scene):
    combine = pytest.importorskip("sahi.postprocess.combine", reason="needs sahi")
    prediction = pytest.importorskip("sahi.prediction")
    has_area = (scene.boxes_xyxy[:, 2:] > scene.boxes_xyxy[:, :2]).all(axis=1)
    scene = replace(scene[has_area], masks=None)
    scene = replace(scene, scores=np.linspace(0.9, 0.1, len(scene)))
    objects = [
        prediction.ObjectPrediction(
            bbox=box, score=score, category_id=index, category_name=str(index),
            full_shape=list(scene.image_size),
        )
        for box, score, index in zip(
            scene.boxes_xyxy.tolist(), scene.scores.tolist(), scene.classes.tolist()
        )
    ]  # fmt: skip
    theirs = combine.GreedyNMMPostprocess(0.5, "IOS", class_agnostic=False)(objects)
    expected = sorted((*p.bbox.to_xyxy(), p.category.id) for p in theirs)
    ours = merge_detections(scene, method="nmm")
    assert sorted((*row[:4], row[5]) for row in rows_of(ours)) == expected


# ---------------------------------------------------------------- scenes

SCENE_SIZE = (7000, 12500)


def scene_errors(truth, image_size, downsamples, noise, seed):
    """(count error, recall, precision) of the merged boxes with a score above 0.4."""
    grids = [TileGrid(image_size, 1024, 205, downsample) for downsample in downsamples]
    seen = detect_tiles(truth, grids, np.random.default_rng(seed), noise)
    found = merge_detections(seen, tile_windows=tile_windows(grids)).above(0.4)
    right = count_matches(truth, found.boxes_xyxy)
    return (len(found) - len(truth)) / len(truth), right / len(truth), right / len(found)


@pytest.mark.parametrize("downsamples", [(1,), (1, 4)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_perfect_detector_is_counted_right(downsamples, seed):
    # One level counts right what the overlap of 205 px can hold; a coarse level, what 820 px can.
    tallest = 200 if downsamples == (1,) else 800
    truth = perspective_crowd(np.random.default_rng(seed), SCENE_SIZE, 900, tallest)
    for noise in (PERFECT, Noise(jitter=0.02)):
        count_error, recall, precision = scene_errors(truth, SCENE_SIZE, downsamples, noise, seed)
        assert abs(count_error) <= 0.01
        assert recall >= 0.995
        assert precision >= 0.99


@pytest.mark.parametrize(
    ("jitter", "miss", "false_per_tile"), [(0.03, 0.1, 1), (0.05, 0.2, 3), (0.08, 0.3, 5)]
)
def test_a_noisy_detector_is_counted_nearly_right(jitter, miss, false_per_tile):
    noise = Noise(jitter, miss, false_per_tile, infer_truncated=True)
    errors = []
    for seed in range(3):
        truth = perspective_crowd(np.random.default_rng(seed), SCENE_SIZE, 900)
        errors.append(scene_errors(truth, SCENE_SIZE, (1, 4), noise, seed))
    count_error, recall, precision = np.mean(errors, axis=0)
    assert abs(count_error) <= 0.03
    # Two levels see most objects twice or more: misses are independent here.
    assert recall >= 1 - miss / 4
    assert precision >= 0.95


@functools.cache
def panda_layouts():
    """(boxes, image size) of every scene's persons."""
    content = json.loads(shared_path("data/panda_annotations/panda_frames29.json").read_text())
    layouts = []
    for image in content["images"]:
        rows = [
            a["bbox"]
            for a in content["annotations"]
            if a["image_id"] == image["id"] and a["category_id"] == 1
        ]
        boxes = np.array(rows, dtype=np.float64)
        boxes[:, 2:] += boxes[:, :2]
        boxes = boxes.clip(0, [image["width"], image["height"]] * 2)
        layouts.append((without_near_twins(boxes), (image["height"], image["width"])))
    return layouts


@pytest.mark.parametrize("coarse", [4, 8])
def test_real_layouts_are_counted_right(coarse):
    # Persons of up to 2,600 px; the tiles of 4,096 px overlap by 820.
    for truth, size in panda_layouts():
        count_error, recall, precision = scene_errors(truth, size, (1, coarse), PERFECT, seed=0)
        assert abs(count_error) <= 0.01
        assert recall >= 0.995
        assert precision >= 0.99


def test_one_level_counts_objects_once_that_it_sees_whole_nowhere():
    # Half of the persons are taller than the overlap of 205 px; their best parts are too small.
    layouts = panda_layouts()
    errors = [scene_errors(truth, size, (1,), PERFECT, seed=0) for truth, size in layouts]
    weights = [len(truth) for truth, _ in layouts]
    count_error, recall, precision = np.average(errors, axis=0, weights=weights)
    assert abs(count_error) <= 0.01
    assert recall >= 0.97
    assert precision >= 0.97


def test_real_layouts_seen_by_a_noisy_detector():
    noise = Noise(jitter=0.05, miss=0.2, false_per_tile=0.3, infer_truncated=True)
    layouts = panda_layouts()
    errors = [scene_errors(truth, size, (1, 4), noise, seed=0) for truth, size in layouts]
    weights = [len(truth) for truth, _ in layouts]
    count_error, recall, precision = np.average(errors, axis=0, weights=weights)
    assert abs(count_error) <= 0.03
    assert recall >= 0.97
    assert precision >= 0.97
