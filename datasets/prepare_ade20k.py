#!/usr/bin/env python
"""Renumbers ADE20K's label maps for training: classes 0 to 149, and 255 where there is none.

    python datasets/prepare_ade20k.py datasets/ADEChallengeData2016

Writes annotations_detectron2/{training,validation}/*.png beside annotations/, where the classes are
1 to 150 and 0 is none. Maps that are there already are left, so that it can be interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from sparsenet.data.semantic_folders import renumber_labels
from sparsenet.errors import SparseNetError


def main(argv: list[str] | None = None) -> int:
    """Renumbers all maps; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="ADEChallengeData2016")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    maps = sorted((args.folder / "annotations").glob("*/*.png"))
    if not maps:
        print(f"error: {args.folder} must have annotations/*/*.png, it has none", file=sys.stderr)
        return 2
    try:
        for path in tqdm(maps, disable=args.quiet, unit="map"):
            output = args.folder / "annotations_detectron2" / path.parent.name / path.name
            if not output.exists():
                renumber_labels(path, output)
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
