"""The tool as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_photos import write_photos

pytest.importorskip("timm", reason="classifiers live in timm's registry")

from tools.train_classifier import main

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "imagenet" / "lsnet_n_96_120e_small.yaml"


def _arguments(root: Path, *flags: object, epochs: int = 1, output: str = "output", opts=()):
    return [str(word) for word in (
        "--config-file", CONFIG, "--quiet", *flags, "CLASSIFIER.DATA_PATH", root, "OUTPUT_DIR",
        root / output, "CLASSIFIER.INPUT_SIZE", 32, "CLASSIFIER.EPOCHS", epochs,
        "SOLVER.IMS_PER_BATCH", 6, "MODEL.DEVICE", "cpu", *opts,
    )]  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "train", 8)
    write_photos(tmp_path / "val", 3)
    return tmp_path


def test_train_resume_evaluate(photos: Path, capsys):
    assert main(_arguments(photos)) == 0
    assert main(_arguments(photos, "--resume", epochs=2)) == 0
    rows = (photos / "output" / "train_log.txt").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [0, 1]
    capsys.readouterr()
    weights = ["MODEL.WEIGHTS", photos / "output" / "model_best.pth"]
    flags = ["--eval-only", "--imagenet-sketch", photos / "train"]
    assert main(_arguments(photos, *flags, opts=weights)) == 0
    results = json.loads(capsys.readouterr().out)
    assert sorted(results) == ["sketch", "val"]
    best = max(max(r["val_top1"], r["ema_top1"]) for r in map(json.loads, rows))
    assert results["val"]["top1"] == best


def test_throughput_is_of_the_fused_model(photos: Path, capsys):
    assert main(_arguments(photos, "--throughput")) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["parameters_m"] == pytest.approx(0.487836) and numbers["batch_size"] == 6
    assert numbers["gmacs"] < 0.001 and numbers["images_per_second"] > 0


def test_mistakes_are_one_line(photos: Path, capsys):
    assert main(_arguments(photos / "nowhere")) == 2
    assert "one folder of photos per class" in capsys.readouterr().err
    assert main(_arguments(photos, opts=["CLASSIFIER.MODEL", "lsnet"])) == 2
    assert "error: The model must be one of timm's registry" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--imagenet-a", "folder"), "add --eval-only"),
        (("--throughput", "--imagenet-c", "folder"), "add --eval-only"),
        (("--eval-only", "--throughput"), "two runs"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path: Path, flags, message, capsys):
    with pytest.raises(SystemExit):
        main(_arguments(tmp_path, *flags))
    assert message in capsys.readouterr().err


def _start(command: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
                   "PYTHONPATH": str(ROOT / "projects/SparseNet")}  # fmt: skip
    return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment)


def _checkpoint(folder: Path) -> dict:
    content = torch.load(folder / "checkpoint.pth", weights_only=True)
    for row in content["history"]:
        del row["seconds"]
    return content


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(photos: Path):
    assert main(_arguments(photos, epochs=6, output="whole")) == 0
    command = ["tools/train_classifier.py", *_arguments(photos, "--resume", epochs=6)]
    process = _start(command)
    log = photos / "output" / "train_log.txt"
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert _start(command).wait(timeout=600) == 0
    whole, parts = _checkpoint(photos / "whole"), _checkpoint(photos / "output")
    assert whole["history"] == parts["history"]
    torch.testing.assert_close(whole["model"], parts["model"], atol=0, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "--num-gpus"])
def test_two_processes_train_one_model(photos: Path, launcher: str):
    flags, command = ("--num-gpus", 2), []
    if launcher == "torchrun":
        flags, command = (), ["-m", "torch.distributed.run", "--standalone",
                              "--nproc-per-node", "2"]  # fmt: skip
    command += ["tools/train_classifier.py", *_arguments(photos, *flags, epochs=2)]
    assert _start(command).wait(timeout=600) == 0
    content = _checkpoint(photos / "output")
    assert len(content["history"]) == 2
    # Two epochs of 12 photos per process in batches of 2: an even share of SOLVER.IMS_PER_BATCH.
    assert content["optimizer"]["state"][0]["step"] == 12
