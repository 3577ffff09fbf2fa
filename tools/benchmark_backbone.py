#!/usr/bin/env python
"""Times the sparse backbones over the share of windows that they keep, beside a dense Swin-T.

    python tools/benchmark_backbone.py --output output/benchmark/backbone_cpu.json
    python tools/benchmark_backbone.py --device cuda --precision fp32 bf16 --output …

All variants take turns in one process: medians over the rounds. Prints Markdown tables and writes
every number, with the hardware and the command, as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from sparsenet.analysis.backbone_speed import (
    KEEP_RATIOS,
    BackboneCase,
    SpeedOptions,
    measure_inference,
    measure_training,
)
from sparsenet.analysis.backbone_tables import share_table, time_table, training_table
from sparsenet.analysis.hardware import describe_run, one_line
from sparsenet.analysis.speed import PRECISIONS, pick_device
from sparsenet.errors import SparseNetError
from sparsenet.files import make_folder, write_bytes


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--modules", nargs="+", default=["attention", "conv", "ls"], metavar="LOCAL_MODULE")
    add("--sizes", nargs="+", default=["nano", "tiny"])
    add("--designs", nargs="+", default=["corrected", "faithful"])
    add("--keep", nargs="+", type=float, default=KEEP_RATIOS, help="ratios; the first is the base")
    add("--input-size", nargs=2, type=int, default=[800, 1280], metavar=("H", "W"))
    add("--batch-size", type=int, default=1)
    add("--device", default="cpu", help="cpu or cuda")
    add("--precision", nargs="+", default=["fp32"], choices=PRECISIONS)
    add("--compile", action="store_true", help="torch.compile every variant")
    add("--repetitions", type=int, default=5)
    add("--train-keep", type=float, default=0.3, help="keep ratio of the training step; 0: none")
    add("--no-peer", action="store_true", help="leave Swin-T out")
    add("--threads", type=int, help="CPU threads (default: torch's)")
    add("--output", type=Path, help="JSON file")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def measure(args: argparse.Namespace, precision: str) -> dict[str, Any]:
    """All records of one precision, printed as tables."""
    device = pick_device(args.device)
    options = SpeedOptions(
        device,
        precision,
        is_compiled=args.compile,
        repetitions=args.repetitions,
        has_peer=not args.no_peer,
        quiet=args.quiet,
    )
    cases = [
        BackboneCase(module, size, design)
        for size in args.sizes
        for module in args.modules
        for design in args.designs
    ]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch_size, 3, *args.input_size, generator=generator)
    records: dict[str, Any] = {"inference": measure_inference(cases, args.keep, images, options)}
    size = " x ".join(map(str, images.shape))
    print(f"\nForward pass, {precision}, {size}; time relative to the first keep ratio:\n")
    print(time_table(records["inference"]))
    for key, title in (
        ("outside", "Share of time outside the local blocks"),
        ("peak_share", "Share of the card's peak"),
    ):
        if any(record[key] is not None for record in records["inference"]):
            print(f"\n{title}:\n\n{share_table(records['inference'], key)}")
    corrected = [case for case in cases if case.design == "corrected"]
    if args.train_keep and corrected:
        records["training"] = measure_training(corrected, args.train_keep, images, options)
        print(f"\n{training_table(records['training'])}")
    return records


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        run = describe_run(pick_device(args.device))
        results = {precision: measure(args, precision) for precision in args.precision}
        if args.output:
            make_folder(args.output.parent)
            content = {"run": run, "input_size": args.input_size, "results": results}
            write_bytes(args.output, json.dumps(content, indent=1).encode())
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{one_line(run)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
