"""Embeddings as files, and back."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from sparsenet.embedding.extract import Embeddings
from sparsenet.errors import DatasetError, DatasetNotFoundError
from sparsenet.files import make_folder, write_bytes, write_json, write_text

FEATURES_FILE = "features.npy"
NAMES_FILE = "image_names.txt"
FAILURES_FILE = "failed_images.json"


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes a ``.npy`` file atomically."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    write_bytes(path, stream.getvalue())


def load_array(path: Path) -> np.ndarray:
    """A ``.npy`` file of finite numbers, mapped rather than read.

    Raises:
        DatasetNotFoundError: If there is no such file.
        DatasetError: If it holds something else.
    """
    if not path.is_file():
        raise DatasetNotFoundError(f"Vectors must come from a .npy file, {path} does not exist.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DatasetError(f"{path} must be a .npy file of numbers: {error}.") from error
    is_numeric = isinstance(array, np.ndarray) and array.dtype.kind in "fiu"
    if not is_numeric or array.ndim not in (1, 2) or not array.size:
        raise DatasetError(
            f"{path} must hold one vector (D,) or several (N, D) of numbers, it holds "
            f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}."
        )
    if not np.isfinite(array).all():
        raise DatasetError(f"{path} must hold finite numbers, it has NaN or infinity.")
    return array


def save_features(folder: Path, embeddings: Embeddings) -> None:
    """Writes ``features.npy`` and ``image_names.txt``, which names its rows.

    ``failed_images.json`` tells which images could not be read, if any, and why.
    """
    make_folder(folder)
    save_array(folder / FEATURES_FILE, embeddings.features)
    write_text(folder / NAMES_FILE, "".join(f"{name}\n" for name in embeddings.names))
    save_failures(folder, embeddings)


def save_failures(folder: Path, embeddings: Embeddings) -> None:
    """Writes ``failed_images.json``, or removes an older one where nothing failed."""
    if embeddings.failures:
        write_json(folder / FAILURES_FILE, dict(embeddings.failures))
    else:
        (folder / FAILURES_FILE).unlink(missing_ok=True)


def load_features(path: Path) -> Embeddings:
    """Reads ``features.npy`` with the ``image_names.txt`` beside it.

    Raises:
        DatasetNotFoundError: If one of them is missing.
        DatasetError: If they do not belong together.
    """
    features = load_array(path)
    names_file = path.with_name(NAMES_FILE)
    if not names_file.is_file():
        raise DatasetNotFoundError(
            f"The rows of {path} must be named by {names_file}, which does not exist."
        )
    # Not splitlines(): names may hold other characters that end lines, U+2028 for one.
    names = tuple(names_file.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    if features.ndim != 2 or len(names) != len(features):
        raise DatasetError(
            f"{path} must have a row for each of the {len(names)} lines of {names_file}, its shape "
            f"is {features.shape}. Extract both again."
        )
    return Embeddings(names, np.array(features, dtype=np.float32))
