import contextlib
import io
import json
import math
import multiprocessing
import sys

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import print_csv_format
from detectron2.structures import BoxMode
from evaluation.panda_cases import (
    CATEGORY_IDS,
    SIZE,
    instances_of,
    percent,
    random_detections,
    random_truth,
)
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sparsenet.errors import DatasetError, MissingDependencyError, OutputError
from sparsenet.evaluation import PandaEvaluator
from sparsenet.evaluation.panda_evaluator import COCO_SIZES, PANDA_SIZES

pytest.importorskip("faster_coco_eval")


def evaluate(name, detections, **options):
    evaluator = PandaEvaluator(name, **options)
    evaluator.reset()
    for i, detection in enumerate(detections):
        evaluator.process([{"image_id": 10 + i}], [{"instances": instances_of(*detection)}])
    return evaluator.evaluate()["bbox"]


def pycocotools_tables(json_file, detections, *, sizes, caps):
    """Precision and recall tables of pycocotools, with ``ignore`` written as ``iscrowd``."""
    content = json.loads(json_file.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(annotation.get("ignore", 0) or annotation.get("iscrowd", 0))
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        results = []
        for i, found in enumerate(detections):
            # The evaluator sees float32 boxes in XYXY.
            boxes = instances_of(*found).pred_boxes.tensor.numpy().astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            results += [
                {"image_id": 10 + i, "category_id": CATEGORY_IDS[c], "bbox": b, "score": float(s)}
                for b, s, c in zip(boxes.tolist(), found[1], found[2])
            ]
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.maxDets = list(caps)
        evaluation.params.areaRng = [[s.min_area, s.max_area] for s in sizes]
        evaluation.params.areaRngLbl = [s.name for s in sizes]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def ignore_every_tenth(image, i):
    return {} if i % 10 else ({"ignore": 1} if i % 20 else {"iscrowd": 1})


def test_equals_pycocotools(register, tmp_path):
    truths = [random_truth(seed) for seed in range(3)]
    detections = [random_detections(seed, *truth) for seed, truth in enumerate(truths)]
    name = register(truths, ignored=ignore_every_tenth)
    metrics = evaluate(name, detections)
    all_sizes = type(PANDA_SIZES[0])("all", 0, 1e10)
    sizes = (all_sizes, *PANDA_SIZES, *COCO_SIZES)
    precision, recall = pycocotools_tables(
        tmp_path / "boxes.json", detections, sizes=sizes, caps=(10, 100, 500)
    )
    expected = {
        "AP": percent(precision[..., 0, -1]),
        "AP50": percent(precision[0, ..., 0, -1]),
        "AP75": percent(precision[5, ..., 0, -1]),
        "AR10": percent(recall[..., 0, 0]),
        "AR100": percent(recall[..., 0, 1]),
        "AR500": percent(recall[..., 0, 2]),
        "AP-person": percent(precision[:, :, 0, 0, -1]),
        "AP50-vehicle": percent(precision[0, :, 1, 0, -1]),
    }
    for i, size in enumerate(sizes[1:], start=1):
        infix = "_" if size in PANDA_SIZES else ""
        expected[f"AP{infix}{size.name}"] = percent(precision[..., i, -1])
        expected[f"AR{infix}{size.name}"] = percent(recall[..., i, -1])
    assert 20 < expected["AP50"] < 95
    for key, value in expected.items():
        assert metrics[key] == pytest.approx(value, abs=1e-9), key
    assert metrics["AP_uncapped"] == pytest.approx(metrics["AP"], abs=1e-9)


def test_crowds_beyond_500_per_image_equal_pycocotools_and_count_uncapped(register, tmp_path):
    grid = np.stack(np.meshgrid(np.arange(30), np.arange(22)), axis=-1).reshape(-1, 2) * 100.0
    boxes = np.concatenate([grid, np.full_like(grid, 50.0)], axis=1)
    classes = np.zeros(len(boxes), np.int64)
    scores = np.linspace(1, 0.5, len(boxes)).astype(np.float32)
    name = register([(boxes, classes)])
    metrics = evaluate(name, [(boxes, scores, classes)])
    all_sizes = type(PANDA_SIZES[0])("all", 0, 1e10)
    precision, recall = pycocotools_tables(
        tmp_path / "boxes.json", [(boxes, scores, classes)], sizes=(all_sizes,), caps=(10, 100, 500)
    )
    assert metrics["AP"] == pytest.approx(percent(precision[..., 0, -1]), abs=1e-9)
    assert metrics["AR500"] == pytest.approx(100 * 500 / 660, abs=1e-9)
    assert metrics["AR500"] == pytest.approx(percent(recall[..., 0, -1]), abs=1e-9)
    assert metrics["AP_uncapped"] == metrics["AP50_uncapped"] == metrics["AR_uncapped"] == 100
    assert metrics["recall"] == 100


def test_perfect_predictions_are_100_and_none_0(register):
    truths = [random_truth(seed) for seed in range(2)]
    name = register(truths)
    perfect = evaluate(name, [(boxes, np.ones(len(boxes)), c) for boxes, c in truths])
    none = evaluate(name, [(np.zeros((0, 4)), [], []) for _ in truths])
    for key in ("AP", "AP50", "AP75", "AP_uncapped", "AP-person", "precision", "recall", "AR500"):
        assert perfect[key] == pytest.approx(100), key
        assert none[key] == 0, key
    assert (perfect["count_error"], perfect["duplicate_rate"]) == (0, 0)
    assert (none["count_error"], none["duplicate_rate"]) == (-100, 0)
    for size in ("_small", "_middle", "_large", "s", "m", "l"):
        assert (perfect[f"AP{size}"], none[f"AP{size}"]) == (pytest.approx(100), 0)


def test_nothing_processed_is_zero_with_a_warning(register, caplog):
    name = register([random_truth(0)])
    with caplog.at_level("WARNING"):
        metrics = PandaEvaluator(name).evaluate()["bbox"]
    assert metrics["AP"] == 0
    assert "1 of 1 images have no result" in caplog.text


@pytest.mark.parametrize("mark", ["ignore", "iscrowd"])
def test_detections_in_ignore_regions_are_neither_right_nor_wrong(register, mark):
    boxes = np.array([[0, 0, 1000, 1000], [2000, 2000, 100, 100]], float)
    classes = np.zeros(2, np.int64)
    found = np.array([[100, 100, 90, 90], [500, 500, 90, 90], [2000, 2000, 100, 100]], float)
    detections = [(found, [0.95, 0.9, 0.6], [0, 0, 0])]
    name = register([(boxes, classes)], ignored=lambda image, i: {mark: 1} if i == 0 else {})
    metrics = evaluate(name, detections)
    assert metrics["AP"] == pytest.approx(100)
    assert metrics["precision"] == metrics["recall"] == 100
    assert metrics["count_error"] == 0


def test_missed_ignore_regions_are_not_missed_objects(register):
    boxes = np.array([[0, 0, 1000, 1000], [2000, 2000, 100, 100]], float)
    name = register(
        [(boxes, np.zeros(2, np.int64))], ignored=lambda image, i: {"ignore": 1} if i == 0 else {}
    )
    metrics = evaluate(name, [(boxes[1:], [0.9], [0])])
    assert metrics["AP"] == metrics["recall"] == pytest.approx(100)


def test_errors_follow_the_threshold_and_the_classes(register):
    boxes = np.array([[0, 0, 50, 50], [200, 0, 50, 50], [400, 0, 50, 50]], float)
    found = np.concatenate([boxes[:2], boxes[:1], boxes[2:]])
    detections = [(found, [0.9, 0.8, 0.7, 0.3], [0, 0, 0, 1])]
    name = register([(boxes, np.array([0, 0, 1]))])
    metrics = evaluate(name, detections, report_threshold=0.5)
    assert metrics["precision"] == pytest.approx(200 / 3)
    assert metrics["recall"] == pytest.approx(200 / 3)
    assert metrics["duplicate_rate"] == pytest.approx(100 / 3)
    assert metrics["count_error"] == 0
    assert metrics["count_mae"] == 1.0
    assert metrics["recall-person"] == 100 and metrics["recall-vehicle"] == 0
    assert metrics["recallm"] == pytest.approx(200 / 3)
    assert metrics["recall_small"] == pytest.approx(200 / 3)
    assert math.isnan(metrics["recall_large"])
    lenient = evaluate(name, detections, report_threshold=0.2)
    assert lenient["recall"] == 100


def test_results_are_written_and_printable(register, tmp_path, caplog):
    truths = [random_truth(0)]
    name = register(truths)
    boxes, classes = truths[0]
    evaluator = PandaEvaluator(name, output_dir=tmp_path / "inference")
    evaluator.process(
        [{"image_id": 10}], [{"instances": instances_of(boxes, np.ones(len(boxes)), classes)}]
    )
    results = evaluator.evaluate()
    written = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    assert len(written) == len(boxes)
    assert {w["image_id"] for w in written} == {10}
    assert [w["category_id"] for w in written] == [CATEGORY_IDS[c] for c in classes]
    np.testing.assert_allclose([w["bbox"] for w in written], boxes, atol=2e-3)
    metrics = json.loads((tmp_path / "inference" / "panda_metrics.json").read_text())
    assert metrics["AP"] == pytest.approx(100)
    files = {path.name for path in (tmp_path / "inference").iterdir()}
    assert files == {"coco_instances_results.json", "panda_metrics.json"}
    with caplog.at_level("INFO"):
        print_csv_format(results)
    assert "copypaste: AP,AP50,AP75" in caplog.text


def test_undefined_metrics_become_null_in_the_file(register, tmp_path):
    boxes = np.array([[0, 0, 50, 50]], float)
    name = register([(boxes, np.array([0]))])
    metrics = evaluate(name, [(boxes, [0.9], [0])], output_dir=tmp_path / "out")
    assert math.isnan(metrics["AP_large"]) and math.isnan(metrics["AP-vehicle"])
    written = json.loads((tmp_path / "out" / "panda_metrics.json").read_text())
    assert written["AP_large"] is None and written["AP"] == pytest.approx(100)


def test_datasets_without_a_json_file(register):
    name = "panda_evaluator_without_json"
    items = [
        {
            "file_name": "a.jpg",
            "image_id": 10,
            "height": SIZE[0],
            "width": SIZE[1],
            "annotations": [
                {"bbox": [5, 5, 50, 50], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
            ],
        }
    ]
    DatasetCatalog.register(name, lambda: items)
    MetadataCatalog.get(name).set(thing_classes=["person"])
    try:
        assert evaluate(name, [([[5, 5, 50, 50]], [0.9], [0])])["AP"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_contradicting_metadata(register):
    name = register([random_truth(0)])
    MetadataCatalog.get(name).set(thing_dataset_id_to_contiguous_id={1: 0})
    with pytest.raises(DatasetError, match="maps categories to classes by"):
        PandaEvaluator(name)


def test_unknown_image_and_class(register):
    evaluator = PandaEvaluator(register([random_truth(0)]))
    box = [[0, 0, 5, 5]]
    with pytest.raises(DatasetError, match="Image id 99 is not in dataset"):
        evaluator.process([{"image_id": 99}], [{"instances": instances_of(box, [0.5], [0])}])
    with pytest.raises(DatasetError, match=r"below the 2 classes .* got 2"):
        evaluator.process([{"image_id": 10}], [{"instances": instances_of(box, [0.5], [2])}])


def test_missing_backend_names_the_extra(register, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingDependencyError, match=r"sparsenet\[gigapixel\]"):
        PandaEvaluator(register([random_truth(0)])).evaluate()


def test_folder_that_cannot_be_written(register, tmp_path):
    (tmp_path / "file").write_text("")
    evaluator = PandaEvaluator(register([random_truth(0)]), output_dir=tmp_path / "file" / "out")
    with pytest.raises(OutputError, match="must go to a folder that can be written"):
        evaluator.evaluate()


def _evaluate_half(rank, folder, name, detections):
    """One of two processes; each has detected in one of the two images."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    evaluator = PandaEvaluator(name, output_dir=folder / "out")
    found = {"instances": instances_of(*detections[rank])}
    evaluator.process([{"image_id": 10 + rank}], [found])
    results = evaluator.evaluate()
    (folder / f"rank{rank}.json").write_text(json.dumps(sorted(results)))
    torch.distributed.destroy_process_group()


def test_detections_of_all_processes_are_gathered(register, tmp_path):
    truths = [random_truth(seed) for seed in range(2)]
    detections = [random_detections(seed, *truth) for seed, truth in enumerate(truths)]
    name = register(truths)
    processes = [
        multiprocessing.get_context("fork").Process(
            target=_evaluate_half, args=(rank, tmp_path, name, detections)
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert json.loads((tmp_path / "rank0.json").read_text()) == ["bbox"]
    assert json.loads((tmp_path / "rank1.json").read_text()) == []
    together = json.loads((tmp_path / "out" / "panda_metrics.json").read_text())
    assert together["AP"] == pytest.approx(evaluate(name, detections)["AP"], abs=1e-9)


def test_reset_forgets(register):
    boxes, classes = random_truth(0)
    evaluator = PandaEvaluator(register([(boxes, classes)]))
    found = {"instances": instances_of(boxes, np.ones(len(boxes)), classes)}
    evaluator.process([{"image_id": 10}], [found])
    evaluator.reset()
    assert evaluator.evaluate()["bbox"]["AP"] == 0


def test_a_table_of_classes_is_logged(register, caplog):
    boxes = np.array([[10.0, 10, 50, 60], [200, 10, 60, 60]])
    name = register([(boxes, np.array([0, 1]))])
    with caplog.at_level("INFO", logger="sparsenet.evaluation"):
        evaluate(name, [(boxes[:1], np.array([0.9]), np.array([0]))])
    rows = [line.split("|")[1:4] for line in caplog.text.splitlines() if line.startswith("| ")]
    assert [[cell.strip() for cell in row] for row in rows[1:]] == [
        ["person", "100.0", "100.0"], ["vehicle", "0.0", "0.0"],
    ]  # fmt: skip
