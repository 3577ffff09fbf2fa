"""Measures the contenders of :mod:`tiling_contenders`, each run in a process of its own."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from tabulate import tabulate
from tqdm import tqdm

from sparsenet.analysis.tiling_contenders import CONTENDERS, TileRun, peak_memory
from sparsenet.data.coco_json import read_coco_json
from sparsenet.errors import SparseNetError
from sparsenet.evaluation.coco_metrics import ALL_SIZES, accumulate
from sparsenet.evaluation.detection_errors import count_errors
from sparsenet.gigapixel.truth import Truth

SECONDS = ("decode", "detect", "merge", "write", "total", "CPU s")
_MAX_DETECTIONS = 100_000


class ContenderError(SparseNetError, RuntimeError):
    """A contender's process failed; the message ends with what it wrote."""


def measure_contender(name: str, run: TileRun, repeats: int, quiet: bool) -> dict[str, Any]:
    """Medians over processes, and the detections of the last one.

    Raises:
        ContenderError: If a process fails.
    """
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "results.json"
        for _ in tqdm(range(repeats), desc=name, disable=quiet):
            task = json.dumps({"name": name, "output": str(output), **asdict(run)})
            command = [sys.executable, "-m", __name__, task]
            process = subprocess.run(command, capture_output=True, text=True)
            if process.returncode:
                raise ContenderError(
                    f"{name} must run to its end, it stopped with {process.returncode}. Its last "
                    f"words: {process.stderr.strip()[-600:]}"
                )
            measured.append(json.loads(process.stdout.splitlines()[-1]))
        detections = json.loads(output.read_text())
    medians = {key: statistics.median(run[key] for run in measured) for key in measured[0]}
    return {**medians, "runs": measured, "detections": detections}


def run_in_this_process(task: dict[str, Any]) -> dict[str, float]:
    """What one process does: runs one contender once; seconds, tiles and memory.

    The processor's seconds include loading the contender's package and the network.
    """
    name, output = task.pop("name"), Path(task.pop("output"))
    start = time.process_time()
    measured = CONTENDERS[name](TileRun(**task), output)
    return {**measured, "CPU s": time.process_time() - start, "peak MB": peak_memory()}


def read_truth(path: Path, image: str, class_names: Sequence[str]) -> Truth | None:
    """The objects of one image, with the detector's class of the same name.

    Args:
        path: COCO file.
        image: Its image of this file name is taken; None is returned where it has none.
        class_names: The detector's, by class; objects of other names are left out.
    """
    dataset = read_coco_json(path, path.parent)
    entries = [e for e in dataset.dicts if Path(e["file_name"]).name == Path(image).name]
    if not entries:
        return None
    annotations = entries[0]["annotations"]
    known = [a for a in annotations if dataset.class_names[a["category_id"]] in class_names]
    truth = Truth.from_annotations(known)
    classes = [class_names.index(dataset.class_names[index]) for index in truth.classes]
    return Truth(truth.boxes_xyxy, np.array(classes, dtype=np.int64), truth.is_ignore)


def quality(detections: list[dict[str, Any]], truth: Truth, threshold: float) -> dict[str, float]:
    """AP50 and the errors that it does not show, over the classes that the truth has."""
    used = set(truth.classes.tolist())
    kept = [one for one in detections if one["category_id"] in used]
    boxes = np.array([one["bbox"] for one in kept], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([one["score"] for one in kept])
    classes = np.array([one["category_id"] for one in kept], dtype=int)
    per_class = count_errors(
        boxes, scores, classes, truth.boxes_xyxy, truth.classes, truth.is_ignore,
        threshold=threshold,
    )  # fmt: skip
    counts = sum(per_class.values(), start=type(next(iter(per_class.values())))())
    table = accumulate(
        _coco_truth(truth), kept, max_detections=[_MAX_DETECTIONS], size_ranges=[ALL_SIZES]
    )
    ap50 = table.average_precision(max_detections=_MAX_DETECTIONS, iou_threshold=0.5)
    return {
        "AP50": ap50,
        "recall": counts.recall,
        "precision": counts.precision,
        "duplicates": counts.duplicate_rate,
        "count error": counts.count_error,
    }


def _coco_truth(truth: Truth) -> dict[str, Any]:
    boxes = BoxMode.convert(truth.boxes_xyxy.copy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    annotations = [
        {
            "id": number,
            "image_id": 0,
            "category_id": int(index),
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(ignore),
        }
        for number, (box, index, ignore) in enumerate(
            zip(boxes.tolist(), truth.classes, truth.is_ignore), start=1
        )
    ]
    categories = [{"id": int(index)} for index in np.unique(truth.classes)]
    return {"images": [{"id": 0}], "annotations": annotations, "categories": categories}


def markdown_table(rows: dict[str, dict[str, Any]]) -> str:
    """One line per contender: seconds, peak memory and, with a truth, its errors."""
    measures = [m for m in ("AP50", "recall", "precision", "duplicates", "count error") if any(
        m in row for row in rows.values()
    )]  # fmt: skip
    lines = []
    for name, row in rows.items():
        seconds = ["–" if math.isnan(row[key]) else f"{row[key]:.2f}" for key in SECONDS]
        errors = [f"{row[m]:+.1%}" if m == "count error" else f"{row[m]:.3f}" for m in measures]
        count = f"{len(row['detections']):,}"
        lines.append(
            [
                name,
                f"{row['tiles']:,.0f}",
                *seconds,
                f"{row['base MB']:,.0f}",
                f"{row['peak MB']:,.0f}",
                count,
            ]
        )
        lines[-1] += errors
    headers = [
        "",
        "tiles",
        *(key if key.endswith(" s") else f"{key} s" for key in SECONDS),
        "before MB",
        "peak MB",
        "boxes",
        *measures,
    ]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run_in_this_process(json.loads(sys.argv[1]))) + "\n")
