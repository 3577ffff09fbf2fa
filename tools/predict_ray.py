#!/usr/bin/env python
"""Detects objects in many images on the machines of a Ray cluster.

    python tools/predict_ray.py --config-file configs/….yaml --input 'frames/*.jpg' \\
        --output output/frames --address auto --num-workers 8 --gpus-per-worker 1 \\
        --opts MODEL.WEIGHTS model.pth

Writes what demo/demo.py writes, one folder per image; input, output and weights must be on a file
system that all machines see. Run it again to go on after an interruption. Exit status: 0; 1 if an
image could not be read (the others are done); 2 on any other error.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import sparsenet  # noqa: F401  (makes detectron2 importable)
from sparsenet.config import load_config
from sparsenet.engine.detection import DetectionJob
from sparsenet.engine.ray_detection import RayWorkers, run_ray_detection
from sparsenet.errors import SparseNetError
from sparsenet.gigapixel.report import ReportOptions


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="YAML")
    add("--input", required=True, nargs="+", help="images, folders or quoted patterns")
    add("--output", required=True, type=Path, help="folder for the results")
    add("--address", help="of the cluster, or 'auto'; default: one on this machine alone")
    add("--num-workers", type=int, default=1, help="models that run at once")
    add("--gpus-per-worker", type=float, default=0, help="a fraction lets several share one")
    add("--cpus-per-worker", type=float, default=1)
    add("--confidence-threshold", type=float, default=0.4, help="score that is reported as found")
    add("--viewer", action="store_true", help="write the deep-zoom page of each image")
    add("--trust-checkpoint", action="store_true", help="allow pickled weights; they can run code")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ... of the configuration")
    return parser


def read_job(args: argparse.Namespace) -> DetectionJob:
    cfg = load_config(args.config_file, args.opts)
    if not args.gpus_per_worker:
        cfg.MODEL.DEVICE = "cpu"
    tile = cfg.TEST.TILE
    tile.SCORE_THRESHOLD = min(tile.SCORE_THRESHOLD, args.confidence_threshold)
    for node, key in ((cfg.MODEL, "WEIGHTS"), (tile.SELECTION, "MASK")):
        if node[key]:  # workers run elsewhere
            node[key] = str(Path(node[key]).absolute())
    cfg.freeze()
    return DetectionJob(
        cfg=cfg,
        inputs=tuple(args.input),
        output=args.output,
        report=ReportOptions(threshold=args.confidence_threshold, has_viewer=args.viewer),
        trust_checkpoint=args.trust_checkpoint,
    )


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    workers = RayWorkers(args.num_workers, args.gpus_per_worker, args.cpus_per_worker, args.address)
    try:
        run = run_ray_detection(
            read_job(args),
            workers,
            on_result=lambda s: print(f"{s['image']}: {s['num_detections']:,} -> {s['folder']}"),
        )
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path, reason in run.failures:
        print(f"{path}: {reason}", file=sys.stderr)
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
