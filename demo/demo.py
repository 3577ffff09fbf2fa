#!/usr/bin/env python
"""Detects objects in images of any size: files, folders or patterns.

    python demo/demo.py --config-file configs/….yaml --input image.jpg --output output/mine \\
        --confidence-threshold 0.4 --opts MODEL.WEIGHTS model.pth

Each image gets a folder with overview.jpg, crops.jpg, detections.json (COCO results, low scores
included), detections.geojson (QuPath), detections.csv, summary.json and viewer/index.html, which
opens from disk. Exit status: 0; 1 if an image could not be read (the others are done); 2 on any
other error.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import sparsenet
from sparsenet.config import load_config
from sparsenet.engine.detection import build_predictor, detect_files
from sparsenet.errors import SparseNetError
from sparsenet.gigapixel.report import ReportOptions

if TYPE_CHECKING:
    from detectron2.config import CfgNode

logger = logging.getLogger("sparsenet.demo")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="YAML")
    add("--input", required=True, nargs="+", help="images, folders or quoted patterns")
    add("--output", required=True, type=Path, help="folder for the results")
    add("--confidence-threshold", type=float, default=0.4, help="score that is reported as found")
    add("--no-viewer", action="store_true", help="do not write the deep-zoom page")
    add("--max-pixels", type=float, help="refuse larger images (default: TEST.TILE.MAX_PIXELS)")
    add("--trust-checkpoint", action="store_true", help="allow pickled weights; they can run code")
    add("--quiet", action="store_true", help="no progress bars, errors only")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ... of the configuration")
    return parser


def read_config(args: argparse.Namespace) -> CfgNode:
    """The configuration; on a machine without a GPU the model runs on the CPU."""
    cfg = load_config(args.config_file, args.opts)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    if args.max_pixels is not None:
        cfg.TEST.TILE.MAX_PIXELS = int(args.max_pixels)
    cfg.freeze()
    return cfg


def print_summary(summary: dict[str, Any]) -> None:
    counts = ", ".join(f"{n:,} {name}" for name, n in summary["counts"].items()) or "nothing"
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in summary["seconds"].items())
    print(
        f"{summary['image']}: {counts} at a score of {summary['threshold']:g} or more "
        f"({summary['width']:,} x {summary['height']:,} px; seconds: {seconds}) "
        f"-> {summary['folder']}"
    )


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    level = logging.ERROR if args.quiet else logging.INFO
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    logger.info("SparseNet %s on the %s Detectron2", sparsenet.__version__, sparsenet.DETECTRON2)
    try:
        options = ReportOptions(
            threshold=args.confidence_threshold,
            has_viewer=not args.no_viewer,
            progress=not args.quiet,
        )
        cfg = read_config(args)
        run = detect_files(
            build_predictor(cfg, trust_checkpoint=args.trust_checkpoint),
            args.input,
            args.output,
            options,
            max_pixels=cfg.TEST.TILE.MAX_PIXELS,
            on_result=print_summary,
        )
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if run.failures:
        total = len(run.summaries) + len(run.failures)
        print(f"{len(run.failures)} of {total} images could not be read:", file=sys.stderr)
        for path, reason in run.failures:
            print(f"  {path}: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
