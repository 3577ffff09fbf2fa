"""Nearest neighbours by cosine similarity among many vectors: FAISS, or exactly with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsenet.errors import ConfigError, DatasetError, MissingDependencyError

BACKENDS = ("auto", "numpy", "faiss", "faiss-hnsw")
# Queries at a time, so that their similarities to a million vectors take 1 GB.
_BLOCK = 256
# Links per vector and candidates per search: recall above 0.95 at ten neighbours in FAISS's own
# measurements of HNSW, https://github.com/facebookresearch/faiss/wiki/Indexing-1M-vectors.
_HNSW_LINKS = 32
_HNSW_CANDIDATES = 128


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, (N, D) float32; zero rows stay zero."""
    rows = np.asarray(vectors, dtype=np.float32)
    peaks = np.abs(rows).max(axis=1, keepdims=True)
    rows = rows / np.where(peaks > 0, peaks, 1)  # squares of very small or large values vanish
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo("f4").tiny)


class VectorIndex:
    """Vectors that can be searched.

    Args:
        vectors: (N, D).
        backend: ``"numpy"`` and ``"faiss"`` are exact, ``"faiss-hnsw"`` is approximate: each query
            looks at a small part of the vectors. ``"auto"`` is FAISS where it is installed.

    Raises:
        ConfigError: If the backend is unknown.
        MissingDependencyError: If FAISS is asked for and not installed.
    """

    def __init__(self, vectors: np.ndarray, backend: str = "auto") -> None:
        if backend not in BACKENDS:
            raise ConfigError(f"The backend must be one of {', '.join(BACKENDS)}, got {backend!r}.")
        self._rows = normalized(vectors)
        self._faiss = None if backend == "numpy" else _build_faiss(self._rows, backend)

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, queries: np.ndarray, num_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest vectors of each query, nearest first.

        Args:
            queries: (Q, D).
            num_neighbors: K; fewer come where the index holds fewer.

        Returns:
            Cosine similarities (Q, K) float32 and rows (Q, K) int64.

        Raises:
            DatasetError: If the dimensions differ.
        """
        queries = normalized(queries)
        if queries.shape[1] != self._rows.shape[1]:
            raise DatasetError(
                f"A query must have the {self._rows.shape[1]} dimensions of the vectors, got "
                f"{queries.shape[1]}. Both must come from one model."
            )
        num_neighbors = min(num_neighbors, len(self))
        if self._faiss is not None:
            similarities, rows = self._faiss.search(queries, num_neighbors)
            is_short = (rows < 0).any(1)  # the approximate search reached too few vectors
            similarities[is_short], rows[is_short] = self._exact(queries[is_short], num_neighbors)
            return similarities, rows
        return self._exact(queries, num_neighbors)

    def _exact(self, queries: np.ndarray, num_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
        blocks = [
            _nearest(queries[i : i + _BLOCK], self._rows, num_neighbors)
            for i in range(0, max(1, len(queries)), _BLOCK)
        ]
        similarities, rows = (np.concatenate(part) for part in zip(*blocks))
        return similarities, rows

    def neighbors(self, num_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest others of each vector of the index; as :meth:`search`, without itself."""
        num_neighbors = min(num_neighbors, len(self) - 1)
        similarities, rows = self.search(self._rows, num_neighbors + 1)
        is_other = rows != np.arange(len(self))[:, None]
        # Among equal vectors, the search may leave the vector itself out: drop the last instead.
        is_other[is_other.all(1), -1] = False
        shape = (len(self), num_neighbors)
        return similarities[is_other].reshape(shape), rows[is_other].reshape(shape)


def _nearest(
    queries: np.ndarray, vectors: np.ndarray, num_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    similarities = queries @ vectors.T  # (Q, N)
    nearest = np.argpartition(-similarities, num_neighbors - 1, axis=1)[:, :num_neighbors]
    found = np.take_along_axis(similarities, nearest, 1)
    order = np.lexsort((nearest, -found))  # ties by row
    return np.take_along_axis(found, order, 1), np.take_along_axis(nearest, order, 1)


def _build_faiss(rows: np.ndarray, backend: str) -> Any:
    try:
        import faiss
    except ImportError as error:
        if backend == "auto":
            return None
        raise MissingDependencyError(
            "This search needs FAISS. Install it with `pip install 'sparsenet[search]'`, or search "
            "exactly without it: --backend numpy."
        ) from error
    dimensions = rows.shape[1]
    if backend == "faiss-hnsw":
        index = faiss.IndexHNSWFlat(dimensions, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = _HNSW_CANDIDATES
    else:
        index = faiss.IndexFlatIP(dimensions)
    index.add(rows)
    return index
