"""A small untrained detector and images for it, for the tests of whole runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import sparsenet  # noqa: F401  (makes detectron2 importable)

# isort: split
import torch
from blob_detector import plant, scattered_boxes
from small_sparse_rcnn import small_cfg, small_model

from sparsenet.engine.detection import DetectionJob, run_detection
from sparsenet.gigapixel.report import ReportOptions
from sparsenet.gigapixel.tile_rows import RowStore

SIZE = (500, 700)


class SmallJob(DetectionJob):
    """A process that reads it imports this module, which registers the small model's backbone."""


def make_job(folder: Path, num_images: int = 1, **options: Any) -> SmallJob:
    """A small untrained model, its weights, and images with something in them."""
    cfg = small_cfg(PROPOSAL_INIT="dense")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.MODEL.WEIGHTS = str(folder / "weights.pth")
    tile = cfg.TEST.TILE
    tile.ENABLED, tile.SIZE, tile.OVERLAP, tile.BATCH_SIZE = True, 64, 16, 4
    tile.DOWNSAMPLES, tile.OBJECT_SIZE_RANGE = (1, 4), (40.0, 60.0)
    tile.SELECT = options.pop("select", "coarse_to_fine")
    tile.SELECTION.THRESHOLD = 0.0101  # the untrained objectness is .01, or a little more
    tile.SCORE_THRESHOLD = 0.0
    cfg.freeze()
    torch.manual_seed(5)
    model = small_model(PROPOSAL_INIT="dense")
    torch.save({"model": model.state_dict(), "class_names": ["a", "b", "c"]}, cfg.MODEL.WEIGHTS)
    (folder / "images").mkdir(exist_ok=True)
    for number in range(num_images):
        pixels = plant(SIZE, scattered_boxes(SIZE, 30, (8, 60), seed=number), seed=number)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), pixels)
    report = ReportOptions(threshold=0.0, has_viewer=False)
    output = options.pop("output", folder / "out")
    return SmallJob(cfg, (str(folder / "images"),), output, report, **options)


def detections(folder: Path) -> np.ndarray:
    """(N, 6) of ``detections.json``: class, score, box."""
    rows = json.loads((folder / "detections.json").read_text())
    table = np.array([[r["category_id"], r["score"], *r["bbox"]] for r in rows])
    return table[np.lexsort(table.T)]


def run_slowly(job_folder: str) -> None:
    """What a process does that is to be killed: one tile row after the other, with time between."""
    original = RowStore.save

    def save_slowly(self, row):
        original(self, row)
        time.sleep(0.3)

    RowStore.save = save_slowly
    run_detection(make_job(Path(job_folder), resume=True))
