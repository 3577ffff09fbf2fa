#!/usr/bin/env python
"""Finds the artists or styles of images, their embeddings, or both.

    python tools/infer_artist.py --mode classify --checkpoint output/artist/model_best.pth \\
        --class-csv output/artist/class_mapping.csv --input painting.jpg --output output/inference
    python tools/infer_artist.py --mode cluster --checkpoint output/artist/model_best.pth \\
        --input paintings/ --output output/inference

Writes NAME_result.json for an image or batch_results.json for a folder; with embeddings also
features.npy and image_names.txt, which names its rows; failed_images.json where images could not
be read. Exit status: 0; 2 on any error.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from sparsenet.data.class_mapping import read_class_mapping
from sparsenet.embedding.inference import MODES, InferenceOptions, infer
from sparsenet.embedding.model import load_embedder
from sparsenet.errors import ConfigError, SparseNetError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--mode", choices=MODES, default="classify", help="default: %(default)s")
    add("--model", help="of timm's registry, as lsnet_t_artist; default: what was trained")
    add("--checkpoint", type=Path, required=True, help="weights, as model_best.pth")
    add("--class-csv", type=Path, help="class_mapping.csv of the training; to classify")
    add("--input", type=Path, required=True, help="an image, or a folder with any folders in it")
    add("--output", type=Path, default=Path("output/inference"), help="default: %(default)s")
    add("--top-k", type=int, default=5, help="classes per image; default: %(default)s")
    add("--threshold", type=float, default=0.0, help="least probability of a class")
    add("--batch-size", type=int, default=32, help="default: %(default)s")
    add("--num-workers", type=int, default=0, help="processes that decode; default: %(default)s")
    add("--input-size", type=int, help="pixels; default: that of the training")
    add("--device", default="auto", help="auto, cpu or cuda; default: %(default)s")
    add("--trust-checkpoint", action="store_true", help="allow pickles")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the model; returns the exit status."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        options = InferenceOptions(
            args.mode, args.top_k, args.threshold, args.batch_size, args.num_workers
        )
        embedder = load_embedder(
            args.model,
            args.checkpoint,
            class_names=read_class_names(args.class_csv) if options.has_classes else (),
            input_size=args.input_size,
            device=args.device,
            trust=args.trust_checkpoint,
        )
        found, written = infer(embedder, args.input, args.output, options, quiet=args.quiet)
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, reason in found.failures:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    print(f"{written}: {len(found.names)} images, {len(found.failures)} not readable")
    return 0


def read_class_names(path: Path | None) -> tuple[str, ...]:
    if path is None:
        raise ConfigError(
            "The modes classify and both need --class-csv, the class_mapping.csv that training "
            "wrote. The mode cluster works without."
        )
    return read_class_mapping(path)


if __name__ == "__main__":
    sys.exit(main())
