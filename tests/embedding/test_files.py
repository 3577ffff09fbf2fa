"""Embeddings on disk, and what is refused there."""

import json

import numpy as np
import pytest

from sparsenet.embedding.extract import Embeddings
from sparsenet.embedding.files import load_array, load_features, save_features
from sparsenet.errors import DatasetError, DatasetNotFoundError

NAMES = ("a/b.png", "ü, ;'\u2028 x.jpg", " lead.png")
FEATURES = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_round_trip(tmp_path):
    save_features(tmp_path / "out", Embeddings(NAMES, FEATURES, failures=(("c.png", "cut off"),)))
    loaded = load_features(tmp_path / "out" / "features.npy")
    assert loaded.names == NAMES
    np.testing.assert_array_equal(loaded.features, FEATURES)
    assert json.loads((tmp_path / "out" / "failed_images.json").read_text()) == {"c.png": "cut off"}
    save_features(tmp_path / "out", loaded)  # over itself, and now without failures
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "features.npy",
        "image_names.txt",
    ]
    np.testing.assert_array_equal(load_array(tmp_path / "out" / "features.npy"), FEATURES)


def test_names_and_rows_must_agree(tmp_path):
    save_features(tmp_path, Embeddings(NAMES, FEATURES))
    (tmp_path / "image_names.txt").write_text("one.png\n")
    with pytest.raises(DatasetError, match="each of the 1 lines"):
        load_features(tmp_path / "features.npy")
    (tmp_path / "image_names.txt").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"must be named by .*image_names\.txt"):
        load_features(tmp_path / "features.npy")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}], dtype=object), r"must be a \.npy file of numbers"),
        (np.array(["a"]), "one vector"),
        (np.zeros((2, 2, 2)), "one vector"),
        (np.zeros((0, 4)), "one vector"),
        (np.array([1.0, np.nan]), "finite"),
    ],
)
def test_arrays_that_are_no_vectors(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DatasetError, match=message):
        load_array(tmp_path / "a.npy")


def test_files_that_are_no_arrays(tmp_path):
    (tmp_path / "a.npy").write_text("[1, 2]")
    with pytest.raises(DatasetError, match=r"must be a \.npy file"):
        load_array(tmp_path / "a.npy")
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        load_array(tmp_path / "b.npy")
