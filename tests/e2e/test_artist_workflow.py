"""The artist-style commands in sequence: prepare, train, infer, cluster, compare."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from artist_data import STYLES, paint_folder

sys.path.insert(0, str(Path(__file__).parents[2] / "datasets"))
import prepare_artist

from tools import cluster_features, compare_vectors, infer_artist, train_artist

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "configs" / "artist" / "lsnet_n_128_150e_small.yaml"


def call(command, *arguments):
    status = command.main([str(argument) for argument in arguments])
    assert status == 0


# Ten epochs are too few to learn from strongly changed works.
MILD = ("CLASSIFIER.AUG.AUTO_AUGMENT", "", "CLASSIFIER.AUG.ERASE_PROB", "0.0")


def train(root, output, *arguments):
    call(
        train_artist, "--config-file", RECIPE, "--data-path", root / "set", "--quiet",
        "--output-dir", output, "--input-size", 64, "--feature-dim", 32, *arguments,
    )  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Ten works in each of three styles, divided; a model trained on them for ten epochs."""
    root = tmp_path_factory.mktemp("artist")
    paint_folder(root / "raw", per_style=10)
    call(prepare_artist, "--source-dir", root / "raw", "--output-dir", root / "set", "--quiet")
    train(
        root, root / "run", "--epochs", 10, "--batch-size", 8, "CLASSIFIER.WARMUP_EPOCHS", 1, *MILD
    )
    return root


def test_training_writes_its_files(root):
    files = {path.name for path in (root / "run").iterdir()}
    assert files >= {"checkpoint.pth", "model_best.pth", "class_mapping.csv", "train_log.txt"}
    assert any(name.startswith("events.out.tfevents") for name in files)
    rows = [json.loads(line) for line in (root / "run" / "train_log.txt").open()]
    assert [row["epoch"] for row in rows] == list(range(10))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    with (root / "run" / "class_mapping.csv").open() as stream:
        assert [row["class_name"] for row in csv.DictReader(stream)] == list(STYLES)
    best = torch.load(root / "run" / "model_best.pth", weights_only=True)
    assert best["arch"] == "lsnet_n" and best["input_size"] == 64


def test_training_resumes(root):
    train(root, root / "half", "--epochs", 1)
    train(root, root / "half", "--epochs", 2, "--resume", root / "half" / "checkpoint.pth")
    rows = [json.loads(line) for line in (root / "half" / "train_log.txt").open()]
    assert [row["epoch"] for row in rows] == [0, 1]


def test_training_goes_on_from_weights_in_mixed_precision(root):
    weights = root / "run" / "model_best.pth"
    train(root, root / "more", "--epochs", 1, "--pretrained", weights, "--amp", "--device", "cpu")
    assert (root / "more" / "model_best.pth").is_file()


def infer(root, mode, *arguments):
    call(
        infer_artist, "--mode", mode, "--checkpoint", root / "run" / "model_best.pth", "--quiet",
        "--model", "lsnet_n", "--output", root / mode, *arguments,
    )  # fmt: skip


def test_classifies_works_that_it_has_not_seen(root):
    names = ("--class-csv", root / "run" / "class_mapping.csv")
    infer(root, "both", "--input", root / "set" / "val", "--batch-size", 4, *names)
    results = json.loads((root / "both" / "batch_results.json").read_text())
    assert len(results) == 6
    right = [
        name.split("/")[0] == result["classification"][0]["class_name"]
        for name, result in results.items()
    ]
    assert np.mean(right) > 0.5  # the styles differ plainly; chance is a third
    assert np.load(root / "both" / "features.npy").shape == (6, 32)
    one = root / "set" / "val" / STYLES[0]
    infer(root, "classify", "--input", next(one.iterdir()), "--top-k", 2, *names)
    (path,) = (root / "classify").glob("*_result.json")
    assert len(json.loads(path.read_text())["classification"]) == 2


def test_clusters_and_compares(root, capsys):
    out = root / "clusters"
    call(
        cluster_features, "--images-dir", root / "raw", "--num-clusters", "auto", "--quiet",
        "--max-clusters", 5, "--checkpoint", root / "run" / "model_best.pth", "--output-dir", out,
        "--labels-from-folders", "--normalize",
    )  # fmt: skip
    content = json.loads((out / "cluster_assignments.json").read_text())
    assert sum(content["cluster_sizes"].values()) == 30 == len(np.load(out / "features.npy"))
    assert len(list((out / "sheets").iterdir())) == content["num_clusters"]
    assert (out / "gallery" / "index.html").is_file()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["recall@1"] > 0.6 and 0 <= metrics["nmi"] <= 1
    call(
        cluster_features, "--images-dir", root / "raw", "--features", out / "features.npy",
        "--num-clusters", 2, "--output-dir", root / "again", "--no-pictures",
    )  # fmt: skip
    assert [p.name for p in (root / "again").iterdir()] == ["cluster_assignments.json"]
    name = f"{STYLES[2]}/00.png"
    call(
        compare_vectors, "--query-vector", out / "features.npy", "--query-name", name,
        "--reference-vectors", out / "features.npy", "--top-k", 4, "--normalize",
        "--output", root / "similarity.json",
    )  # fmt: skip
    results = json.loads((root / "similarity.json").read_text())["results"]
    assert results[0]["name"] == name and len(results) == 4
    assert f"1.0000  {out / 'features.npy'}  {name}" in capsys.readouterr().out


def test_features_and_failures_outlive_clustering(root, tmp_path, capsys):
    shutil.copytree(root / "set" / "val", tmp_path / "works")
    (tmp_path / "works" / "bad.png").write_text("no picture")
    common = ["--images-dir", tmp_path / "works", "--output-dir", tmp_path, "--no-pictures"]
    weights = ["--checkpoint", root / "run" / "model_best.pth"]
    arguments = map(str, [*common, *weights, "--num-clusters", 99])
    assert cluster_features.main([*arguments]) == 2
    assert "from 1 to the 6 images, got 99" in capsys.readouterr().err
    features = ["--features", tmp_path / "features.npy"]
    call(cluster_features, *common, *features, "--num-clusters", 2)
    assert "bad.png" in (tmp_path / "failed_images.json").read_text()


def test_a_mistake_is_one_line(root, capsys):
    arguments = ["--data-path", str(root / "nowhere"), "--output-dir", str(root / "none")]
    assert train_artist.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SystemExit):
        cluster_features.main(["--images-dir", ".", "--checkpoint", "x", "--num-clusters", "few"])
