"""The seam rule: properties, single cases, and scenes seen by a detector that knows the truth."""

import json

import numpy as np
import pytest
from golden_data import shared_path
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_detector import (
    PERFECT,
    Noise,
    count_matches,
    detect_tiles,
    perspective_crowd,
    without_near_twins,
)

from sparsenet.errors import ConfigError
from sparsenet.gigapixel.detections import Detections
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


@settings(max_examples=80, deadline=None)
@given(scenes, st.randoms(use_true_random=False))
def test_order_of_the_input_does_not_matter(scene, random):
    order = list(range(len(scene)))
    random.shuffle(order)
    shuffled = scene[np.array(order, dtype=np.int64)]
    assert rows_of(merge_detections(shuffled)) == rows_of(merge_detections(scene))


@settings(max_examples=60, deadline=None)
@given(scenes)
def test_merging_twice_changes_nothing(scene):
    once = merge_detections(scene)
    assert rows_of(merge_detections(once)) == rows_of(once)


@settings(max_examples=60, deadline=None)
@given(scenes)
def test_the_result_is_a_subset_by_falling_score(scene):
    merged = merge_detections(scene)
    rest = rows_of(scene)
    for row in rows_of(merged):
        rest.remove(row)  # raises if a box was changed, enlarged or invented
    assert (np.diff(merged.scores) <= 0).all()


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
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        merge_detections(detections([]), **options)


# ---------------------------------------------------------------- scenes

SCENE_SIZE = (7000, 12500)


def scene_errors(truth, image_size, downsamples, noise, seed):
    """(count error, recall, precision) of the merged boxes with a score above 0.4."""
    grids = [TileGrid(image_size, 1024, 205, downsample) for downsample in downsamples]
    found = merge_detections(detect_tiles(truth, grids, np.random.default_rng(seed), noise))
    found = found.above(0.4)
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


def panda_layouts():
    content = json.loads(shared_path("data/panda_annotations/panda_frames29.json").read_text())
    for image in content["images"]:
        rows = [
            a["bbox"]
            for a in content["annotations"]
            if a["image_id"] == image["id"] and a["category_id"] == 1
        ]
        boxes = np.array(rows, dtype=np.float64)
        boxes[:, 2:] += boxes[:, :2]
        boxes = boxes.clip(0, [image["width"], image["height"]] * 2)
        yield without_near_twins(boxes), (image["height"], image["width"])


def test_real_layouts_are_counted_right():
    # Persons up to 2,600 px: the coarse tiles of 8,192 px overlap by 1,640 px.
    errors = [scene_errors(truth, size, (1, 8), PERFECT, seed=0) for truth, size in panda_layouts()]
    assert len(errors) == 13
    for count_error, recall, precision in errors:
        assert abs(count_error) <= 0.01
        assert recall >= 0.995
        assert precision >= 0.99
