import math

import numpy as np
import pytest

from sparsenet.evaluation.detection_errors import (
    ErrorCounts,
    SizeRange,
    count_errors,
    pairwise_iou,
)

SIZES = (SizeRange("small", 0, 20**2), SizeRange("large", 20**2, 1e10))
OBJECTS = [[0, 0, 10, 10], [100, 0, 130, 30], [200, 0, 210, 10]]


def count(detections, truth=OBJECTS, *, ignore=(), classes=None, threshold=0.4, one=0):
    """Counts of one class; detections are (box, score) or (box, score, class)."""
    boxes = np.array([d[0] for d in detections], np.float32).reshape(-1, 4)
    scores = np.array([d[1] for d in detections], np.float32)
    labels = np.array([d[2] if len(d) > 2 else 0 for d in detections], np.int64)
    counts = count_errors(
        boxes,
        scores,
        labels,
        np.array(truth, np.float32).reshape(-1, 4),
        np.array(classes or [0] * len(truth), np.int64),
        np.array([i in ignore for i in range(len(truth))], bool),
        threshold=threshold,
        size_ranges=SIZES,
    )
    return counts.get(one, ErrorCounts())


def test_perfect_detections():
    result = count([(box, 0.9) for box in OBJECTS])
    assert (result.precision, result.recall, result.duplicate_rate) == (1, 1, 0)
    assert (result.count_error, result.count_mae) == (0, 0)


def test_no_detections_are_zero_and_not_nan():
    result = count([])
    assert (result.precision, result.recall, result.duplicate_rate) == (0, 0, 0)
    assert result.count_error == -1
    assert result.count_mae == 3


def test_nothing_to_find_and_nothing_found_is_undefined():
    result = count([], truth=[])
    assert math.isnan(result.precision) and math.isnan(result.recall)
    assert math.isnan(result.count_error) and math.isnan(result.count_mae)


def test_duplicates_are_false_positives_on_objects_that_are_taken():
    detections = [
        (OBJECTS[0], 0.9),
        ([0, 0, 10, 9], 0.8),  # IoU 0.9 with a taken object: duplicate
        ([0, 0, 10, 4], 0.8),  # IoU 0.4: just false
        (OBJECTS[1], 0.7),
        ([300, 300, 310, 310], 0.7),
    ]
    result = count(detections)
    assert (result.num_true_positives, result.num_false_positives) == (2, 3)
    assert result.num_duplicates == 1
    assert result.precision == pytest.approx(2 / 5)
    assert result.recall == pytest.approx(2 / 3)
    assert result.duplicate_rate == pytest.approx(1 / 5)
    assert result.count_error == pytest.approx(2 / 3)


def test_the_best_score_takes_the_object():
    truth = [[0, 0, 10, 10]]
    low_but_exact, high_but_off = ([0, 0, 10, 10], 0.5), ([0, 0, 10, 8], 0.9)
    result = count([low_but_exact, high_but_off], truth)
    assert (result.num_true_positives, result.num_duplicates) == (1, 1)


def test_a_detection_takes_the_free_object_with_the_highest_overlap():
    truth = [[0, 0, 10, 10], [0, 2, 10, 12]]
    exact_second, nearer_to_second = [0, 2, 10, 12], [0, 1.5, 10, 11.5]
    result = count([(exact_second, 0.9), (nearer_to_second, 0.8)], truth)
    assert result.num_true_positives == 2
    only_on_first = [0, -2, 10, 8]
    result = count([(nearer_to_second, 0.9), (only_on_first, 0.8)], truth)
    assert result.num_true_positives == 2


def test_overlap_of_exactly_the_threshold_is_right():
    assert count([([0, 0, 10, 5], 0.9)], [[0, 0, 10, 10]]).num_true_positives == 1
    assert count([([0, 0, 10, 4.9], 0.9)], [[0, 0, 10, 10]]).num_true_positives == 0


def test_scores_below_the_threshold_do_not_exist():
    result = count([(OBJECTS[0], 0.4), (OBJECTS[1], 0.3999)])
    assert result.num_detections == 1


def test_ignore_regions_make_detections_neither_right_nor_wrong():
    truth = [[0, 0, 100, 100], [200, 200, 220, 220]]
    detections = [
        ([10, 10, 20, 20], 0.9),
        ([50, 50, 60, 60], 0.9),  # one region excuses any number
        ([95, 0, 105, 10], 0.9),  # half inside
        ([96, 20, 106, 30], 0.9),  # 40 % inside
        ([200, 200, 220, 220], 0.9),
    ]
    result = count(detections, truth, ignore=(0,))
    assert result.num_ignored == 3
    assert (result.num_true_positives, result.num_false_positives) == (1, 1)
    assert result.num_objects == 1 and result.count_error == 1.0


def test_objects_inside_ignore_regions_still_count():
    truth = [[0, 0, 100, 100], [10, 10, 30, 30]]
    assert count([([10, 10, 30, 30], 0.9)], truth, ignore=(0,)).recall == 1
    assert count([], truth, ignore=(0,)).recall == 0


def test_classes_do_not_match_each_other():
    detections = [(OBJECTS[0], 0.9, 1)]
    first, second = (count(detections, classes=[0, 0, 1], one=i) for i in (0, 1))
    assert (first.num_objects, first.num_detections, first.recall) == (2, 0, 0)
    assert (second.num_objects, second.num_false_positives, second.recall) == (1, 1, 0)
    total = first + second
    assert (total.num_objects, total.num_false_positives, total.count_mae) == (3, 1, 1.0)


def test_recall_by_size():
    result = count([(OBJECTS[0], 0.9), (OBJECTS[1], 0.9)])
    assert result.recall_of_size("small") == 0.5
    assert result.recall_of_size("large") == 1.0
    assert math.isnan(result.recall_of_size("unknown"))


def test_counts_add_up_over_images():
    total = count([(OBJECTS[0], 0.9)]) + count([(box, 0.9) for box in OBJECTS])
    assert total.recall == pytest.approx(4 / 6)
    assert total.objects_by_size == {"small": 4, "large": 2}
    assert total.found_by_size == {"small": 3, "large": 1}
    assert total.count_mae == 1.0


def test_pairwise_iou():
    iou = pairwise_iou(
        np.array([[0, 0, 10, 10], [5, 5, 5, 9]]), np.array([[0, 5, 10, 15], [20, 20, 30, 30]])
    )
    np.testing.assert_allclose(iou, [[1 / 3, 0], [0, 0]])
