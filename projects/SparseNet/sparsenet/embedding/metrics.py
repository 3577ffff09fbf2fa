"""How well embeddings find images of one class, and how well clusters agree with the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsenet.embedding.cluster import import_sklearn
from sparsenet.embedding.index import VectorIndex
from sparsenet.errors import DatasetError


def recall_at(
    features: np.ndarray, labels: Sequence[str], ranks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Share of images with one of their own class among the nearest others, by rank.

    Each image is a query once. Those that are alone in their class cannot be found and do not
    count. As in metric learning (arXiv 1511.06452, section 5).

    Args:
        features: (N, D).
        labels: N classes.
        ranks: Numbers of neighbours.

    Raises:
        DatasetError: If no class has two images.
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    is_query = counts[classes] > 1
    if not is_query.any():
        raise DatasetError("Recall needs a class with at least two images, there is none.")
    _, rows = VectorIndex(features).neighbors(max(ranks))
    is_hit = classes[rows] == classes[:, None]  # (N, K)
    return {f"recall@{k}": float(is_hit[is_query, :k].any(1).mean()) for k in ranks}


def purity(clusters: np.ndarray, labels: Sequence[str]) -> float:
    """Share of images that are of the commonest class of their cluster."""
    _, classes = np.unique(labels, return_inverse=True)
    table = np.zeros((clusters.max() + 1, classes.max() + 1), dtype=np.int64)
    np.add.at(table, (clusters, classes), 1)
    return float(table.max(axis=1).sum() / len(clusters))


def normalized_mutual_information(clusters: np.ndarray, labels: Sequence[str]) -> float:
    """Information that clusters and classes share, by the mean of their entropies: 0 to 1.

    Many clusters of few images share some by chance alone; see :func:`adjusted_mutual_information`.
    """
    return float(import_sklearn().metrics.normalized_mutual_info_score(labels, clusters))


def adjusted_mutual_information(clusters: np.ndarray, labels: Sequence[str]) -> float:
    """The same less what chance gives: 0 on average for random clusters, 1 for the classes."""
    return float(import_sklearn().metrics.adjusted_mutual_info_score(labels, clusters))


def evaluate(
    features: np.ndarray, clusters: np.ndarray, labels: Sequence[str]
) -> dict[str, float | int]:
    """All of it: ``num_images``, ``num_classes``, ``recall@…``, ``nmi``, ``ami``, ``purity``."""
    return {
        "num_images": len(labels),
        "num_classes": len(set(labels)),
        **recall_at(features, labels),
        "nmi": normalized_mutual_information(clusters, labels),
        "ami": adjusted_mutual_information(clusters, labels),
        "purity": purity(clusters, labels),
    }
