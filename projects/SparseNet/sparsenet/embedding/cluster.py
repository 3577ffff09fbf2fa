"""Clusters of embeddings: scikit-learn's k-means, with the number of clusters by silhouette."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsenet.embedding.index import normalized
from sparsenet.errors import ConfigError, MissingDependencyError

# The silhouette compares each image with all others; beyond so many a sample tells the same.
_MAX_SILHOUETTE_IMAGES = 5000
# Starts of k-means, of which the best is taken.
_NUM_STARTS = 10


@dataclass(frozen=True)
class Clusters:
    """Which image is in which cluster.

    Args:
        assignments: (N,) int, the cluster of each image.
        centroids: (K, D).
        distances: (N,) from each image to its centroid.
        inertia: Sum of their squares.
        silhouettes: By number of clusters, where several were tried: from -1 to 1, higher is
            better.
    """

    assignments: np.ndarray
    centroids: np.ndarray
    distances: np.ndarray
    inertia: float
    silhouettes: dict[int, float] = field(default_factory=dict)

    def members(self) -> dict[int, np.ndarray]:
        """The rows in each cluster that has any, those nearest to the centroid first."""
        order = np.argsort(self.distances, kind="stable")
        return {
            int(cluster): order[self.assignments[order] == cluster]
            for cluster in np.unique(self.assignments)
        }

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """The content of ``cluster_assignments.json``; images are called by their names."""
        members = self.members()
        content: dict[str, Any] = {
            "num_clusters": len(self.centroids),
            "inertia": self.inertia,
            "cluster_sizes": {str(c): len(rows) for c, rows in members.items()},
            "clusters": {str(c): [names[i] for i in sorted(rows)] for c, rows in members.items()},
            "centroids": self.centroids.tolist(),
        }
        if self.silhouettes:
            content["silhouettes"] = {str(k): value for k, value in self.silhouettes.items()}
        return content


def cluster(
    features: np.ndarray, num_clusters: int, *, seed: int = 42, normalize: bool = False
) -> Clusters:
    """k-means.

    Args:
        features: (N, D).
        num_clusters: From 1 to N.
        seed: Of the starts.
        normalize: Clusters directions, which is what cosine similarity compares.

    Raises:
        ConfigError: If the number does not fit the images.
        MissingDependencyError: If scikit-learn is not installed.
    """
    sklearn = import_sklearn()
    if not 1 <= num_clusters <= len(features):
        raise ConfigError(
            f"The number of clusters must be from 1 to the {len(features)} images, got "
            f"{num_clusters}."
        )
    rows = normalized(features) if normalize else np.asarray(features, dtype=np.float32)
    means = sklearn.cluster.KMeans(num_clusters, n_init=_NUM_STARTS, random_state=seed).fit(rows)
    assignments = means.labels_.astype(np.int64)
    return Clusters(
        assignments=assignments,
        centroids=means.cluster_centers_,
        distances=np.linalg.norm(rows - means.cluster_centers_[assignments], axis=1),
        inertia=float(means.inertia_),
    )


def cluster_by_silhouette(
    features: np.ndarray, candidates: Sequence[int], *, seed: int = 42, normalize: bool = False
) -> Clusters:
    """k-means with the number of clusters whose silhouette is best (Rousseeuw 1987).

    Args:
        features: (N, D).
        candidates: Numbers to try, each from 2 to N - 1.
        seed: Of the starts.
        normalize: As for :func:`cluster`.

    Raises:
        ConfigError: If no number can be tried.
        MissingDependencyError: If scikit-learn is not installed.
    """
    rows = normalized(features) if normalize else np.asarray(features, dtype=np.float32)
    tried = {k: cluster(rows, k, seed=seed) for k in candidates if 2 <= k < len(rows)}
    # Equal images may leave clusters empty.
    tried = {k: one for k, one in tried.items() if len(np.unique(one.assignments)) > 1}
    if not tried:
        raise ConfigError(
            "A silhouette needs from 2 clusters to one less than the different images; got "
            f"{len(rows)} images and {list(candidates)[:5]} … clusters."
        )
    sample = np.random.default_rng(seed).permutation(len(rows))[:_MAX_SILHOUETTE_IMAGES]
    silhouettes = {k: _silhouette(rows, one.assignments, sample) for k, one in tried.items()}
    best = tried[max(silhouettes, key=silhouettes.__getitem__)]
    return Clusters(best.assignments, best.centroids, best.distances, best.inertia, silhouettes)


def _silhouette(rows: np.ndarray, assignments: np.ndarray, sample: np.ndarray) -> float:
    """Mean over a sample of the images; -1 where that shows one cluster or single images only."""
    chosen = assignments[sample]
    if not 2 <= len(np.unique(chosen)) < len(chosen):
        return -1.0
    return float(import_sklearn().metrics.silhouette_score(rows[sample], chosen))


def import_sklearn() -> Any:
    """scikit-learn with the parts that are used here.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        import sklearn.cluster
        import sklearn.metrics
    except ImportError as error:
        raise MissingDependencyError(
            "Clustering needs scikit-learn. Install it with "
            "`pip install 'sparsenet[classification]'`."
        ) from error
    return sklearn
