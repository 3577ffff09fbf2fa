"""Ranking by cosine similarity, from arrays and from files."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sparsenet.embedding.compare import rank_by_similarity, read_query, read_references
from sparsenet.errors import ConfigError, DatasetError, DatasetNotFoundError
from tools import compare_vectors

NUMBERS = st.floats(-100, 100, width=32)


@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(3)), elements=NUMBERS))
def test_a_query_of_the_vectors_is_most_similar_to_itself(vectors):
    ranking = rank_by_similarity(vectors[0], vectors, 9, backend="numpy")
    similarities = [value for _, value in ranking]
    assert sorted(row for row, _ in ranking) == list(range(len(vectors)))
    assert similarities == sorted(similarities, reverse=True)
    assert np.allclose(dict(ranking)[0], 1.0 if vectors[0].any() else 0.0, atol=1e-5)


def test_scale_does_not_count_and_zero_is_zero():
    ranking = rank_by_similarity(np.array([1.0, 1]), np.array([[0, 0], [5, 5], [-1, -1.0]]), 3)
    assert [row for row, _ in ranking] == [1, 0, 2]
    np.testing.assert_allclose([v for _, v in ranking], [1, 0, -1], atol=1e-6)
    with pytest.raises(DatasetError, match="must not be zero"):
        rank_by_similarity(np.ones(2), np.zeros((1, 2)), 1, refuse_zeros=True)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        rank_by_similarity(np.ones(2), np.ones((1, 2)), 0)


@pytest.fixture
def files(tmp_path):
    """A query; a folder with two vectors; a features.npy of two rows with names."""
    np.save(tmp_path / "query.npy", np.array([1.0, 0.0]))
    for folder in ("refs", "set"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "refs" / "b.npy", np.array([1.0, 0.1]))
    np.save(tmp_path / "refs" / "a.npy", np.array([0.0, 1.0]))
    (tmp_path / "refs" / "notes.txt").write_text("not a vector")
    np.save(tmp_path / "set" / "features.npy", np.array([[2.0, 0.0], [1.0, 1.0]]))
    (tmp_path / "set" / "image_names.txt").write_text("x/1.png\ny/1.png\n")
    return tmp_path


def test_references_of_files_and_folders(files):
    vectors, entries = read_references([files / "refs", files / "set" / "features.npy"])
    np.testing.assert_allclose(vectors, [[0, 1], [1, 0.1], [2, 0], [1, 1]])
    assert [entry.get("name") for entry in entries] == [None, None, "x/1.png", "y/1.png"]
    assert entries[0]["path"] == str(files / "refs" / "a.npy")


def test_queries(files):
    np.testing.assert_array_equal(read_query(files / "query.npy"), [1, 0])
    np.testing.assert_array_equal(read_query(files / "set" / "features.npy", "y/1.png"), [1, 1])
    with pytest.raises(DatasetError, match=r"holds 2\. Choose one with --query-name"):
        read_query(files / "set" / "features.npy")
    with pytest.raises(DatasetError, match=r"got 'z\.png'"):
        read_query(files / "set" / "features.npy", "z.png")


def test_references_that_cannot_be_compared(files):
    np.save(files / "refs" / "c.npy", np.ones(3))
    with pytest.raises(DatasetError, match=r"2 dimensions of .*a\.npy.*c\.npy has 3"):
        read_references([files / "refs"])
    (files / "empty").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"must hold \.npy files"):
        read_references([files / "empty"])


def test_command(files, capsys):
    output = files / "new" / "similarity.json"
    arguments = ["--query-vector", str(files / "query.npy"), "--top-k", "3", "--normalize"]
    arguments += ["--reference-vectors", str(files / "refs"), str(files / "set")]
    assert compare_vectors.main([*arguments, "--output", str(output)]) == 0
    content = json.loads(output.read_text())
    assert content["query"] == str(files / "query.npy") and content["top_k"] == 3
    assert [r.get("name", r["path"]) for r in content["results"]] == [
        "x/1.png",
        str(files / "refs" / "b.npy"),
        "y/1.png",
    ]
    assert content["results"][0]["cosine_similarity"] == pytest.approx(1)
    assert " 1.0000  " in capsys.readouterr().out
    np.save(files / "refs" / "zero.npy", np.zeros(2))
    assert compare_vectors.main(arguments) == 2
    assert "error: Vectors must not be zero" in capsys.readouterr().err
