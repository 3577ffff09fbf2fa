#!/usr/bin/env python
"""Draws loss and AP curves of one or several runs from their metrics.json.

python tools/plot_metrics.py output/run_a output/run_b --output output/curves.png --smooth 9
python tools/plot_metrics.py output/run --keys total_loss "bbox/AP50*" --output output/ap.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparsenet.analysis.curves import DEFAULT_KEYS, choose_keys, plot_curves, read_metrics
from sparsenet.errors import SparseNetError


def main(argv: list[str] | None = None) -> int:
    """Draws the curves; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, help="folders of runs, or metrics.json files")
    add("--labels", nargs="+", help="names in the legend (default: the paths)")
    add("--keys", nargs="+", default=DEFAULT_KEYS, help="what to draw; * and ? are wild")
    add("--smooth", type=int, default=1, metavar="N", help="median over N neighbouring points")
    add("--output", type=Path, required=True, help="PNG or JPEG file")
    args = parser.parse_args(argv)
    labels = args.labels or [str(path) for path in args.runs]
    if len(labels) != len(args.runs):
        parser.error(f"--labels must name each of the {len(args.runs)} runs, got {len(labels)}")
    try:
        runs = {label: read_metrics(path) for label, path in zip(labels, args.runs)}
        keys = choose_keys(runs, args.keys)
        plot_curves(runs, keys, args.output, window=args.smooth)
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {', '.join(keys)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
