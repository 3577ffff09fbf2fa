#!/usr/bin/env python
"""Times the implementations of our operators side by side.

    python tools/benchmark_ops.py --threads 1
    python tools/benchmark_ops.py ska --device cuda --precision fp32 bf16 --compile

All implementations take turns in one process: medians over the rounds. Prints Markdown tables and
writes every number, with the hardware and the command, as JSON. "GB/s" is the traffic that no
implementation could do without, by the time of the forward pass; "floor, ms" is that traffic at
the rate of a large copy, measured on this machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from sparsenet.analysis.hardware import describe_run, one_line
from sparsenet.analysis.op_speed import OPERATORS, measure_operator, operator_rows
from sparsenet.analysis.speed import pick_device
from sparsenet.analysis.tables import markdown_table
from sparsenet.errors import SparseNetError
from sparsenet.files import make_folder, write_bytes

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("operators", nargs="*", help=f"of {', '.join(OPERATORS)} (default: all)")
    add("--device", default="cpu", help="cpu or cuda")
    add("--precision", nargs="+", default=["fp32"], choices=DTYPES)
    add("--compile", action="store_true", help="torch.compile, too; minutes on a CPU")
    add("--repetitions", type=int, default=5)
    add("--threads", type=int, help="CPU threads (default: torch's)")
    add("--output", type=Path, help="JSON file")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    names = args.operators or list(OPERATORS)
    if unknown := set(names) - set(OPERATORS):
        parser.error(f"operators must be among {', '.join(OPERATORS)}, got {', '.join(unknown)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        device = pick_device(args.device)
        run, results = describe_run(device), {}
        for name in names:
            for precision in args.precision:
                results[f"{name}, {precision}"] = records = measure_operator(
                    OPERATORS[name](args.compile),
                    device=device,
                    dtype=DTYPES[precision],
                    repetitions=args.repetitions,
                    quiet=args.quiet,
                )
                print(f"\n{name}, {precision}:\n\n{markdown_table(operator_rows(records))}")
        if args.output:
            make_folder(args.output.parent)
            content = json.dumps({"run": run, "results": results}, indent=1)
            write_bytes(args.output, content.encode())
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{one_line(run)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
