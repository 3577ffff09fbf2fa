"""The same detector on one large image through SAHI, through supervision's slicer and through us.

Every contender reads the file, runs the detector function on the same square tiles with the same
score threshold, merges, and writes COCO results. Each should run in a process of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sparsenet.errors import MissingDependencyError
from sparsenet.gigapixel import GigapixelPredictor, TileOptions
from sparsenet.gigapixel.adapters import CallableDetector, DetectFunction
from sparsenet.gigapixel.onnx_detector import OnnxYoloxDetector
from sparsenet.gigapixel.options import SelectOptions

# Boxes of the detector that costs nothing; about what a crowded tile of 1,024 px holds.
_NUM_FIXED = 12
# The rivals keep all.
_MAX_DETECTIONS = 1_000_000


@dataclass(frozen=True)
class TileRun:
    """What all contenders share.

    Args:
        image: The file.
        detector: ONNX file of a YOLOX; None puts 12 fixed boxes into every tile at no cost, which
            leaves what the frameworks themselves take.
        tile_size: Side of a tile, pixels.
        overlap: Pixels that neighbours share.
        threshold: Detections with a lower score do not exist.
        num_threads: Of the network; 0 lets onnxruntime choose.
        coarse: Downsample of the coarse tiles, where a contender knows such.
    """

    image: str
    detector: str | None
    tile_size: int = 1024
    overlap: int = 204
    threshold: float = 0.3
    num_threads: int = 0
    coarse: int = 4


@dataclass
class TimedDetector:
    """A detector function that adds up the seconds and tiles of its calls."""

    detect: DetectFunction
    seconds: float = field(default=0.0)
    num_tiles: int = field(default=0)

    def __call__(self, pictures: np.ndarray) -> Any:
        start = time.perf_counter()
        found = self.detect(pictures)
        self.seconds += time.perf_counter() - start
        self.num_tiles += len(pictures)
        return found


def _fixed_boxes(pictures: np.ndarray) -> Any:
    sides = np.linspace(0.1, 0.8, _NUM_FIXED)[:, None] * min(pictures.shape[1:3])
    boxes = np.concatenate([sides, sides, sides + 40, sides + 100], axis=1)
    scores = np.linspace(0.9, 0.5, _NUM_FIXED)
    return [(boxes, scores, np.zeros(_NUM_FIXED, dtype=int)) for _ in pictures]


def _detector(run: TileRun) -> TimedDetector:
    if run.detector is None:
        return TimedDetector(_fixed_boxes)
    return TimedDetector(
        OnnxYoloxDetector(run.detector, score_threshold=run.threshold, num_threads=run.num_threads)
    )


def run_ours(run: TileRun, output: Path, tile: TileOptions) -> dict[str, float]:
    """Streams the file; seconds by part."""
    detector = _detector(run)
    predictor = GigapixelPredictor(CallableDetector(detector), tile=tile)
    base = peak_memory()
    start = time.perf_counter()
    result = predictor(run.image, progress=False)
    before_write = time.perf_counter()
    output.write_text(json.dumps(result.to_coco(category_ids=range(80))))
    end = time.perf_counter()
    return {
        "decode": result.timings["decode"],
        "detect": detector.seconds,
        "merge": result.timings["merge"],
        "write": end - before_write,
        "total": end - start,
        "tiles": detector.num_tiles,
        "base MB": base,
    }


def _one_level(run: TileRun) -> TileOptions:
    return TileOptions(
        size=run.tile_size,
        overlap=run.overlap,
        batch_size=4,
        score_threshold=run.threshold,
        max_detections=_MAX_DETECTIONS,
    )


def _two_levels(run: TileRun, mode: str) -> TileOptions:
    return TileOptions(
        size=run.tile_size,
        overlap=run.overlap,
        batch_size=4,
        score_threshold=run.threshold,
        max_detections=_MAX_DETECTIONS,
        downsamples=(1, run.coarse),
        # Smaller than this in a coarse tile, an object is looked for in the fine ones.
        object_size_range=(run.tile_size / 12, run.tile_size / 1.5),
        select=SelectOptions(mode=mode),
    )


def run_sahi(run: TileRun, output: Path, **postprocess: Any) -> dict[str, float]:
    """``get_sliced_prediction`` without its pass over the whole image."""
    try:
        from sahi.predict import get_sliced_prediction

        from sparsenet.gigapixel.sahi_adapter import SparseNetDetectionModel
    except ImportError as error:
        raise _missing("SAHI") from error
    detector = _detector(run)
    predictor = GigapixelPredictor(CallableDetector(detector))
    model = SparseNetDetectionModel(
        model=predictor,
        confidence_threshold=run.threshold,
        device="cpu",
        category_mapping={str(index): str(index) for index in range(80)},
    )
    base = peak_memory()
    start = time.perf_counter()
    ratio = run.overlap / run.tile_size
    result = get_sliced_prediction(
        run.image,
        model,
        slice_height=run.tile_size,
        slice_width=run.tile_size,
        overlap_height_ratio=ratio,
        overlap_width_ratio=ratio,
        perform_standard_pred=False,
        batch_size=4,
        verbose=0,
        **postprocess,
    )
    before_write = time.perf_counter()
    output.write_text(json.dumps(result.to_coco_predictions(image_id=0)))
    end = time.perf_counter()
    seconds = result.durations_in_seconds
    return {
        "decode": seconds["slice"],
        "detect": detector.seconds,
        "merge": seconds.get("postprocess", float("nan")),
        "write": end - before_write,
        "total": end - start,
        "tiles": detector.num_tiles,
        "base MB": base,
    }


def run_supervision(run: TileRun, output: Path) -> dict[str, float]:
    """``InferenceSlicer`` on the pixels that OpenCV decodes, as its documentation shows."""
    try:
        import supervision
    except ImportError as error:
        raise _missing("supervision") from error
    detector = _detector(run)

    def detect(picture: np.ndarray) -> Any:
        boxes, scores, classes = detector(picture[None, :, :, ::-1])[0]
        return supervision.Detections(
            xyxy=np.asarray(boxes, dtype=float), confidence=scores, class_id=classes
        )

    base = peak_memory()
    start = time.perf_counter()
    pixels = cv2.imread(run.image)
    after_decode = time.perf_counter()
    slicer = supervision.InferenceSlicer(
        callback=detect, slice_wh=run.tile_size, overlap_wh=run.overlap, iou_threshold=0.5
    )
    found = slicer(pixels)
    before_write = time.perf_counter()
    boxes = found.xyxy.copy()
    boxes[:, 2:] -= boxes[:, :2]
    results = [
        {"image_id": 0, "category_id": index, "bbox": box, "score": score}
        for box, score, index in zip(
            boxes.tolist(), found.confidence.tolist(), found.class_id.tolist()
        )
    ]
    output.write_text(json.dumps(results))
    end = time.perf_counter()
    return {
        "decode": after_decode - start,
        "detect": detector.seconds,
        "merge": before_write - after_decode - detector.seconds,  # with cutting the tiles
        "write": end - before_write,
        "total": end - start,
        "tiles": detector.num_tiles,
        "base MB": base,
    }


def peak_memory() -> float:
    """Most memory that this process ever held, MB.

    Not ``ru_maxrss``, which on Linux begins with the memory of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def _missing(name: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"This contender is {name}, which is not installed. Install both rivals with "
        "`pip install 'sparsenet[bench]'`."
    )


CONTENDERS: dict[str, Callable[[TileRun, Path], dict[str, float]]] = {
    "SAHI, greedy NMM (its default)": run_sahi,
    "SAHI, NMS": lambda run, output: run_sahi(
        run, output, postprocess_type="NMS", postprocess_match_metric="IOU"
    ),
    "supervision, NMS": run_supervision,
    "ours, one level": lambda run, output: run_ours(run, output, _one_level(run)),
    "ours, two levels": lambda run, output: run_ours(run, output, _two_levels(run, "all")),
    "ours, coarse to fine": lambda run, output: run_ours(
        run, output, _two_levels(run, "coarse_to_fine")
    ),
}
