"""Detectron2's own models in the trainer: masks, boxes, semantic labels from files to metrics."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparsenet.config import load_config
from sparsenet.data import register_datasets
from sparsenet.engine import Trainer

ROOT = Path(__file__).resolve().parents[2]
COCO_NAME, SEMANTIC_NAME = "dense_tasks_coco", "dense_tasks_semantic"
SIDE = 64
COMMON = [
    "MODEL.DEVICE", "cpu", "MODEL.LSNET.SIZE", "nano", "MODEL.LSNET.NORM_EVAL", "False",
    "MODEL.SPARX_MAMBA.SIZE", "nano", "MODEL.FPN.OUT_CHANNELS", "32", "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "0",
    "SOLVER.BASE_LR", "0.002", "SOLVER.CHECKPOINT_PERIOD", "1000", "TEST.EVAL_PERIOD", "0",
    "DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TRAIN", f"({SIDE},)", "INPUT.MIN_SIZE_TEST",
    str(SIDE), "SEED", "1",
]  # fmt: skip


def trainer(config: str, name: str, output: Path, *opts: str) -> Trainer:
    names = ["DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)"]
    opts = (*COMMON, *names, "OUTPUT_DIR", str(output), *opts)
    cfg = load_config(ROOT / "configs" / config, opts)
    register_datasets(cfg)
    torch.manual_seed(1)
    np.random.seed(1)
    return Trainer(cfg)


def squares(folder: Path) -> str:
    """Two images with a bright square each; the entry of DATASETS.COCO_FILES."""
    images, annotations = [], []
    for i in range(2):
        pixels = np.full((SIDE, SIDE, 3), 60, np.uint8)
        x = 8 + 24 * i
        pixels[x : x + 24, x : x + 24] = 220
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE})
        outline = [[x, x, x + 24, x, x + 24, x + 24, x, x + 24]]
        annotations.append(
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [x, x, 24, 24], "area": 576,
             "iscrowd": 0, "segmentation": outline}
        )  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (folder / "squares.json").write_text(json.dumps(content))
    return f"[['{COCO_NAME}', '{folder / 'squares.json'}', '{folder}']]"


@pytest.mark.parametrize(
    ("config", "tasks"),
    [
        ("coco/mask_rcnn_lsnet_t_fpn_1x.yaml", {"bbox", "segm"}),
        ("coco/mask_rcnn_sparx_mamba_t_fpn_1x.yaml", {"bbox", "segm"}),
        ("coco/retinanet_lsnet_t_fpn_1x.yaml", {"bbox"}),
    ],
)
def test_detectors_train_and_are_evaluated(tmp_path: Path, config, tasks) -> None:
    run = trainer(
        config, COCO_NAME, tmp_path, "DATASETS.COCO_FILES", squares(tmp_path),
        "SOLVER.MAX_ITER", "2",
        "MODEL.ROI_HEADS.NUM_CLASSES", "1", "MODEL.RETINANET.NUM_CLASSES", "1",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0",
        "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16",
    )  # fmt: skip
    run.train()
    metrics = Trainer.test(run.cfg, run.model)
    assert set(metrics) == tasks and all("AP50" in values for values in metrics.values())
    results = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    assert all(("segmentation" in result) == ("segm" in tasks) for result in results) and results


def halves(folder: Path) -> str:
    """Four images of two colours, one class each; the entry of DATASETS.SEM_SEG_FOLDERS."""
    rng = np.random.RandomState(0)
    images, labels = folder / "images", folder / "labels"
    images.mkdir()
    labels.mkdir()
    (labels / "classes.txt").write_text("dark\nbright\n")
    for i in range(4):
        classes = np.zeros((SIDE, SIDE), np.uint8)
        classes[:, 16 * (i % 3) : 16 * (i % 3) + 32] = 1
        grey = np.where(classes, 200, 40)[..., None] + rng.randint(-20, 20, (SIDE, SIDE, 3))
        Image.fromarray(grey.astype(np.uint8)).save(images / f"{i}.png")
        classes[:4] = 255
        Image.fromarray(classes).save(labels / f"{i}.png")
    return f"[['{SEMANTIC_NAME}', '{images}', '{labels}']]"


def test_semantic_segmentation_learns(tmp_path: Path) -> None:
    run = trainer(
        "ade20k/semantic_fpn_lsnet_t_40k.yaml", SEMANTIC_NAME, tmp_path,
        "DATASETS.SEM_SEG_FOLDERS", halves(tmp_path), "SOLVER.MAX_ITER", "40",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.NORM", "",
        "INPUT.CROP.ENABLED", "False", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice",
    )  # fmt: skip
    before = Trainer.test(run.cfg, run.model)["sem_seg"]["mIoU"]
    run.train()
    after = Trainer.test(run.cfg, run.model)["sem_seg"]["mIoU"]
    assert before < 60 and after > 80
    assert (tmp_path / "inference" / "sem_seg_predictions.json").is_file()
