"""Retrieval and cluster metrics on cases that can be counted by hand."""

import numpy as np
import pytest

from sparsenet.embedding.metrics import (
    adjusted_mutual_information,
    evaluate,
    normalized_mutual_information,
    purity,
    recall_at,
)
from sparsenet.errors import DatasetError

# On a circle, in degrees: a a b | b a, so that the nearest of the third and fourth are mixed.
ANGLES = np.radians([0, 5, 12, 90, 95])
FEATURES = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
LABELS = ["a", "a", "b", "b", "a"]


def test_recall():
    # Nearest others, in order: 1 …; 0 …; 1 0 3; 4 2 …; 3 2 1 …, and the first of their own class
    # is the first, first, third, second and third.
    found = recall_at(FEATURES, LABELS, (1, 2, 3))
    assert found == pytest.approx({"recall@1": 2 / 5, "recall@2": 3 / 5, "recall@3": 1.0})


def test_recall_leaves_out_classes_of_one():
    found = recall_at(FEATURES, ["a", "a", "c", "d", "e"], (1,))
    assert found["recall@1"] == 1.0
    with pytest.raises(DatasetError, match="at least two images"):
        recall_at(FEATURES, list("abcde"))


def test_purity():
    clusters = np.array([0, 0, 0, 2, 2])
    assert purity(clusters, LABELS) == pytest.approx(3 / 5)
    assert purity(np.arange(5), LABELS) == 1.0
    assert purity(np.zeros(5, dtype=int), LABELS) == pytest.approx(3 / 5)


def test_mutual_information():
    labels = ["a", "a", "b", "b"]
    assert normalized_mutual_information(np.array([1, 1, 0, 0]), labels) == pytest.approx(1)
    assert normalized_mutual_information(np.array([0, 1, 0, 1]), labels) == pytest.approx(0)


def test_adjusted_information_of_chance_is_none():
    labels = [str(i // 5) for i in range(60)]
    clusters = np.random.default_rng(0).integers(0, 12, 60)
    assert normalized_mutual_information(clusters, labels) > 0.4
    assert abs(adjusted_mutual_information(clusters, labels)) < 0.1
    assert adjusted_mutual_information(np.arange(60) // 5, labels) == pytest.approx(1)


def test_all_of_it():
    figures = evaluate(FEATURES, np.array([0, 0, 0, 1, 1]), LABELS)
    assert figures["num_images"] == 5 and figures["num_classes"] == 2
    assert set(figures) >= {"recall@1", "recall@5", "recall@10", "nmi", "ami", "purity"}
