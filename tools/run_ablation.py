#!/usr/bin/env python
"""Trains variants × seeds with equal data and steps, evaluates, and writes one table.

    python tools/run_ablation.py --file projects/SparseNet/ablations/local_modules.yaml \\
        --output output/ablation [KEY VALUE …]

Interrupted runs go on and finished ones are not repeated when the same command is given again.
Writes ablation.md and ablation.json, with every seed's metrics, the hardware and the command.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import torch

from sparsenet.analysis.ablation import AblationRun, read_ablation, train
from sparsenet.analysis.ablation_table import ablation_table, measure_costs
from sparsenet.analysis.detector_speed import DetectorOptions
from sparsenet.analysis.hardware import describe_run, one_line
from sparsenet.analysis.speed import pick_device
from sparsenet.errors import SparseNetError
from sparsenet.files import make_folder, write_bytes

TRAIN_NET = Path(__file__).resolve().parents[1] / "projects" / "SparseNet" / "train_net.py"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--file", type=Path, required=True, metavar="YAML", help="the variants and seeds")
    add("--output", type=Path, required=True, help="folder of all runs and of the table")
    add("--metric", default="bbox/AP50", help="key of metrics.json for the table")
    add("--num-gpus", type=int, default=0, help="of each training; 0 trains on the CPU")
    add("--repetitions", type=int, default=5, help="of the timing")
    add("--quiet", action="store_true", help="no progress bars")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides for every run")
    return parser


def print_start(run: AblationRun) -> None:
    print(f"{run.variant}, seed {run.seed}: training in {run.folder}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Runs what is missing and writes the table; returns the exit status."""
    args = build_parser().parse_args(argv)
    results = defaultdict(list)
    try:
        runs = read_ablation(args.file, make_folder(args.output), tuple(args.opts))
        for run in runs:
            result = train(
                run, TRAIN_NET, num_gpus=args.num_gpus, metric=args.metric, on_start=print_start
            )
            print(f"{run.variant}, seed {run.seed}: {args.metric} {result[args.metric]:.2f}")
            results[run.variant].append(result)
        device = pick_device("cuda" if args.num_gpus and torch.cuda.is_available() else "cpu")
        options = DetectorOptions(device, repetitions=args.repetitions, quiet=args.quiet)
        costs = measure_costs(runs, options)
        hardware = describe_run(device)
        table = ablation_table(results, costs, args.metric)
        write_bytes(args.output / "ablation.md", f"{table}\n\n{one_line(hardware)}\n".encode())
        content = {"run": hardware, "results": results, "costs": costs}
        write_bytes(args.output / "ablation.json", json.dumps(content, indent=1).encode())
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{table}\n\n{one_line(hardware)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
