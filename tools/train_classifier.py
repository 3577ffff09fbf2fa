#!/usr/bin/env python
"""Trains a classifier of photos, or evaluates and measures a trained one.

    python tools/train_classifier.py --config-file configs/imagenet/lsnet_t_224_300e.yaml \\
        CLASSIFIER.DATA_PATH datasets/imagenet
    torchrun --nproc-per-node 8 tools/train_classifier.py --config-file … --resume
    python tools/train_classifier.py --config-file … --eval-only --imagenet-c datasets/imagenet-c \\
        MODEL.WEIGHTS output/lsnet_t/model_best.pth CLASSIFIER.DATA_PATH datasets/imagenet
    python tools/train_classifier.py --config-file … --throughput

Training writes checkpoint.pth after every epoch, model_best.pth, class_mapping.csv, train_log.txt
(a JSON object per epoch) and TensorBoard's events to OUTPUT_DIR. ``CLASSIFIER`` in
sparsenet/config.py has the keys. Exit status: 0; 2 on any error.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import sys
from pathlib import Path

import sparsenet  # noqa: F401  (makes detectron2 importable)

# isort: split
from detectron2.config import CfgNode
from detectron2.utils import comm

from sparsenet.analysis.classifier_report import classifier_size, images_per_second
from sparsenet.config import load_config
from sparsenet.engine.classifier import CHECKPOINT_FILE
from sparsenet.engine.classifier_evaluation import evaluate_trained, load_trained
from sparsenet.engine.classifier_recipe import device_of, train_classifier
from sparsenet.engine.processes import run_processes
from sparsenet.engine.torchrun import torchrun_processes
from sparsenet.errors import SparseNetError
from sparsenet.evaluation.imagenet_robustness import KINDS
from sparsenet.modeling.timm_models import create_classifier


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", type=Path, required=True, metavar="YAML", help="of configs/imagenet")
    add("--resume", action="store_true", help="go on from OUTPUT_DIR's checkpoint.pth, if any")
    add("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, do not train")
    for kind in KINDS:
        add(f"--imagenet-{kind}", type=Path, metavar="DIR", help="with --eval-only: robustness")
    add("--throughput", action="store_true", help="parameters, GMACs and images/s when fused")
    add("--trust-checkpoint", action="store_true", help="allow weights that are pickles")
    add("--num-gpus", type=int, default=1, help="processes, on CPUs, too; not under torchrun")
    add("--quiet", action="store_true", help="no progress bars")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="values of the configuration")
    return parser


def evaluate(cfg: CfgNode, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    folders = {kind: getattr(args, f"imagenet_{kind}") for kind in KINDS}
    robustness = {kind: folder for kind, folder in folders.items() if folder}
    trained = load_trained(cfg, trust=args.trust_checkpoint)
    return evaluate_trained(trained, robustness, quiet=args.quiet)


def measure(cfg: CfgNode, args: argparse.Namespace) -> dict[str, float]:
    """Of the model as it would be deployed: LSNet's norms go into its convolutions."""
    node = cfg.CLASSIFIER
    model = create_classifier(node.MODEL, 1000, dict(node.MODEL_OPTIONS)).to(device_of(cfg)).eval()
    size = classifier_size(model.fuse() if hasattr(model, "fuse") else model, node.INPUT_SIZE)
    batch = cfg.SOLVER.IMS_PER_BATCH
    speed = images_per_second(model, node.INPUT_SIZE, batch, quiet=args.quiet)
    return {**size, "batch_size": batch, "images_per_second": speed}


def train(cfg: CfgNode, args: argparse.Namespace) -> dict[str, float]:
    checkpoint = Path(cfg.OUTPUT_DIR) / CHECKPOINT_FILE
    resume = checkpoint if args.resume and checkpoint.is_file() else None
    return train_classifier(cfg, resume=resume, trust=args.trust_checkpoint, quiet=args.quiet)


def main(argv: list[str] | None = None) -> int:
    """Does one of the three; returns the exit status."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.eval_only and args.throughput:
        parser.error("--eval-only and --throughput are two runs")
    if not args.eval_only and any(getattr(args, f"imagenet_{kind}") for kind in KINDS):
        parser.error("--imagenet-… measures trained weights: add --eval-only")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    work = evaluate if args.eval_only else measure if args.throughput else train
    try:
        cfg = load_config(args.config_file, args.opts)
        with torchrun_processes():
            result = run_processes(functools.partial(work, args=args), args.num_gpus, cfg)
            if comm.is_main_process():
                print(json.dumps(result, indent=1))
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
