"""Evaluation of all checkpoints of a folder: which one is the best."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from tabulate import tabulate
from torch import nn

from sparsenet.engine.checkpoint import SafeCheckpointer
from sparsenet.engine.trainer import Trainer
from sparsenet.errors import CheckpointError, ConfigError
from sparsenet.files import make_folder, write_json

logger = logging.getLogger(__name__)

RESULTS_FOLDER = "checkpoints"
RESULTS_FILE = "checkpoints.json"
# Last parts of metrics: what the table shows, of which less is better, and which have a sign.
_SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "mMR", "JI", "precision", "recall", "mIoU")
_LOWER_IS_BETTER = ("mMR", "duplicate_rate", "count_mae")
_ZERO_IS_BEST = ("count_error",)


def find_checkpoints(folder: str | Path) -> list[Path]:
    """The ``.pth`` files of a folder by name: ``model_0000999.pth`` … ``model_final.pth``.

    Raises:
        CheckpointError: If there is none.
    """
    paths = sorted(Path(folder).glob("*.pth"))
    if not paths:
        raise CheckpointError(
            f"MODEL.WEIGHTS must be a file, or a folder with checkpoints; {folder} holds no .pth "
            "file. Name the OUTPUT_DIR of a run."
        )
    return paths


def evaluate_checkpoints(
    cfg: CfgNode,
    evaluate: Callable[[CfgNode, nn.Module], Mapping[str, Any]],
    *,
    trust: bool = False,
) -> dict[str, Any]:
    """Evaluates every checkpoint of the folder ``MODEL.WEIGHTS`` and tells the best.

    ``OUTPUT_DIR/checkpoints`` gets a folder of results for each and ``checkpoints.json`` with all
    metrics.

    Args:
        cfg: ``TEST.BEST_METRIC`` decides.
        evaluate: Gives the metrics of a model, as ``Trainer.test``.
        trust: Allows checkpoints that hold pickles.

    Returns:
        The metrics of the best one on rank 0, an empty dict elsewhere.

    Raises:
        CheckpointError: If there is no checkpoint, or one cannot be read.
        ConfigError: If no checkpoint has that metric.
    """
    paths = find_checkpoints(cfg.MODEL.WEIGHTS)
    folder = Path(cfg.OUTPUT_DIR) / RESULTS_FOLDER
    results: dict[str, dict[str, Any]] = {}
    for number, path in enumerate(paths, start=1):
        logger.info("Checkpoint %d of %d: %s", number, len(paths), path)
        own = cfg.clone()
        own.defrost()
        own.OUTPUT_DIR = str(folder / path.stem)
        own.freeze()
        model = Trainer.build_model(own)  # anew: a checkpoint may lack what the one before had
        SafeCheckpointer(model, trust=trust).load(str(path))
        results[path.name] = dict(evaluate(own, model))
    if not comm.is_main_process():
        return {}
    metrics = {name: flatten_results_dict(result) for name, result in results.items()}
    best = best_checkpoint(metrics, cfg.TEST.BEST_METRIC)
    write_json(make_folder(folder) / RESULTS_FILE, {"best": best, "metrics": _without_nan(metrics)})
    logger.info(
        "%d checkpoints:\n%s", len(paths), checkpoint_table(metrics, cfg.TEST.BEST_METRIC, best)
    )
    logger.info("The best is %s", Path(cfg.MODEL.WEIGHTS) / best)
    return results[best]


def best_checkpoint(metrics: Mapping[str, Mapping[str, float]], metric: str) -> str:
    """The name with the best value; of equal ones the first.

    Raises:
        ConfigError: If the metric is in none or undefined in all.
    """
    kind = metric.split("/")[-1].split("-")[0]
    sign = -1 if kind in _LOWER_IS_BETTER + _ZERO_IS_BEST else 1
    values = {
        name: sign * (abs(m[metric]) if kind in _ZERO_IS_BEST else m[metric])
        for name, m in metrics.items()
        if not math.isnan(m.get(metric, math.nan))
    }
    if not values:
        known = sorted({key for m in metrics.values() for key in m if "-" not in key})
        raise ConfigError(
            f"TEST.BEST_METRIC must be a metric with a value, got {metric!r}. There are "
            f"{', '.join(known) or 'none'}."
        )
    return max(values, key=values.__getitem__)


def checkpoint_table(metrics: Mapping[str, Mapping[str, float]], metric: str, best: str) -> str:
    """A row per checkpoint; the deciding metric first, the best row marked."""
    keys = dict.fromkeys([metric])
    keys |= dict.fromkeys(
        key for m in metrics.values() for key in m if key.split("/")[-1] in _SHOWN
    )
    rows = [
        [name, *(m.get(key, math.nan) for key in keys), "best" if name == best else ""]
        for name, m in metrics.items()
    ]
    return tabulate(rows, ["checkpoint", *keys, ""], tablefmt="pipe", floatfmt=".2f")


def _without_nan(metrics: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """JSON has no nan; an undefined figure becomes null."""
    return {
        name: {key: None if math.isnan(value) else value for key, value in m.items()}
        for name, m in metrics.items()
    }
