#!/usr/bin/env python
"""Draws a dataset's annotations, or augmented training examples as the trainer sees them.

    python tools/visualize_data.py --config-file configs/….yaml --source annotations \\
        --output output/annotations.png
    python tools/visualize_data.py --config-file configs/….yaml --source examples \\
        --num-images 16 --output output/examples.png INPUT.TILE.SIZE 512

The sheet shows DATASETS.TRAIN, ignored objects in grey. With INPUT.TILE the examples are tiles.
"""

from __future__ import annotations

import argparse
import sys
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparsenet.analysis.drawing import (
    contact_sheet,
    draw_annotations,
    draw_example,
    load_dataset,
)
from sparsenet.config import load_config
from sparsenet.data import register_datasets
from sparsenet.engine import Trainer
from sparsenet.errors import SparseNetError
from sparsenet.gigapixel.pictures import write_picture

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def draw(cfg: CfgNode, source: str, num_images: int, side: int) -> list[np.ndarray]:
    """The first pictures of the training data."""
    datasets = {name: load_dataset(name) for name in cfg.DATASETS.TRAIN}
    if source == "annotations":
        items = ((item, name) for name, items in datasets.items() for item in items)
        return [draw_annotations(item, name, side) for item, name in islice(items, num_images)]
    examples = islice(chain.from_iterable(Trainer.build_train_loader(cfg)), num_images)
    # Detectron2 wants the same classes in all datasets of a run: any of them has the names.
    name = cfg.DATASETS.TRAIN[0]
    return [draw_example(example, name, cfg.INPUT.FORMAT, side) for example in examples]


def main(argv: list[str] | None = None) -> int:
    """Writes the sheet; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="YAML")
    add("--source", choices=("annotations", "examples"), default="examples")
    add("--output", type=Path, required=True, help="PNG or JPEG file")
    add("--num-images", type=int, default=12)
    add("--columns", type=int, default=4)
    add("--side", type=int, default=480, help="side of each picture, pixels")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="of the configuration")
    args = parser.parse_args(argv)
    try:
        cfg = load_config(args.config_file, [*args.opts, "DATALOADER.NUM_WORKERS", "0"])
        register_datasets(cfg)
        pictures = draw(cfg, args.source, args.num_images, args.side)
        write_picture(args.output, contact_sheet(pictures, args.columns, args.side))
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {len(pictures)} {args.source}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
