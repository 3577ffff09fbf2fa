#!/usr/bin/env python
"""The same detector on a large image through SAHI, supervision's slicer and ours, side by side.

    python tools/benchmark_gigapixel.py scene.jpg --detector yolox_nano.onnx \\
        --truth annotations.json --output output/benchmark/gigapixel
    python tools/benchmark_gigapixel.py scan.jpg --quick

Without --detector every tile gets 12 fixed boxes at no cost: what is left are the frameworks
themselves. Each run is a process of its own; medians count. Decoding and detecting overlap in ours,
so that its parts may sum up to more than the total. --quick runs everything once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from sparsenet.analysis.hardware import describe_run, one_line
from sparsenet.analysis.tiling_benchmark import (
    markdown_table,
    measure_contender,
    quality,
    read_truth,
)
from sparsenet.analysis.tiling_contenders import CONTENDERS, TileRun
from sparsenet.errors import SparseNetError
from sparsenet.files import make_folder, write_json, write_text
from sparsenet.tiling import open_image


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("image", nargs="+")
    add("--detector", metavar="ONNX", help="YOLOX with COCO's classes")
    add("--truth", type=Path, metavar="COCO_JSON", help="what is in those images that it lists")
    add("--class-names", nargs="+", default=["person"], help="of the detector, as in the truth")
    add("--only", nargs="+", choices=CONTENDERS, metavar="NAME", help="some of the contenders")
    add("--tile-size", type=int, default=1024)
    add("--overlap", type=int, default=204)
    add("--coarse", type=int, default=4, help="downsample of the coarse tiles, ours alone")
    add("--threshold", type=float, default=0.3, help="score")
    add("--threads", type=int, default=0, help="of the network; 0 lets onnxruntime choose")
    add("--repeats", type=int, default=3, help="processes per row")
    add("--quick", action="store_true", help="one process per row")
    add("--output", type=Path, metavar="FOLDER", help="for gigapixel.md and gigapixel.json")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def measure(image: str, args: argparse.Namespace) -> dict[str, dict[str, object]]:
    """The rows of one image."""
    run = TileRun(
        image,
        args.detector,
        args.tile_size,
        args.overlap,
        args.threshold,
        num_threads=args.threads,
        coarse=args.coarse,
    )
    truth = None
    if args.truth and args.detector:
        truth = read_truth(args.truth, image, args.class_names)
    rows = {}
    for name in args.only or CONTENDERS:
        row = measure_contender(name, run, 1 if args.quick else args.repeats, args.quiet)
        if truth is not None:
            row |= quality(row["detections"], truth, args.threshold)
        rows[name] = row
    return rows


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    text, record = [], {"run": describe_run(torch.device("cpu")), "images": []}
    try:
        for image in args.image:
            height, width = open_image(image).size
            rows = measure(image, args)
            title = f"{Path(image).name}: {width:,} × {height:,} px, {width * height / 1e6:,.1f} MP"
            text.append(f"{title}\n\n{markdown_table(rows)}\n")
            print(f"\n{text[-1]}")
            for row in rows.values():
                row["num_detections"] = len(row.pop("detections"))
            record["images"].append({"image": image, "rows": rows})
        text.append(f"{one_line(record['run'])}\n")
        print(text[-1])
        if args.output:
            folder = make_folder(args.output)
            write_text(folder / "gigapixel.md", "\n".join(text))
            write_json(folder / "gigapixel.json", record)
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
