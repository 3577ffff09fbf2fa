"""The recipe of the unofficial port through the command line: train, resume, evaluate, with TTA."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/coco/sparsercnn.res50.128pro.640.ema.yaml"
SMALL = (
    "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.SparseRCNN.HIDDEN_DIM", "32",
    "MODEL.SparseRCNN.DIM_DYNAMIC", "8", "MODEL.SparseRCNN.DIM_FEEDFORWARD", "64",
    "MODEL.SparseRCNN.NUM_HEADS", "2", "MODEL.SparseRCNN.NUM_PROPOSALS", "8",
    "MODEL.SparseRCNN.NUM_CLASSES", "1", "INPUT.LETTERBOX", "64", "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.WARMUP_ITERS", "1", "SOLVER.STEPS", "()", "DATALOADER.NUM_WORKERS", "0",
    "INPUT.AUG.MOSAIC.PROB", "0.4", "INPUT.AUG.MIXUP.PROB", "0.3", "INPUT.AUG.AFFINE.SHEAR", "5.0",
    "INPUT.AUG.AFFINE.PERSPECTIVE", "0.1", "MODEL.NECK.NAME", "panet",
    "MODEL.BACKBONE.NAME", "build_neck_backbone", "MODEL.BATCH_NORM", "BN",
    "MODEL.SparseRCNN.BOX_LOSS", "ciou", "MODEL.SparseRCNN.BOX_COST", "diou",
    "TEST.AUG.MIN_SIZES", "(48, 64)", "TEST.AUG.SCALE_FILTER", "False", "TEST.EVAL_PERIOD", "0",
)  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos of 60 × 80 px with one bright box each, and their COCO file."""
    folder = tmp_path_factory.mktemp("photos")
    images, annotations = [], []
    for number in range(1, 7):
        pixels = np.full((60, 80, 3), 40, np.uint8)
        x, y = 5 * number, 4 * number
        pixels[y : y + 25, x : x + 30] = 220
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
        images.append({"id": number, "file_name": f"{number}.png", "height": 60, "width": 80})
        annotations.append(
            {
                "id": number, "image_id": number, "category_id": 1, "bbox": [x, y, 30, 25],
                "area": 750, "iscrowd": 0,
            }
        )  # fmt: skip
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "box"}],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder


def train_net(photos: Path, output: Path, *opts: str, arguments: tuple[str, ...] = ()) -> str:
    files = str([["recipe", str(photos / "boxes.json"), str(photos)]])
    command = [
        sys.executable, "projects/SparseNet/train_net.py", "--config-file", CONFIG,
        "--num-gpus", "0", *arguments, *SMALL, "DATASETS.COCO_FILES", files,
        "DATASETS.TRAIN", "('recipe',)", "DATASETS.TEST", "('recipe',)",
        "OUTPUT_DIR", str(output), *opts,
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "projects/SparseNet"),
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def test_train_resume_and_evaluate(photos: Path, tmp_path: Path) -> None:
    train_net(photos, tmp_path, "SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1")
    text = train_net(photos, tmp_path, "SOLVER.MAX_ITER", "3", arguments=("--resume",))
    assert "Starting training from iteration 2" in text
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any(np.isfinite(line.get("loss_ciou", np.nan)) for line in lines)

    final = weights(tmp_path / "model_final.pth")
    hook = final["trainer"]["hooks"]["EMAHook"]
    assert hook["num_updates"] == 3
    key = "init_proposal_features.weight"
    assert not torch.equal(final["model"][key], hook["training_weights"][key])

    text = train_net(
        photos, tmp_path / "eval", "MODEL.WEIGHTS", str(tmp_path / "model_final.pth"),
        "TEST.AUG.ENABLED", "True", arguments=("--eval-only",),
    )  # fmt: skip
    assert "from scratch" not in text
    assert (tmp_path / "eval/inference/coco_instances_results.json").is_file()
    assert (tmp_path / "eval/inference_TTA/recipe/coco_instances_results.json").is_file()
