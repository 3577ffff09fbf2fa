"""The sample scene from pixels to a report: what ``make demo`` does."""

from __future__ import annotations

import json
import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from sparsenet.data.builtin import register_coco_files
from sparsenet.data.scenes.recipe import SceneRecipe, make_scenes
from sparsenet.engine.detection import build_predictor
from sparsenet.engine.evaluate import peak_memory_gb, to_instances
from sparsenet.errors import OutputError
from sparsenet.evaluation import PandaEvaluator
from sparsenet.gigapixel.predictor import GigapixelResult
from sparsenet.gigapixel.report import ReportOptions, save_report
from sparsenet.gigapixel.truth import Truth
from sparsenet.tiling.reader import open_image

logger = logging.getLogger(__name__)

_DATASET = "sparsenet_sample_demo"


@dataclass(frozen=True)
class SampleScene:
    """The scene to make.

    Args:
        size: ``(height, width)`` in pixels.
        seed: Not one that the shipped weights were trained on.
        density: Factor on the number of objects.
    """

    size: tuple[int, int] = (12_288, 17_408)
    seed: int = 7
    density: float = 1.0


def run_sample_demo(
    cfg: CfgNode, output: Path, scene: SampleScene | None = None, *, quiet: bool = False
) -> dict[str, Any]:
    """Composes the scene, detects in its JPEG, evaluates, and writes the report.

    Args:
        cfg: With ``MODEL.WEIGHTS``.
        output: Gets the report, and the scene under ``scene/``; a scene made earlier from the same
            options is used again.
        scene: None takes the defaults.
        quiet: No progress bars.

    Returns:
        The report's summary with ``metrics`` (percent) and ``peak_memory_gb``. The memory is that
        of loading, detecting and writing; the scene is composed by a process of its own.

    Raises:
        SparseNetError: If the weights, the scene or the output cannot be used.
    """
    scene = scene or SampleScene()
    predictor = build_predictor(cfg)  # first: without weights there is nothing to compose for
    content = compose(scene, output / "scene", quiet=quiet)
    image = content["images"][0]
    jpeg = next(name for name in image["files"] if name.endswith(".jpg"))
    reader = open_image(output / "scene" / jpeg, max_pixels=cfg.TEST.TILE.MAX_PIXELS)
    result = predictor(reader, progress=not quiet)
    item, metrics = _evaluate(cfg, result, output / "scene")
    options = ReportOptions(
        threshold=cfg.TEST.REPORT_THRESHOLD,
        image_id=image["id"],
        category_ids=[category["id"] for category in content["categories"]],
        progress=not quiet,
    )
    truth = Truth.from_annotations(item["annotations"])
    summary = save_report(result, reader, output, options, truth=truth)
    return {
        **summary,
        "num_objects": int((~truth.is_ignore).sum()),
        "metrics": metrics,
        "peak_memory_gb": round(peak_memory_gb(), 3),
    }


def compose(scene: SampleScene, folder: Path, *, quiet: bool = False) -> dict[str, Any]:
    """The content of the scene's ``annotations.json``, made where it is not there yet."""
    recipe = SceneRecipe(size=scene.size, density=scene.density)
    existing = _read_existing(folder, {**recipe.note(), "seed": scene.seed})
    if existing is not None:
        logger.info("Using the scene that is in %s.", folder)
        return existing
    # A process of its own, so that the peak memory that is told later is that of detection.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(make_scenes, recipe, folder, seed=scene.seed, quiet=quiet).result()
    except BrokenProcessPool as error:
        raise OutputError(
            f"The scene could not be composed in {folder}: the process ended early, most likely "
            "for lack of memory. Free some, or make a smaller scene with --size."
        ) from error


def _read_existing(folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    path = folder / "annotations.json"
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    info = content.get("info", {})
    files = [name for image in content.get("images", []) for name in image.get("files", [])]
    is_same = all(info.get(key) == value for key, value in wanted.items())
    is_complete = bool(files) and all((folder / name).is_file() for name in files)
    return content if is_same and is_complete else None


def _evaluate(
    cfg: CfgNode, result: GigapixelResult, folder: Path
) -> tuple[dict[str, Any], dict[str, float]]:
    """The scene's dataset dict, and the metrics of PANDA's evaluator."""
    register_coco_files(
        [[_DATASET, str(folder / "annotations.json"), str(folder)]], evaluator_type="panda"
    )
    item = DatasetCatalog.get(_DATASET)[0]
    evaluator = PandaEvaluator(
        _DATASET, report_threshold=cfg.TEST.REPORT_THRESHOLD, distributed=False
    )
    evaluator.process([item], [{"instances": to_instances(result.detections)}])
    return item, dict(evaluator.evaluate()["bbox"])
