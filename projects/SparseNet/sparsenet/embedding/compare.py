"""Ranking of vectors by their cosine similarity to one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsenet.embedding.files import FEATURES_FILE, NAMES_FILE, load_array, load_features
from sparsenet.embedding.index import VectorIndex
from sparsenet.errors import ConfigError, DatasetError, DatasetNotFoundError


def read_query(path: Path, image_name: str | None = None) -> np.ndarray:
    """One vector (D,): the file's, or of a ``features.npy`` the row of an image.

    Raises:
        DatasetNotFoundError: If the file is missing.
        DatasetError: If it holds several vectors and no name is given, or has no such name.
    """
    if image_name is None:
        array = load_array(path)
        if array.ndim == 2 and len(array) > 1:
            raise DatasetError(
                f"The query must be one vector, {path} holds {len(array)}. Choose one with "
                "--query-name."
            )
        return array.reshape(-1)
    embeddings = load_features(path)
    if image_name not in embeddings.names:
        raise DatasetError(
            f"--query-name must be one of the {len(embeddings.names)} lines of "
            f"{path.with_name(NAMES_FILE)}, got {image_name!r}."
        )
    return embeddings.features[embeddings.names.index(image_name)]


def read_references(paths: Sequence[Path]) -> tuple[np.ndarray, list[dict[str, str]]]:
    """The vectors of files and folders.

    A folder stands for its ``.npy`` files. A file with several vectors (N, D) stands for each of
    them; those of a ``features.npy`` are called by the ``image_names.txt`` beside it, others by
    their row numbers.

    Returns:
        Vectors (N, D), and of each ``{"path": …}`` with its ``"name"`` in a file of several.

    Raises:
        DatasetNotFoundError: If a path is missing or a folder has no ``.npy`` file.
        DatasetError: If the dimensions differ.
    """
    arrays, entries = [], []
    for path in (file for given in paths for file in _files(given)):
        array = load_array(path)
        if arrays and array.shape[-1] != arrays[0].shape[-1]:
            raise DatasetError(
                f"Vectors must have the {arrays[0].shape[-1]} dimensions of {entries[0]['path']}, "
                f"{path} has {array.shape[-1]}. All must come from one model."
            )
        arrays.append(np.atleast_2d(array))
        if array.ndim == 1:
            entries.append({"path": str(path)})
        else:
            entries += [{"path": str(path), "name": name} for name in _row_names(path, len(array))]
    return np.concatenate(arrays), entries


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.npy"))
    if not files:
        raise DatasetNotFoundError(f"A folder of vectors must hold .npy files, {path} has none.")
    return files


def _row_names(path: Path, num_rows: int) -> Sequence[str]:
    if path.name == FEATURES_FILE and path.with_name(NAMES_FILE).is_file():
        return load_features(path).names
    return [str(row) for row in range(num_rows)]


def rank_by_similarity(
    query: np.ndarray,
    vectors: np.ndarray,
    top_k: int,
    *,
    refuse_zeros: bool = False,
    backend: str = "auto",
) -> list[tuple[int, float]]:
    """The rows of ``vectors`` nearest to ``query``, nearest first, with cosine similarities.

    Args:
        query: (D,).
        vectors: (N, D).
        top_k: How many at most.
        refuse_zeros: A zero vector is an error instead of a similarity of 0.
        backend: See :class:`~sparsenet.embedding.index.VectorIndex`.

    Raises:
        ConfigError: If ``top_k`` is not positive.
        DatasetError: If dimensions differ, or for zero vectors on request.
    """
    if top_k < 1:
        raise ConfigError(f"--top-k must be at least 1, got {top_k}.")
    if refuse_zeros and not (np.any(query) and np.any(vectors, axis=1).all()):
        raise DatasetError(
            "Vectors must not be zero where they are normalized. Leave out --normalize to give "
            "zero vectors a similarity of 0."
        )
    similarities, rows = VectorIndex(vectors, backend).search(query[None], top_k)
    return [(int(row), float(value)) for row, value in zip(rows[0], similarities[0])]


def comparison(
    query: str, ranking: Sequence[tuple[int, float]], entries: Sequence[dict[str, str]]
) -> dict[str, Any]:
    """The content of the JSON file of a comparison."""
    return {
        "query": query,
        "top_k": len(ranking),
        "results": [{**entries[row], "cosine_similarity": value} for row, value in ranking],
    }
