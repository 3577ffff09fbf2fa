#!/usr/bin/env python
"""Trains a classifier of artists or styles on what datasets/prepare_artist.py wrote.

    python tools/train_artist.py --data-path datasets/artists --output-dir output/artist \\
        --model lsnet_t_artist --batch-size 128 --epochs 300 --num-workers 8 --amp
    python tools/train_artist.py --data-path datasets/artists --output-dir output/artist \\
        --resume output/artist/checkpoint.pth
    python tools/train_artist.py --data-path datasets/artists --output-dir output/small \\
        --config-file configs/artist/lsnet_n_128_150e_small.yaml SOLVER.BASE_LR 0.001

Writes checkpoint.pth after every epoch, model_best.pth, class_mapping.csv, train_log.txt and
TensorBoard's events. Flags go before the configuration file, KEY VALUE pairs before both. Exit
status: 0; 2 on any error.
"""

from __future__ import annotations

import argparse
import functools
import logging
import sys
from pathlib import Path

import sparsenet  # noqa: F401  (makes detectron2 importable)

# isort: split
import torch
from detectron2.config import CfgNode

from sparsenet.config import load_config
from sparsenet.engine.classifier_recipe import train_classifier
from sparsenet.engine.processes import run_processes
from sparsenet.errors import SparseNetError

RECIPE = Path(__file__).parents[1] / "configs" / "artist" / "lsnet_t_artist_224_300e.yaml"
# Flags that are a value of the configuration under another name.
KEYS = {
    "data_path": "CLASSIFIER.DATA_PATH",
    "output_dir": "OUTPUT_DIR",
    "model": "CLASSIFIER.MODEL",
    "input_size": "CLASSIFIER.INPUT_SIZE",
    "epochs": "CLASSIFIER.EPOCHS",
    "batch_size": "SOLVER.IMS_PER_BATCH",
    "lr": "SOLVER.BASE_LR",
    "weight_decay": "SOLVER.WEIGHT_DECAY",
    "num_workers": "DATALOADER.NUM_WORKERS",
    "seed": "SEED",
    "device": "MODEL.DEVICE",
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", type=Path, default=RECIPE, help="recipe; default: configs/artist's")
    add("--data-path", required=True, help="has train/ and val/")
    add("--output-dir", help="default: the recipe's")
    add("--model", help="of timm's registry, as lsnet_t_artist, lsnet_s_artist, lsnet_b_artist")
    add("--feature-dim", type=int, help="embeddings are projected to so many values (LSNet)")
    add("--input-size", type=int, help="pixels")
    add("--epochs", type=int)
    add("--batch-size", type=int, help="of all processes together")
    add("--lr", type=float, help="for 512 images per step, if the recipe scales it")
    add("--weight-decay", type=float)
    add("--num-workers", type=int, help="processes that decode, per GPU")
    add("--amp", action="store_true", help="mixed precision: float16 on GPUs, bfloat16 on CPUs")
    add("--resume", type=Path, metavar="FILE", help="go on from this checkpoint.pth")
    add(
        "--pretrained", nargs="?", const="", metavar="FILE", help="start from it, or from the hub's"
    )
    add("--num-gpus", type=int, default=1, help="processes, on CPUs, too; default: %(default)s")
    add("--seed", type=int)
    add("--device", help="cuda or cpu; default: a GPU where there is one")
    add("--trust-checkpoint", action="store_true", help="allow weights that are pickles")
    add("--quiet", action="store_true", help="no progress bars")
    add("opts", nargs="*", metavar="KEY VALUE", help="any values of the configuration")
    return parser


def build_config(args: argparse.Namespace) -> CfgNode:
    opts = []
    for flag, key in KEYS.items():
        value = getattr(args, flag)
        opts += [] if value is None else [key, repr(value)]  # quoted: a folder may be called 2024
    if args.amp:
        is_gpu = torch.cuda.is_available() and args.device != "cpu"
        precision = "float16" if is_gpu else "bfloat16"
        opts += ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", precision]
    if args.pretrained is not None:
        opts += ["MODEL.WEIGHTS", repr(args.pretrained)]
        opts += ["CLASSIFIER.PRETRAINED", str(not args.pretrained)]
    cfg = load_config(args.config_file, [*opts, *args.opts])
    if args.feature_dim is not None:
        cfg.CLASSIFIER.MODEL_OPTIONS.feature_dim = args.feature_dim
    return cfg


def main(argv: list[str] | None = None) -> int:
    """Trains; returns the exit status."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        cfg = build_config(args)
        train = functools.partial(
            train_classifier, resume=args.resume, trust=args.trust_checkpoint, quiet=args.quiet
        )
        best = run_processes(train, args.num_gpus, cfg)
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in best.items())
    print(f"{cfg.OUTPUT_DIR}: best epoch: {numbers}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
