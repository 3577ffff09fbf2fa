"""k-means, the number of clusters, and what is written about them."""

import json
import sys

import numpy as np
import pytest

from sparsenet.embedding.cluster import cluster, cluster_by_silhouette
from sparsenet.errors import ConfigError


@pytest.fixture
def blobs():
    """Three groups of 10, 20 and 30 rows around distant points."""
    rng = np.random.default_rng(0)
    centres = np.array([[10, 0, 0], [0, 10, 0], [0, 0, 10]])
    return np.concatenate(
        [c + 0.1 * rng.standard_normal((n, 3)) for c, n in zip(centres, (10, 20, 30))]
    )


def test_finds_separate_groups(blobs):
    clusters = cluster(blobs, 3)
    groups = [clusters.assignments[s] for s in (slice(10), slice(10, 30), slice(30, None))]
    assert [len(set(g)) for g in groups] == [1, 1, 1] and len({g[0] for g in groups}) == 3
    np.testing.assert_allclose(clusters.centroids[groups[0][0]], blobs[:10].mean(0), atol=1e-5)
    np.testing.assert_allclose((clusters.distances**2).sum(), clusters.inertia, rtol=1e-4)


def test_the_seed_decides(blobs):
    a, b = (cluster(blobs, 7, seed=3).assignments for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_members_are_ordered_from_the_centroid(blobs):
    clusters = cluster(blobs, 3)
    for number, rows in clusters.members().items():
        assert (clusters.assignments[rows] == number).all()
        assert (np.diff(clusters.distances[rows]) >= 0).all()
    assert sorted(np.concatenate([*clusters.members().values()])) == list(range(60))


def test_written_content(blobs):
    names = [f"{i:02d}.png" for i in range(60)]
    clusters = cluster(blobs, 3)
    content = json.loads(json.dumps(clusters.to_dict(names)))
    assert content["num_clusters"] == 3 and np.shape(content["centroids"]) == (3, 3)
    assert sorted(content["cluster_sizes"].values()) == [10, 20, 30]
    assert sorted(name for one in content["clusters"].values() for name in one) == names
    assert str(clusters.assignments[0]) in content["clusters"] and "silhouettes" not in content
    assert names[0] in content["clusters"][str(clusters.assignments[0])]


def test_silhouette_chooses_the_number(blobs):
    clusters = cluster_by_silhouette(blobs, range(2, 7))
    assert len(clusters.centroids) == 3 and set(clusters.silhouettes) == {2, 3, 4, 5, 6}
    assert max(clusters.silhouettes, key=clusters.silhouettes.get) == 3
    assert clusters.to_dict([""] * 60)["silhouettes"]["3"] > 0.9


def test_normalizing_compares_directions():
    rays = np.array([[1.0, 0], [9, 0], [0, 1], [0, 9]])
    assert len(set(cluster(rays, 2, normalize=True).assignments[:2])) == 1
    assert len(set(cluster(rays, 2).assignments[:2])) == 2


def test_a_sample_that_shows_one_cluster_is_no_error(monkeypatch):
    module = sys.modules[cluster.__module__]  # its package has a function of the same name
    monkeypatch.setattr(module, "_MAX_SILHOUETTE_IMAGES", 4)
    rows = np.random.default_rng(0).normal(0, 0.1, (200, 2))
    rows[7] = 100.0  # alone in its cluster, and not in the sample
    clusters = cluster_by_silhouette(rows, [2, 3])
    assert clusters.silhouettes[2] == -1.0 < clusters.silhouettes[3]
    assert len(clusters.centroids) == 3


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_numbers_that_do_not_fit(blobs):
    for number in (0, 61):
        with pytest.raises(ConfigError, match=f"from 1 to the 60 images, got {number}"):
            cluster(blobs, number)
    with pytest.raises(ConfigError, match="needs from 2 clusters"):
        cluster_by_silhouette(blobs[:2], range(2, 9))
    with pytest.raises(ConfigError, match="needs from 2 clusters"):
        cluster_by_silhouette(np.ones((5, 2)), [2, 3])
