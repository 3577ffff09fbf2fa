#!/usr/bin/env python
"""Divides folders of works, one per artist, into training and validation images.

    python datasets/prepare_artist.py --source-dir raw --output-dir datasets/artists

Reads raw/<artist>/**/*.jpg … and writes train/<artist>/, val/<artist>/, class_mapping.csv,
class_names.json, dataset_info.json and split_info.txt. Exit status: 0; 1 if you answer that an
existing folder is kept; 2 on any error.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from sparsenet.data.artist_split import (
    SPLITS,
    SplitOptions,
    check_output,
    split_artists,
    write_artist_split,
)
from sparsenet.data.photo import PHOTO_SUFFIXES
from sparsenet.errors import SparseNetError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--source-dir", type=Path, required=True, help="has one folder per artist")
    add("--output-dir", type=Path, default=Path("data/artist_dataset"), help="%(default)s")
    add("--val-ratio", type=float, default=0.2, help="share for validation; default: %(default)s")
    add("--min-images", type=int, default=10, help="fewer: artist left out; default: %(default)s")
    add("--seed", type=int, default=42, help="chooses the works; default: %(default)s")
    add("--image-extensions", nargs="+", default=list(PHOTO_SUFFIXES), metavar=".EXT")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--copy", action="store_true", help="copy the works (the default)")
    how.add_argument("--symlink", action="store_true", help="link to the works instead")
    add("--overwrite", action="store_true", help="replace an older data set without asking")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def is_asked(output: Path) -> bool:
    """Whether there is something to lose, and someone to ask."""
    return output.is_dir() and any(output.iterdir()) and sys.stdin.isatty()


def main(argv: list[str] | None = None) -> int:
    """Divides the works; returns the exit status."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if not args.overwrite and is_asked(args.output_dir):
        if input(f"{args.output_dir} exists. Replace it? [y/N] ").strip().lower() != "y":
            return 1
        args.overwrite = True
    try:
        options = SplitOptions(
            val_ratio=args.val_ratio,
            min_images=args.min_images,
            seed=args.seed,
            suffixes=args.image_extensions,
            use_symlinks=args.symlink,
        )
        check_output(args.source_dir, args.output_dir, overwrite=args.overwrite)
        split = split_artists(args.source_dir, options, quiet=args.quiet)
        write_artist_split(
            split,
            args.source_dir,
            args.output_dir,
            options,
            overwrite=args.overwrite,
            quiet=args.quiet,
        )
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for artist, count in list(split.too_few.items())[:10]:
        print(f"left out, fewer than {args.min_images} images: {artist} ({count})")
    counts = ", ".join(f"{split.count(name)} {name}" for name in SPLITS)
    print(f"{args.output_dir}: {len(split.class_names)} artists, {counts} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
