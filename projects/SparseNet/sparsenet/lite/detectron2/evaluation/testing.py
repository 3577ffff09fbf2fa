"""Stands in for detectron2.evaluation.testing: has print_csv_format, verify_results and
flatten_results_dict; lacks nothing."""

import logging
import math
import pprint
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["flatten_results_dict", "print_csv_format", "verify_results"]

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Logs task -> {metric: number} as comma-separated lines; metrics with a "-" are left out."""
    assert isinstance(results, Mapping) or not results, f"results must be a dict, got {results!r}"
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            logger.info(f"copypaste: {task}={metrics}")
            continue
        shown = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info(f"copypaste: Task: {task}")
        logger.info("copypaste: " + ",".join(shown))
        logger.info("copypaste: " + ",".join(f"{value:.4f}" for value in shown.values()))


def verify_results(cfg: Any, results: Mapping[str, Any]) -> bool:
    """Compares with TEST.EXPECTED_RESULTS, items [task, metric, value, tolerance].

    Returns True if all agree or none are given; otherwise ends the process with exit code 1.
    """
    failed = False
    for task, metric, expected, tolerance in cfg.TEST.EXPECTED_RESULTS:
        actual = results[task].get(metric, math.nan)
        failed |= not (math.isfinite(actual) and abs(actual - expected) <= tolerance)
    if failed:
        logger.error(f"Results must be within {cfg.TEST.EXPECTED_RESULTS}, but are")
        logger.error(pprint.pformat(results))
        sys.exit(1)
    return True


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {"a/b": value} for {"a": {"b": value}}, to any depth."""
    flat = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            inner = flatten_results_dict(value)
            flat.update({f"{key}/{name}": number for name, number in inner.items()})
        else:
            flat[key] = value
    return flat
