#!/usr/bin/env python
"""Detects objects in images of any size: files, folders or patterns.

    python demo/demo.py --config-file configs/….yaml --input image.jpg --output output/mine \\
        --confidence-threshold 0.4 --opts MODEL.WEIGHTS model.pth

Each image gets a folder with overview.jpg, crops.jpg, detections.json (COCO results, low scores
included), detections.geojson (QuPath), detections.csv, summary.json and viewer/index.html, which
opens from disk; --export writes other formats. With --resume, images that are finished are left,
and one that was interrupted goes on from its last finished row of tiles. Exit status: 0; 1 if an
image could not be read (the others are done); 2 on any other error.
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
from sparsenet.engine.detection import DetectionJob, run_detection
from sparsenet.errors import ConfigError, SparseNetError
from sparsenet.gigapixel.exports import FORMATS
from sparsenet.gigapixel.merge import METHODS
from sparsenet.gigapixel.options import SELECT_MODES
from sparsenet.gigapixel.report import ReportOptions

if TYPE_CHECKING:
    from detectron2.config import CfgNode

logger = logging.getLogger("sparsenet.demo")

# What tells how tiles run, and has no meaning for an image that is detected in as a whole.
_TILE_FLAGS = ("select", "mask", "max_tiles", "merge", "bf16", "channels_last", "compile")
_MAX_TILES_HELP = (
    "tiles in all, the best first; those of the coarsest downsample always run, whatever their "
    "number; needs --select coarse_to_fine"
)
_EXPORT_HELP = f"files to write (default: {', '.join(ReportOptions.formats)}): {', '.join(FORMATS)}"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="YAML")
    add("--input", required=True, nargs="+", help="images, folders or quoted patterns")
    add("--output", required=True, type=Path, help="folder for the results")
    add("--confidence-threshold", type=float, default=0.4, help="score that is reported as found")
    add("--resume", action="store_true", help="go on where an earlier run was interrupted")
    add("--select", choices=SELECT_MODES, help="which tiles run (default: TEST.TILE.SELECT)")
    add("--mask", metavar="FILE", help="GeoJSON polygons or a mask image: look only there")
    add("--max-tiles", type=int, help=_MAX_TILES_HELP)
    add(
        "--num-gpus",
        "--num-processes",
        dest="num_processes",
        type=int,
        default=1,
        help="processes, one per GPU or on the CPU; they share the images, or the rows of one",
    )
    add("--bf16", action="store_true", help="run the model in bfloat16")
    add("--channels-last", action="store_true", help="memory layout for faster convolutions")
    add("--compile", action="store_true", help="compile the backbone: slow start, faster tiles")
    add("--log-json", type=Path, metavar="FILE", help="append every step as a line of JSON")
    add("--merge", choices=METHODS, help="how duplicates are removed (default: TEST.TILE.MERGE)")
    add("--export", nargs="+", choices=sorted(FORMATS), metavar="NAME", help=_EXPORT_HELP)
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
    tile = cfg.TEST.TILE
    _check_tile_flags(args, tile.ENABLED)
    tile.SCORE_THRESHOLD = min(tile.SCORE_THRESHOLD, args.confidence_threshold)
    if args.max_pixels is not None:
        tile.MAX_PIXELS = int(args.max_pixels)
    if args.mask is not None:
        tile.SELECTION.MASK = args.mask
        tile.SELECT = "mask" if tile.SELECT == "all" else tile.SELECT
    if args.max_tiles is not None:
        tile.SELECTION.MAX_TILES = args.max_tiles
    tile.SELECT = args.select or tile.SELECT
    tile.MERGE = args.merge or tile.MERGE
    cfg.freeze()
    return cfg


def _check_tile_flags(args: argparse.Namespace, is_tiled: bool) -> None:
    given = [f"--{name.replace('_', '-')}" for name in _TILE_FLAGS if getattr(args, name)]
    if given and not is_tiled:
        raise ConfigError(
            f"{', '.join(given)} must go with detection tile by tile, but TEST.TILE.ENABLED is "
            "False. Leave it out, or add --opts TEST.TILE.ENABLED True."
        )


def read_job(args: argparse.Namespace) -> DetectionJob:
    """What the arguments ask for."""
    return DetectionJob(
        cfg=read_config(args),
        inputs=tuple(args.input),
        output=args.output,
        report=ReportOptions(
            threshold=args.confidence_threshold,
            formats=args.export or ReportOptions.formats,
            has_viewer=not args.no_viewer,
            progress=not args.quiet,
        ),
        resume=args.resume,
        log_json=args.log_json,
        trust_checkpoint=args.trust_checkpoint,
        hardware={
            "use_bf16": args.bf16,
            "channels_last": args.channels_last,
            "use_compile": args.compile,
        },
    )


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
        run = run_detection(
            read_job(args), num_processes=args.num_processes, on_result=print_summary
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
