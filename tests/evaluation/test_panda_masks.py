"""Average precision of masks in full images."""

import json

import numpy as np
import pytest
import torch
from evaluation.panda_cases import (
    SIZE,
    instances_of,
    percent,
    random_detections,
    random_truth,
)
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sparsenet.errors import DatasetError
from sparsenet.evaluation import PandaEvaluator
from sparsenet.evaluation.coco_metrics import run_lengths

pytest.importorskip("faster_coco_eval")


def right_halves(boxes):
    """COCO polygons of the right half of each box, XYWH."""
    return [
        [[x + w / 2, y, x + w, y, x + w, y + h, x + w / 2, y + h]] for x, y, w, h in boxes.tolist()
    ]


def evaluate_masks(name, boxes, scores, classes, polygons, **options):
    """All results; the masks go in as tiled evaluation makes them."""
    instances = instances_of(boxes, scores, classes)
    instances.segmentations = [run_lengths(polygon, SIZE) for polygon in polygons]
    evaluator = PandaEvaluator(name, **options)
    evaluator.process([{"image_id": 10}], [{"instances": instances}])
    return evaluator.evaluate()


def test_masks_are_evaluated_as_pycocotools_does(register, tmp_path):
    boxes, classes = random_truth(5, count=30)
    masks = right_halves(boxes)
    name = register([(boxes, classes)], ignored=lambda image, i: {"segmentation": masks[i]})
    found, scores, labels = random_detections(5, boxes, classes)
    results = evaluate_masks(
        name, found, scores, labels, right_halves(found), output_dir=tmp_path / "out"
    )
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert len(written) == len(found) and all(
        coco_mask.toBbox(w["segmentation"])[0] >= w["bbox"][0] + w["bbox"][2] / 2 - 1
        for w in written
    )
    truth = COCO(str(tmp_path / "boxes.json"))
    for annotation in truth.dataset["annotations"]:
        annotation["area"] = float(coco_mask.area(truth.annToRLE(annotation)))
        annotation["iscrowd"] = 0
    masks_only = [{k: v for k, v in w.items() if k != "bbox"} for w in written]
    theirs = COCOeval(truth, truth.loadRes(masks_only), "segm")
    theirs.params.maxDets = [10, 100, 500]
    theirs.evaluate()
    theirs.accumulate()
    precision = theirs.eval["precision"][..., -1]
    for key, part in (
        ("AP", precision[..., 0]), ("AP50", precision[0, ..., 0]), ("AP75", precision[5, ..., 0]),
        ("APs", precision[..., 1]), ("APm", precision[..., 2]), ("APl", precision[..., 3]),
    ):  # fmt: skip
        assert results["segm"][key] == pytest.approx(percent(part), abs=1e-9, nan_ok=True), key
    assert 5 < results["segm"]["AP"] < 95 and results["segm"]["AP"] != results["bbox"]["AP"]
    by_file = json.loads((tmp_path / "out" / "panda_metrics_segm.json").read_text())
    assert by_file["AP"] == results["segm"]["AP"]


def test_masks_of_photos_are_evaluated_too(register):
    boxes = np.array([[10.0, 20, 200, 100]])
    masks = right_halves(boxes)
    name = register([(boxes, np.array([0]))], ignored=lambda image, i: {"segmentation": masks[i]})
    instances = instances_of(boxes, [0.9], [0])
    instances.pred_masks = torch.zeros((1, *SIZE), dtype=torch.bool)
    instances.pred_masks[:, 20:120, 110:210] = True
    evaluator = PandaEvaluator(name)
    evaluator.process([{"image_id": 10}], [{"instances": instances}])
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)


def test_objects_without_a_segmentation_are_ignored_among_masks(register, caplog):
    boxes = np.array([[10.0, 20, 200, 100], [1000, 1000, 300, 300]])
    masks = right_halves(boxes)
    name = register(
        [(boxes, np.array([0, 0]))],
        ignored=lambda image, i: {"segmentation": masks[i]} if i == 0 else {},
    )
    results = evaluate_masks(name, boxes, [0.5, 0.9], [0, 0], masks)
    assert "1 objects have no segmentation; of masks they are ignored" in caplog.text
    assert results["segm"]["AP"] == results["bbox"]["AP"] == pytest.approx(100)


def test_a_truth_without_masks_is_told(register, caplog):
    boxes = np.array([[10.0, 20, 200, 100]])
    name = register([(boxes, np.array([0]))])
    assert set(evaluate_masks(name, boxes, [0.9], [0], right_halves(boxes))) == {"bbox"}
    assert "1 objects have no segmentation; only boxes are evaluated" in caplog.text


def test_images_too_large_for_run_lengths_are_told(register, caplog, monkeypatch):
    monkeypatch.setattr("sparsenet.evaluation.panda_evaluator._MAX_MASK_PIXELS", 10**6)
    boxes = np.array([[10.0, 20, 200, 100]])
    name = register([(boxes, np.array([0]))])
    assert set(evaluate_masks(name, boxes, [0.9], [0], right_halves(boxes))) == {"bbox"}
    assert "at most 1000000 pixels" in caplog.text and "24000000" in caplog.text


def test_run_lengths_of_another_size_are_refused():
    mask = coco_mask.encode(np.ones((3, 4), np.uint8, order="F"))
    assert run_lengths(mask, (3, 4)) == {"size": [3, 4], "counts": mask["counts"].decode()}
    assert run_lengths({"size": [3, 4], "counts": [0, 12]}, (3, 4)) == run_lengths(mask, (3, 4))
    with pytest.raises(DatasetError, match=r"size of their image, \(4, 3\), got \(3, 4\)"):
        run_lengths(mask, (4, 3))
