"""CrowdHuman's figures of a registered dataset, and where the trainer adds them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from sparsenet.config import load_config
from sparsenet.data import builtin, register_datasets
from sparsenet.engine import Trainer
from sparsenet.errors import DatasetError
from sparsenet.evaluation import CrowdEvaluator

NAME = "crowd_test"


@pytest.fixture
def cfg(tmp_path: Path):
    """Two images, of two persons and an ignored one, and of one person, registered from an odgt."""
    for name in "ab":
        Image.new("RGB", (200, 100)).save(tmp_path / f"{name}.jpg")
    persons = [{"tag": "person", "fbox": [x, 0, 20, 50]} for x in (0, 50)]
    lines = [
        {"ID": "a", "gtboxes": [*persons, {"tag": "mask", "fbox": [100, 0, 80, 80]}]},
        {"ID": "b", "gtboxes": persons[:1]},
    ]
    (tmp_path / "a.odgt").write_text("\n".join(map(json.dumps, lines)))
    cfg = load_config()
    cfg.DATASETS.ODGT_FILES = [[NAME, str(tmp_path / "a.odgt"), str(tmp_path)]]
    cfg.DATASETS.TEST = (NAME,)
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    register_datasets(cfg)
    yield cfg
    builtin._registered.pop(NAME)
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def detect(evaluator, image_id: int, boxes, scores, one_class: int = 0) -> None:
    instances = Instances((100, 200))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.full((len(scores),), one_class)
    evaluator.process([{"image_id": image_id}], [{"instances": instances}])


def test_figures_of_a_dataset(cfg) -> None:
    evaluator = CrowdEvaluator(NAME)
    evaluator.reset()
    boxes = [[0, 0, 20, 50], [110, 10, 150, 60], [50, 50, 90, 90]]
    detect(evaluator, 1, boxes, [0.9, 0.8, 0.7])
    detect(evaluator, 2, [[0, 0, 20, 50]], [0.6])
    metrics = evaluator.evaluate()["crowd"]
    # right, ignored, wrong, right; the second right one comes at half a false positive per image
    expected = 100 * np.exp((7 * np.log(2 / 3) + 2 * np.log(1 / 3)) / 9)
    assert metrics["mMR"] == pytest.approx(expected)
    assert metrics["recall"] == pytest.approx(200 / 3)
    assert set(metrics) == {"mMR", "AP", "JI", "recall"}


def test_images_without_a_result_count_as_missed(cfg) -> None:
    evaluator = CrowdEvaluator(NAME)
    detect(evaluator, 2, [[0, 0, 20, 50]], [0.6])
    assert evaluator.evaluate()["crowd"]["recall"] == pytest.approx(100 / 3)
    with pytest.raises(DatasetError, match=r"Image id 7 is not in dataset 'crowd_test'"):
        detect(evaluator, 7, [], [])
    with pytest.raises(DatasetError, match="below the 1 classes of 'crowd_test', got 3"):
        detect(evaluator, 1, [[0, 0, 20, 50]], [0.6], one_class=3)


@pytest.mark.parametrize("is_tiled", [False, True])
def test_the_trainer_adds_it_to_the_usual_metrics(cfg, is_tiled: bool) -> None:
    cfg.TEST.TILE.ENABLED = is_tiled
    evaluator = Trainer.build_evaluator(cfg, NAME)
    evaluator.reset()
    detect(evaluator, 1, [[0, 0, 20, 50], [50, 0, 70, 50]], [0.9, 0.8])
    detect(evaluator, 2, [[0, 0, 20, 50]], [0.6])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["crowd"]["AP"] == pytest.approx(100)
    MetadataCatalog.remove(NAME)
    MetadataCatalog.get(NAME).set(evaluator_type="coco", thing_classes=["person"])
    assert "crowd" not in _evaluated(cfg)
    cfg.TEST.MISS_RATE = True
    assert "crowd" in _evaluated(cfg)


def _evaluated(cfg):
    evaluator = Trainer.build_evaluator(cfg, NAME)
    evaluator.reset()
    detect(evaluator, 1, [[0, 0, 20, 50]], [0.9])
    return evaluator.evaluate()
