#!/usr/bin/env python
"""Composes a gigapixel scene with known truth, detects in it and tells how well: ``make demo``.

    python demo/gigapixel_demo.py --output output/demo

Then open output/demo/viewer/index.html.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from sparsenet.config import load_config
from sparsenet.engine.sample_demo import SampleScene, run_sample_demo
from sparsenet.errors import SparseNetError

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "sample" / "sparse_rcnn_sparsenet_conv_nano_fpn_sample.yaml"
WEIGHTS = ROOT / "projects" / "SparseNet" / "weights" / "sparse_rcnn_sparsenet_conv_nano_fpn.pth"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    default = SampleScene()
    add("--output", type=Path, default=Path("output/demo"), help="folder for scene and report")
    add("--config-file", type=Path, default=CONFIG)
    add("--weights", type=Path, default=WEIGHTS, help="default: the shipped ones")
    add("--size", type=int, nargs=2, default=list(default.size), metavar=("HEIGHT", "WIDTH"))
    add("--seed", type=int, default=default.seed)
    add("--density", type=float, default=default.density, help="factor on the number of objects")
    add("--quiet", action="store_true", help="no progress bars")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ... of the configuration")
    return parser


def to_table(summary: dict[str, Any], total_seconds: float) -> str:
    """What was found, and what it cost, for reading."""
    metrics, seconds = summary["metrics"], summary["seconds"]
    rows = [
        ("image", f"{summary['width']:,} x {summary['height']:,} px"),
        ("megapixels", f"{summary['width'] * summary['height'] / 1e6:,.0f}"),
        ("objects", f"{summary['num_objects']:,}"),
        (f"found (score >= {summary['threshold']:g})", f"{summary['num_detections']:,}"),
    ]
    keys = ["AP50", *sorted(k for k in metrics if k.startswith("AP50-"))]
    keys += ["precision", "recall", "duplicate_rate", "count_error"]
    for key in keys:
        value = metrics.get(key, math.nan)
        sign = "+" if key == "count_error" else ""
        label = key.replace("_", " ").replace("-", " ")
        rows.append((f"{label}, %", "-" if math.isnan(value) else f"{value:{sign}.1f}"))
    rows += [(f"{name}, s", f"{value:.1f}") for name, value in seconds.items() if name != "total"]
    rows.append(("everything, scene included, s", f"{total_seconds:.1f}"))
    rows.append(("peak memory, GB", f"{summary['peak_memory_gb']:.2f}"))
    return tabulate(rows, tablefmt="simple", colalign=("left", "right"), disable_numparse=True)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    level = logging.WARNING if args.quiet else logging.INFO
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    start = time.perf_counter()
    try:
        cfg = load_config(str(args.config_file), args.opts)
        cfg.MODEL.WEIGHTS = str(args.weights)
        if not torch.cuda.is_available():
            cfg.MODEL.DEVICE = "cpu"
        cfg.freeze()
        scene = SampleScene((args.size[0], args.size[1]), args.seed, args.density)
        summary = run_sample_demo(cfg, args.output, scene, quiet=args.quiet)
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(to_table(summary, time.perf_counter() - start))
    print(f"\nOpen {args.output / 'viewer' / 'index.html'} in a browser.")
    print(f"Results: {args.output}/overview.jpg, crops.jpg, detections.json, .geojson, .csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
