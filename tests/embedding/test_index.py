"""Search by cosine similarity: numpy is the reference, FAISS must agree."""

import sys

import numpy as np
import pytest

from sparsenet.embedding import index
from sparsenet.embedding.index import VectorIndex, normalized
from sparsenet.errors import ConfigError, DatasetError, MissingDependencyError

BACKENDS = ["numpy", "faiss", "faiss-hnsw"]


@pytest.fixture
def vectors():
    return np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param != "numpy":
        pytest.importorskip("faiss")
    return request.param


def test_search_finds_the_largest_cosines(vectors, backend):
    queries = vectors[:7] + 0.1
    cosines = queries @ vectors.T / np.linalg.norm(queries, axis=1)[:, None]
    cosines /= np.linalg.norm(vectors, axis=1)
    expected = np.argsort(-cosines, axis=1)[:, :5]
    similarities, rows = VectorIndex(vectors, backend).search(queries, 5)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(similarities, np.take_along_axis(cosines, expected, 1), atol=1e-6)


def test_neighbors_leave_out_the_vector_itself(vectors, backend):
    similarities, rows = VectorIndex(vectors, backend).neighbors(4)
    assert rows.shape == similarities.shape == (300, 4)
    assert (rows != np.arange(300)[:, None]).all() and (rows >= 0).all()
    assert (np.diff(similarities, axis=1) <= 0).all()


def test_equal_vectors_do_not_shift_neighbors(backend):
    vectors = np.concatenate([np.ones((20, 4)), -np.ones((1, 4))]).astype(np.float32)
    similarities, rows = VectorIndex(vectors, backend).neighbors(3)
    assert (rows != np.arange(21)[:, None]).all()
    np.testing.assert_allclose(similarities[:20], 1, atol=1e-6)
    np.testing.assert_allclose(similarities[20], -1, atol=1e-6)


def test_fewer_vectors_than_asked_for(backend):
    index = VectorIndex(np.eye(3), backend)
    assert index.search(np.eye(3), 10)[1].shape == (3, 3)
    assert index.neighbors(10)[1].shape == (3, 2)
    assert VectorIndex(np.eye(1), backend).neighbors(5)[1].shape == (1, 0)


def test_blocks_change_nothing(vectors, monkeypatch):
    whole = VectorIndex(vectors, "numpy").search(vectors, 3)
    monkeypatch.setattr(index, "_BLOCK", 7)
    for a, b in zip(whole, VectorIndex(vectors, "numpy").search(vectors, 3)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_normalized_keeps_zeros_and_extremes():
    rows = normalized(np.array([[0, 0], [3, 4], [3e30, 4e30], [3e-30, 4e-30]]))
    np.testing.assert_allclose(rows, [[0, 0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8]], atol=1e-6)


def test_without_faiss(vectors, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert VectorIndex(vectors, "auto").search(vectors[:1], 1)[1].item() == 0
    with pytest.raises(MissingDependencyError, match=r"sparsenet\[search\].*--backend numpy"):
        VectorIndex(vectors, "faiss")


def test_mistakes(vectors):
    with pytest.raises(ConfigError, match="must be one of auto, numpy"):
        VectorIndex(vectors, "annoy")
    with pytest.raises(DatasetError, match=r"must have the 12 dimensions.*got 3"):
        VectorIndex(vectors, "numpy").search(np.ones((1, 3)), 1)
