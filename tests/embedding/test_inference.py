"""tools/infer_artist.py: modes, files, and what is refused."""

import json

import numpy as np
import pytest
from artist_data import STYLES, paint_folder, save_checkpoint

from sparsenet.data.class_mapping import write_class_mapping
from sparsenet.embedding.inference import InferenceOptions, top_classes
from sparsenet.errors import ConfigError
from tools import infer_artist


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command on three styles of two pictures; returns status, output and errors."""
    paint_folder(tmp_path / "pictures", per_style=2)
    save_checkpoint(tmp_path / "model_best.pth")
    write_class_mapping(tmp_path / "class_mapping.csv", STYLES)

    def call(mode, source="pictures", *flags, csv=True):
        arguments = ["--mode", mode, "--checkpoint", str(tmp_path / "model_best.pth"), "--quiet"]
        arguments += ["--class-csv", str(tmp_path / "class_mapping.csv")] if csv else []
        arguments += ["--input", str(tmp_path / source), "--output", str(tmp_path / "out")]
        status = infer_artist.main([*arguments, *flags])
        return status, *capsys.readouterr()

    return call


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def written(tmp_path):
    return sorted(p.name for p in (tmp_path / "out").iterdir())


def test_one_image(run, tmp_path):
    status, out, _ = run("classify", "pictures/red_blocks/00.png")
    assert status == 0 and "1 images, 0 not readable" in out
    assert written(tmp_path) == ["00_result.json"]
    content = read(tmp_path / "out" / "00_result.json")
    assert set(content) == {"classification"}
    classes = content["classification"]
    assert {c["class_name"] for c in classes} == set(STYLES)
    assert all(STYLES[c["class_id"]] == c["class_name"] for c in classes)
    assert sum(c["probability"] for c in classes) == pytest.approx(1, abs=1e-5)


def test_folder_with_everything(run, tmp_path):
    (tmp_path / "pictures" / "bad.jpg").write_text("no picture")
    status, out, err = run("both", "pictures", "--batch-size", "4", "--top-k", "1")
    assert status == 0 and "6 images, 1 not readable" in out and "left out: bad.jpg" in err
    content = read(tmp_path / "out" / "batch_results.json")
    names = (tmp_path / "out" / "image_names.txt").read_text().splitlines()
    features = np.load(tmp_path / "out" / "features.npy")
    assert list(content) == names and len(names) == len(features) == 6
    for name, row in zip(names, features):
        assert content[name]["image"] == name and len(content[name]["classification"]) == 1
        np.testing.assert_allclose(content[name]["features"], row, atol=1e-6)
    assert list(read(tmp_path / "out" / "failed_images.json")) == ["bad.jpg"]


def test_features_need_no_class_names(run, tmp_path):
    status, _, _ = run("cluster", csv=False)
    assert status == 0
    assert written(tmp_path) == ["batch_results.json", "features.npy", "image_names.txt"]
    content = read(tmp_path / "out" / "batch_results.json")
    assert all(set(item) == {"image", "features"} for item in content.values())
    status, _, _ = run("cluster", "pictures/red_blocks/00.png", csv=False)
    assert status == 0 and np.load(tmp_path / "out" / "features.npy").shape[0] == 1


@pytest.mark.parametrize("mode", ["classify", "both"])
def test_classes_need_their_names(run, mode):
    status, _, err = run(mode, csv=False)
    assert status == 2 and err.startswith("error: The modes classify and both need --class-csv")


def test_other_classes_than_trained(run, tmp_path):
    write_class_mapping(tmp_path / "class_mapping.csv", ["a", "b"])
    status, _, err = run("classify")
    assert status == 2 and "head" in err and "(3," in err


def test_missing_input(run):
    status, _, err = run("classify", "nowhere.png")
    assert status == 2 and err.startswith("error: The photos must be in a folder")


def test_top_classes():
    probabilities = np.array([0.2, 0.5, 0.3])
    found = top_classes(probabilities, "abc", 2, threshold=0.25)
    assert [(c["class_id"], c["class_name"]) for c in found] == [(1, "b"), (2, "c")]
    assert [c["class_name"] for c in top_classes(probabilities, "abc", 9, 0.4)] == ["b"]


def test_options():
    with pytest.raises(ConfigError, match="one of classify, cluster, both"):
        InferenceOptions("sort")
    with pytest.raises(ConfigError, match="at least 1"):
        InferenceOptions(top_k=0)
