#!/usr/bin/env python
"""Translates a config.yaml of the unofficial port liangheming/sparse_rcnnv1 into one of ours.

    python tools/convert_config.py config.yaml configs/coco/mine.yaml
    python projects/SparseNet/train_net.py --num-gpus 4 --config-file configs/coco/mine.yaml

Keys without a counterpart are printed. Epochs become steps: the training json is read for that,
or --num-images tells how many images it has.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparsenet.engine.port_config import convert_port_config
from sparsenet.errors import SparseNetError

BASE = Path(__file__).parents[1] / "configs/coco/sparsercnn.res50.128pro.640.ema.yaml"


def main(argv: list[str] | None = None) -> int:
    """Converts one file; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("input", type=Path, help="config.yaml of the port")
    add("output", type=Path, help="our YAML")
    add("--base", type=Path, default=BASE, help="our YAML that the new one builds on")
    add("--num-images", type=int, help="that are trained on")
    args = parser.parse_args(argv)
    try:
        notes = convert_port_config(
            args.input, args.output, args.base.resolve(), num_images=args.num_images
        )
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*notes, f"wrote {args.output}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
