"""detectron2.evaluation, real or lite: behaviour that both share."""

import logging
import math

import numpy as np
import pytest
import torch
from contract.active import lite_only
from contract.engine_cases import (
    detected,
    scene_evaluator,
)
from detectron2.config import get_cfg
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.evaluation.testing import flatten_results_dict


class Collector(DatasetEvaluator):
    """Remembers the pairs that it got."""

    def __init__(self, key="seen"):
        self.key = key

    def reset(self):
        self.pairs = []

    def process(self, inputs, outputs):
        self.pairs.append((inputs, outputs))

    def evaluate(self):
        return {self.key: len(self.pairs)}


def test_inference_calls_everything_and_restores_the_mode():
    model = torch.nn.Linear(2, 1)
    moments, modes = [], []
    model.register_forward_hook(lambda m, *_: modes.append((m.training, torch.is_grad_enabled())))
    batches = [torch.ones(1, 2)] * 3
    names = ("on_start", "before_inference", "after_inference", "on_end")
    callbacks = {name: (lambda n=name: moments.append(n)) for name in names}
    evaluators = [Collector("x"), Collector("y")]
    assert inference_on_dataset(model, batches, evaluators, callbacks) == {"x": 3, "y": 3}
    assert modes == [(False, False)] * 3 and model.training
    assert moments == [names[0], *names[1:3] * 3, names[3]]
    assert inference_on_dataset(lambda batch: batch, batches[:1], None) == {}


def test_two_evaluators_must_not_give_the_same_task():
    evaluators = DatasetEvaluators([Collector(), Collector()])
    evaluators.reset()
    with pytest.raises(AssertionError, match="seen"):
        evaluators.evaluate()


@lite_only
def test_lite_restores_the_mode_after_an_error():
    model = torch.nn.Linear(2, 1)
    with pytest.raises(RuntimeError):
        inference_on_dataset(model, [torch.ones(1, 3)], Collector())
    assert model.training


def test_perfect_detections_have_an_ap_of_100():
    with scene_evaluator() as (evaluator, _, dicts, _):
        evaluator.reset()
        for record in dicts:
            found = [a for a in record["annotations"] if not a["iscrowd"]]
            boxes = np.array([a["bbox"] for a in found], np.float32).reshape(-1, 4)
            classes = np.array([a["category_id"] for a in found], np.int64)
            evaluator.process([record], [detected(boxes, np.ones(len(found)), classes)])
        results = evaluator.evaluate()["bbox"]
    assert results["AP"] == pytest.approx(100) and results["AP-b"] == pytest.approx(100)


def test_detection_of_an_unknown_class_is_refused():
    with scene_evaluator() as (evaluator, _, dicts, _):
        evaluator.reset()
        evaluator.process(dicts[:1], [detected([[0.0, 0, 5, 5]], [0.5], [3])])
        with pytest.raises(AssertionError, match="3"):
            evaluator.evaluate()


def test_dataset_without_json_needs_a_folder():
    with pytest.raises(ValueError, match="output_dir"):
        COCOEvaluator("contract_nothing")


def test_results_are_flattened_printed_and_verified(caplog):
    assert flatten_results_dict({"a": {"b": {"c": 1}}, "d": 2}) == {"a/b/c": 1, "d": 2}
    logging.getLogger("detectron2").propagate = True
    with caplog.at_level(logging.INFO):
        print_csv_format({"bbox": {"AP": 1.23456, "AP-person": 5.0}, "note": 3})
    printed = [r.getMessage() for r in caplog.records]
    assert printed == [
        "copypaste: Task: bbox",
        "copypaste: AP",
        "copypaste: 1.2346",
        "copypaste: note=3",
    ]
    cfg = get_cfg()
    assert verify_results(cfg, {})
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 38.5, 0.2]]
    assert verify_results(cfg, {"bbox": {"AP": 38.6}})
    for wrong in ({"AP": 38.8}, {"AP": math.nan}, {}):
        with pytest.raises(SystemExit):
            verify_results(cfg, {"bbox": wrong})


@lite_only
def test_lite_names_classes_right_if_category_ids_are_not_in_their_order():
    with scene_evaluator(ids={5: 0, 2: 1, 9: 2}) as (evaluator, _, dicts, _):
        evaluator.reset()
        for record in dicts:
            found = [a for a in record["annotations"] if a["category_id"] == 0]
            boxes = np.array([a["bbox"] for a in found], np.float32).reshape(-1, 4)
            classes = np.zeros(len(found), np.int64)
            evaluator.process([record], [detected(boxes, np.ones(len(found)), classes)])
        results = evaluator.evaluate()["bbox"]
    assert (results["AP-a"], results["AP-b"], results["AP-c"]) == (pytest.approx(100), 0, 0)
