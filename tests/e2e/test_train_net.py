"""The command line of training: a run, resuming, evaluation, two processes, mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pyvips = pytest.importorskip("pyvips")

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/sample/sparse_rcnn_sparsenet_conv_nano_fpn_sample.yaml"
SMALL = [
    "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0", "SOLVER.STEPS", "()",
    "SOLVER.WARMUP_ITERS", "1", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.TILE.DOWNSAMPLES", "(2,)",
]  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 900 × 700 px with bright bars on noise, and its annotations."""
    folder = tmp_path_factory.mktemp("scene")
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 90, (700, 900, 3), dtype=np.uint8)
    annotations = []
    for i, (x, y) in enumerate([(100, 100), (400, 200), (700, 500), (250, 550)]):
        pixels[y : y + 90, x : x + 40] = 230
        annotations.append(
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [x, y, 40, 90],
                "area": 3600,
                "iscrowd": 0,
            }
        )
    pyvips.Image.new_from_array(pixels).tiffsave(str(folder / "a.tif"), tile=True, pyramid=True)
    content = {
        "images": [{"id": 1, "file_name": "a.tif", "height": 700, "width": 900}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "vehicle"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def train_net(scene: Path, output: Path, *arguments: str, opts: tuple[str, ...] = ()):
    names = ("e2e", "again")
    files = str([[name, str(scene / "annotations.json"), str(scene)] for name in names])
    command = [
        sys.executable, str(ROOT / "projects/SparseNet/train_net.py"), "--config-file", CONFIG,
        *arguments, "DATASETS.COCO_FILES", files, "DATASETS.TRAIN", "('e2e',)",
        "DATASETS.TEST", "('e2e',)", "OUTPUT_DIR", str(output), *SMALL, *opts,
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "projects/SparseNet"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )


def test_train_resume_and_evaluate(scene: Path, tmp_path: Path) -> None:
    first = train_net(scene, tmp_path, "--num-gpus", "0", opts=("SOLVER.MAX_ITER", "2"))
    assert first.returncode == 0, first.stdout + first.stderr
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    second = train_net(
        scene, tmp_path, "--num-gpus", "0", "--resume", opts=("SOLVER.MAX_ITER", "4")
    )
    assert second.returncode == 0, second.stdout + second.stderr
    assert "Starting training from iteration 2" in second.stdout + second.stderr
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any("loss_bbox" in line and np.isfinite(line["total_loss"]) for line in lines)
    checkpoint = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert checkpoint["iteration"] == 3 and checkpoint["class_names"] == ["person", "vehicle"]

    result = train_net(
        scene, tmp_path / "eval", "--num-gpus", "0", "--eval-only",
        opts=(
            "MODEL.WEIGHTS", str(tmp_path / "model_final.pth"),
            "DATASETS.TEST", "('e2e', 'again')",
        ),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "AP50" in result.stdout + result.stderr
    for name in ("e2e", "again"):
        assert (tmp_path / "eval" / "inference" / name / "coco_instances_results.json").is_file()


@pytest.mark.slow
def test_two_processes_on_a_cpu(scene: Path, tmp_path: Path) -> None:
    result = train_net(
        scene, tmp_path, "--num-gpus", "2", "--dist-url", "auto",
        opts=("SOLVER.MAX_ITER", "2", "MODEL.DEVICE", "cpu"),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "model_final.pth").is_file()
    assert (tmp_path / "log.txt.rank1").is_file()


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.SPARSENET.LOCAL_MODULE", "mixer"), "attention"),  # the choices are listed
        (("MODEL.SPARSNET.LOCAL_MODULE", "conv"), "Did you mean"),
        (("MODEL.WEIGHTS", "nowhere.pth"), "does not exist"),
        (("DATASETS.TRAIN", "('absent',)"), "absent"),
    ],
)
def test_mistakes_are_one_line(scene: Path, tmp_path: Path, opts, message: str) -> None:
    result = train_net(scene, tmp_path, "--num-gpus", "0", opts=("SOLVER.MAX_ITER", "2", *opts))
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in result.stderr
