"""Log-average miss rate, average precision and Jaccard index against numbers computed by hand."""

import math

import numpy as np
import pytest

from sparsenet.evaluation.miss_rate import (
    NOTHING,
    REFERENCE_FPPI,
    crowd_metrics,
    log_average_miss_rate,
    match_image,
)

OBJECTS = np.array([[0, 0, 10, 10], [100, 0, 110, 10]], dtype=np.float64)
NOWHERE = [50.0, 50.0, 60.0, 60.0]


def match(boxes, scores, truth=OBJECTS, is_ignore=None):
    truth = np.asarray(truth, dtype=np.float64).reshape(-1, 4)
    ignored = np.zeros(len(truth), bool) if is_ignore is None else np.asarray(is_ignore)
    return match_image(np.reshape(boxes, (-1, 4)), np.asarray(scores, float), truth, ignored)


def test_two_images_by_hand() -> None:
    first = match([OBJECTS[1], OBJECTS[0], NOWHERE], [0.6, 0.9, 0.8])
    second = match([NOWHERE], [0.7], truth=OBJECTS[:1])
    assert first.scores.tolist() == [0.9, 0.8, 0.6]
    assert first.is_right.tolist() == [True, False, True]
    metrics = crowd_metrics([first, second])
    # By score: right, wrong, wrong, right. Miss rate 2/3 at 0 to 1/2 false positives per image,
    # which eight of the nine points see, and 1/3 at 1.
    assert metrics["mMR"] == pytest.approx(math.exp((8 * math.log(2 / 3) + math.log(1 / 3)) / 9))
    # (recall, precision): (1/3, 1), (1/3, 1/2), (1/3, 1/3), (2/3, 1/2)
    assert metrics["AP"] == pytest.approx(1 / 3 + 1 / 3 * (1 / 3 + 1 / 2) / 2)
    # From 0.6 on: 2 matches of 3 detections and 2 objects in the first image, none in the second.
    assert metrics["JI"] == pytest.approx((2 / 3 + 0) / 2)
    assert metrics["recall"] == pytest.approx(2 / 3)


def test_a_perfect_detector_and_one_that_finds_nothing() -> None:
    perfect = crowd_metrics([match(OBJECTS, [0.9, 0.8])] * 3)
    assert perfect["mMR"] == pytest.approx(1e-10)
    assert (perfect["AP"], perfect["JI"], perfect["recall"]) == (1, 1, 1)
    none = crowd_metrics([match([], [])] * 3)
    assert (none["mMR"], none["AP"], none["JI"], none["recall"]) == (1, 0, 0, 0)
    assert all(math.isnan(v) for v in crowd_metrics([match([NOWHERE], [0.5], truth=[])]).values())


def test_an_image_without_the_class_is_still_an_image() -> None:
    found = [match([NOWHERE, OBJECTS[0]], [0.9, 0.8], truth=OBJECTS[:1]), NOTHING]
    alone, beside = crowd_metrics(found[:1]), crowd_metrics(found)
    # One false positive per image alone, half of one on two images.
    assert alone["mMR"] == pytest.approx(math.exp(math.log(1e-10) / 9))
    assert beside["mMR"] == pytest.approx(math.exp(2 * math.log(1e-10) / 9))
    assert beside["JI"] == alone["JI"] == pytest.approx(1 / 2)
    empty = match([], [], truth=[])
    assert empty.num_objects == 0 and all(map(math.isnan, empty.jaccard))


def test_ignore_regions_are_neither_right_nor_wrong() -> None:
    region = [40, 40, 80, 80]
    found = match(
        [OBJECTS[0], NOWHERE, NOWHERE], [0.9, 0.8, 0.7], [OBJECTS[0], region], [False, True]
    )
    assert found.num_objects == 1 and found.is_right.tolist() == [True]
    assert crowd_metrics([found])["JI"] == 1
    # An object in the region is still found there; a detection half outside still counts.
    inside = match([NOWHERE], [0.9], [NOWHERE, region], [False, True])
    assert inside.is_right.tolist() == [True]
    outside = match([[10, 40, 50, 80]], [0.9], [region], [True])
    assert outside.is_right.tolist() == [False]


def test_the_index_matches_as_many_as_possible() -> None:
    # The better detection fits both objects; taking the nearer would leave the other one nothing.
    truth = [[0, 0, 10, 10], [0, 3, 10, 13]]
    found = match([[0, 1, 10, 11], [0, 0, 10, 9]], [0.9, 0.85], truth)
    assert found.is_right.tolist() == [True, False]  # greedy
    assert found.jaccard[0] == 1


@pytest.mark.parametrize(("fppi", "rate"), [(0.0, 0.5), (0.01, 0.5), (1.0, 0.5 ** (1 / 9))])
def test_a_point_counts_from_its_false_positives_on(fppi: float, rate: float) -> None:
    found = log_average_miss_rate(np.array([0.5]), np.array([fppi]))
    assert found == pytest.approx(rate)
    assert found == pytest.approx(
        math.exp(np.mean([math.log(0.5 if fppi <= p else 1) for p in REFERENCE_FPPI]))
    )
