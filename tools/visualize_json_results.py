#!/usr/bin/env python
"""Draws the detections of a coco_instances_results.json beside the truth.

    python tools/visualize_json_results.py --config-file configs/….yaml \\
        --results output/run/inference/coco_instances_results.json --output output/pictures

One JPEG per image, detections on the left, truth on the right. Images of any size: large ones are
drawn small.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sparsenet.analysis.drawing import draw_results, load_dataset
from sparsenet.config import load_config
from sparsenet.data import register_datasets
from sparsenet.errors import DatasetError, DatasetNotFoundError, SparseNetError
from sparsenet.files import make_folder
from sparsenet.gigapixel.pictures import write_picture


def read_results(path: Path) -> dict[Any, list[dict[str, Any]]]:
    """The results by image id."""
    if not path.is_file():
        raise DatasetNotFoundError(f"--results must be a file, got {path}. Evaluate first.")
    by_image = defaultdict(list)
    try:
        for result in json.loads(path.read_text()):
            by_image[result["image_id"]].append(result)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path} must be a list of COCO results with image_id, category_id, bbox and score: "
            f"{error!r}. Evaluation writes such a file into OUTPUT_DIR/inference."
        ) from error
    return by_image


def main(argv: list[str] | None = None) -> int:
    """Draws the pictures; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="YAML")
    add("--results", type=Path, required=True, help="coco_instances_results.json")
    add("--dataset", help="registered name (default: the first of DATASETS.TEST)")
    add("--output", type=Path, required=True, help="folder")
    add("--threshold", type=float, default=0.4, help="score from which detections are drawn")
    add("--side", type=int, default=1200, help="longer side of each half, pixels")
    add("--num-images", type=int, help="draw only the first ones")
    add("--quiet", action="store_true", help="no progress bar")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="of the configuration")
    args = parser.parse_args(argv)
    try:
        cfg = load_config(args.config_file, args.opts)
        register_datasets(cfg)
        name = args.dataset or next(iter(cfg.DATASETS.TEST), "")
        items = load_dataset(name)[: args.num_images]
        results = read_results(args.results)
        folder = make_folder(args.output)
        for item in tqdm(items, desc="drawing", disable=args.quiet, leave=False):
            picture = draw_results(
                item,
                results.get(item["image_id"], []),
                name,
                threshold=args.threshold,
                side=args.side,
            )
            write_picture(
                folder / f"{item['image_id']}_{Path(item['file_name']).stem}.jpg", picture
            )
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{folder}: {len(items)} images, {sum(map(len, results.values())):,} detections")
    return 0


if __name__ == "__main__":
    sys.exit(main())
