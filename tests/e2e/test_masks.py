"""Masks through the command line: trained, evaluated on photos and in tiles, exported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/sample/mask_rcnn_sparx_mamba_nano_fpn_overfit.yaml"
SIDE = 96


@pytest.fixture(scope="module")
def triangles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images with a bright triangle each, and their annotations."""
    folder = tmp_path_factory.mktemp("triangles")
    images, annotations = [], []
    for i in range(2):
        pixels = np.full((SIDE, SIDE, 3), 60, np.uint8)
        x, side = 8 + 24 * i, 48
        pixels[x : x + side, x : x + side][np.tri(side, dtype=bool)] = 220
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE})
        annotations.append(
            {
                "id": i + 1,
                "image_id": i,
                "category_id": 7,
                "bbox": [x, x, side, side],
                "area": side * side / 2,
                "iscrowd": 0,
                "segmentation": [[x, x, x, x + side, x + side, x + side]],
            }
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "triangle"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def run(script: str, *arguments: object) -> str:
    """What a script says; it must succeed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "projects/SparseNet"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(ROOT / script), "--config-file", CONFIG, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def require_masks(path: Path) -> None:
    """The file's results must have masks of the image, some with pixels."""
    results = json.loads(path.read_text())
    masks = [result["segmentation"] for result in results]
    assert masks and all(mask["size"] == [SIDE, SIDE] for mask in masks)
    assert any(coco_mask.area(mask) for mask in masks)


@pytest.mark.slow
def test_masks_from_training_to_exports(triangles: Path, tmp_path: Path) -> None:
    files = str([["triangles", str(triangles / "annotations.json"), str(triangles)]])
    opts = (
        "DATASETS.COCO_FILES", files, "DATASETS.TRAIN", "('triangles',)",
        "DATASETS.TEST", "('triangles',)", "MODEL.DEVICE", "cpu",
        "MODEL.ROI_HEADS.NUM_CLASSES", "1", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0",
        "INPUT.MIN_SIZE_TRAIN", f"({SIDE},)", "INPUT.MIN_SIZE_TEST", SIDE,
        "TEST.DETECTIONS_PER_IMAGE", "5", "TEST.TILE.SIZE", "64", "TEST.TILE.OVERLAP", "16",
        "TEST.TILE.DOWNSAMPLES", "(1, 2)", "TEST.TILE.SCORE_THRESHOLD", "0.0",
    )  # fmt: skip
    steps = ("SOLVER.MAX_ITER", "40", "SOLVER.WARMUP_ITERS", "1", "TEST.EVAL_PERIOD", "0")
    train_net = "projects/SparseNet/train_net.py"
    run(train_net, "--num-gpus", "0", *opts, *steps, "OUTPUT_DIR", tmp_path / "train")
    lines = (tmp_path / "train" / "metrics.json").read_text().splitlines()
    assert any(np.isfinite(json.loads(line).get("loss_mask", np.nan)) for line in lines)
    weights = ("MODEL.WEIGHTS", tmp_path / "train" / "model_final.pth")
    for is_tiled in (False, True):
        folder = tmp_path / ("tiles" if is_tiled else "photos")
        said = run(
            train_net, "--num-gpus", "0", "--eval-only", *opts, *weights,
            "TEST.TILE.ENABLED", is_tiled, "OUTPUT_DIR", folder,
        )  # fmt: skip
        assert "Task: bbox" in said and "Task: segm" in said
        require_masks(folder / "inference" / "coco_instances_results.json")
        detected = tmp_path / f"demo_{folder.name}"
        run(
            "demo/demo.py", "--input", triangles / "0.png", "--output", detected, "--export",
            "coco", "--quiet", "--opts", *opts, *weights, "TEST.TILE.ENABLED", is_tiled,
        )  # fmt: skip
        (path,) = detected.rglob("detections.json")
        require_masks(path)
