"""What became of an ablation: accuracy over the seeds, and the cost of each variant."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sparsenet.analysis.ablation import AblationRun
from sparsenet.analysis.detector_speed import DetectorOptions, measure_detectors
from sparsenet.analysis.drawing import load_dataset
from sparsenet.analysis.inputs import default_input_size, image_example
from sparsenet.analysis.parts import build_model_on
from sparsenet.analysis.tables import giga, markdown_table, milliseconds, percent
from sparsenet.config import load_config
from sparsenet.data import register_datasets

_WEIGHTS = "model_final.pth"


def measure_costs(runs: Sequence[AblationRun], options: DetectorOptions) -> list[dict[str, Any]]:
    """FLOPs and time of one image for the trained model of each variant's first run.

    The image is the centre of the first test image, at the first downsample where detection is
    tiled: what a sparse backbone keeps depends on weights and image.

    Returns:
        Records of :func:`measure_detectors`.
    """
    models: dict[str, nn.Module] = {}
    batches: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run.variant not in models:
            weights = ["MODEL.WEIGHTS", str(run.folder / _WEIGHTS)]
            cfg = load_config(run.config_file, [*run.opts, *weights])
            models[run.variant] = build_model_on(cfg, options.device, use_weights=True)
            batches[run.variant] = [_test_example(cfg)]
    torch.manual_seed(0)
    return measure_detectors(models, batches, options)


def ablation_table(
    results: Mapping[str, Sequence[Mapping[str, float]]],
    costs: Sequence[Mapping[str, Any]],
    metric: str,
) -> str:
    """A row per variant.

    Args:
        results: by variant, the metrics of each seed.
        costs: see :func:`measure_costs`.
        metric: key of the metrics.
    """
    rows = []
    for cost in costs:
        values = [result[metric] for result in results[cost["model"]]]
        rows.append(
            {
                "variant": cost["model"],
                metric: f"{statistics.fmean(values):.1f}",
                "range": f"{min(values):.1f}–{max(values):.1f}",
                "seeds": str(len(values)),
                "GFLOPs": giga(cost["gflops"]["total"] * 1e9),
                "of the backbone": giga(cost["gflops"]["backbone"] * 1e9),
                "ms": milliseconds(cost["median_s"]),
                "spread of ms": percent(cost["spread"]),
            }
        )
    return markdown_table(rows)


def _test_example(cfg: Any) -> dict[str, Any]:
    register_datasets(cfg)
    item = load_dataset(cfg.DATASETS.TEST[0])[0]
    downsample = cfg.TEST.TILE.DOWNSAMPLES[0] if cfg.TEST.TILE.ENABLED else None
    size = default_input_size(cfg)
    return image_example(item["file_name"], size, cfg.INPUT.FORMAT, downsample=downsample)
