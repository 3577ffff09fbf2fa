#!/usr/bin/env python
"""Tells what a model consists of and costs: parameters, FLOPs, activations, structure, speed.

    python tools/analyze_model.py --config-file configs/….yaml --tasks flops params
    python tools/analyze_model.py --config-file configs/….yaml --tasks speed \\
        --input-size 800 1280 MODEL.SPARSENET.KEEP_RATIO "(0.3, 0.3, 0.3, 0.3)"

The numbers are those of one image, noise unless ``--image`` names one: which windows a sparse
backbone keeps depends on the image and, with MODEL.WEIGHTS, on the training.
"""

from __future__ import annotations

import argparse
import sys
from itertools import takewhile

import torch
from torch import nn

from sparsenet.analysis.detector_speed import DetectorOptions, measure_detectors
from sparsenet.analysis.detector_tables import detector_table
from sparsenet.analysis.hardware import describe_run, one_line
from sparsenet.analysis.inputs import default_input_size, image_example, random_example
from sparsenet.analysis.model_report import (
    TASKS,
    describe_activations,
    describe_flops,
    describe_parameters,
    describe_structure,
)
from sparsenet.analysis.parts import build_model_on
from sparsenet.analysis.speed import pick_device
from sparsenet.config import load_config
from sparsenet.errors import SparseNetError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="YAML")
    add("--tasks", nargs="+", default=["params", "flops"], help=f"among {', '.join(TASKS)}")
    add("--input-size", nargs=2, type=int, metavar=("H", "W"), help="default: a tile, or 800 1280")
    add("--image", help="measure on the centre of this image instead of noise")
    add("--device", default="cpu", help="cpu or cuda")
    add("--max-depth", type=int, default=3, help="levels of modules in the table of parameters")
    add("--trust-checkpoint", action="store_true", help="allow pickled weights; they can run code")
    add("--use-weights", action="store_true", help="load MODEL.WEIGHTS instead of fresh weights")
    add("--quiet", action="store_true", help="no progress bars")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="of the configuration")
    return parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; overrides may follow the tasks directly."""
    parser = build_parser()
    args = parser.parse_args(argv)
    tasks = list(takewhile(TASKS.__contains__, args.tasks))
    args.tasks, rest = tasks, args.tasks[len(tasks) :]
    if not tasks or (rest and "." not in rest[0]):
        parser.error(f"--tasks must be among {', '.join(TASKS)}, got {rest[0]!r}")
    args.opts = [*rest, *args.opts]
    return args


def run_task(task: str, model: nn.Module, example: dict, args: argparse.Namespace) -> str:
    """The text of one task."""
    if task == "params":
        return describe_parameters(model, args.max_depth)
    if task == "speed":
        options = DetectorOptions(pick_device(args.device), quiet=args.quiet)
        records = measure_detectors({"model": model}, {"model": [example]}, options)
        return f"{detector_table(records)}\n\n{one_line(describe_run(options.device))}"
    describe = {
        "flops": describe_flops,
        "activations": describe_activations,
        "structure": describe_structure,
    }[task]
    return describe(model, example)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        cfg = load_config(args.config_file, args.opts)
        device = pick_device(args.device)
        model = build_model_on(
            cfg, device, use_weights=args.use_weights, trust_checkpoint=args.trust_checkpoint
        )
        size = tuple(args.input_size or default_input_size(cfg))
        torch.manual_seed(0)
        if args.image:
            example = image_example(args.image, size, cfg.INPUT.FORMAT)
        else:
            example = random_example(size)
        for task in args.tasks:
            print(f"## {task}\n\n{run_task(task, model, example, args)}\n")
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
