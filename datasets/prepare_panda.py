#!/usr/bin/env python
"""Prepares PANDA-Image for training and evaluation.

Reads the official person and vehicle annotation files, writes COCO files split by scene, and on
request a tiled pyramid of each image, from which windows are read without decoding the whole frame:

    python datasets/prepare_panda.py datasets/panda --pyramids
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from sparsenet.data.panda import DEFAULT_VAL_SCENES, PANDA_TREE, PERSON_BOXES
from sparsenet.data.panda_prepare import prepare_panda
from sparsenet.errors import SparseNetError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nExpected and written tree:\n\n{PANDA_TREE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("root", type=Path, help="PANDA's folder")
    add("--person-box", choices=PERSON_BOXES, default="full body", help="default: %(default)s")
    add(
        "--val-scenes",
        nargs="+",
        default=list(DEFAULT_VAL_SCENES),
        metavar="SCENE",
        help="scene names or numbers for validation, or 'all'; default: %(default)s",
    )
    add("--pyramids", action="store_true", help="write tiled pyramidal TIFFs")
    add("--quality", type=int, default=90, help="JPEG quality inside the pyramids")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        written = prepare_panda(
            args.root,
            person_box=args.person_box,
            val_scenes=args.val_scenes,
            pyramids=args.pyramids,
            quality=args.quality,
            quiet=args.quiet,
        )
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, count in written.items():
        print(f"{args.root / 'annotations' / name}.json: {count} boxes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
