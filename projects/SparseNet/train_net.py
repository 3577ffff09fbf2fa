#!/usr/bin/env python
"""Trains or evaluates a model of SparseNet.

    python projects/SparseNet/train_net.py --num-gpus 8 --config-file configs/….yaml
    python projects/SparseNet/train_net.py --config-file … --eval-only MODEL.WEIGHTS model.pth
    python projects/SparseNet/train_net.py --config-file … --eval-only MODEL.WEIGHTS output/run
    python projects/SparseNet/train_net.py --num-gpus 0 --config-file … --resume

The command line is Detectron2's. Without a GPU, ``--num-gpus 0`` runs one process and
``--num-gpus N`` runs N processes that talk through gloo. Where MODEL.WEIGHTS is a folder, all its
checkpoints are evaluated and the best by TEST.BEST_METRIC is told.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any

import sparsenet  # makes detectron2 importable

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException

from sparsenet.config import load_config
from sparsenet.data import register_datasets, require_builtin_files, require_same_classes
from sparsenet.engine import SafeCheckpointer, Trainer
from sparsenet.engine.checkpoint_comparison import evaluate_checkpoints
from sparsenet.engine.key_combinations import require_possible
from sparsenet.errors import DatasetError, SparseNetError


def setup(args: argparse.Namespace) -> CfgNode:
    """Reads the configuration, starts the loggers, and writes ``config.yaml``."""
    cfg = load_config(args.config_file, args.opts)
    if args.num_gpus == 0 or not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    default_setup(cfg, args)
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="sparsenet")
    logger.info("SparseNet %s on the %s Detectron2", sparsenet.__version__, sparsenet.DETECTRON2)
    return cfg


def require_datasets(cfg: CfgNode) -> None:
    """Checks the names of ``DATASETS.TRAIN`` and ``DATASETS.TEST`` before a model is built."""
    known = DatasetCatalog.list()
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:8]
            raise DatasetError(
                f"The dataset {name!r} must be registered, it is not. Known are, among others, "
                f"{', '.join(near)}. Register your own with DATASETS.COCO_FILES, VOC_FOLDERS, "
                "YOLO_FOLDERS or ODGT_FILES."
            )


def evaluate(cfg: CfgNode, model: torch.nn.Module) -> dict[str, Any]:
    """The metrics of a model, also with test-time augmentation where it is on."""
    results = dict(Trainer.test(cfg, model))
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_tta(cfg, model))
    return results


def evaluate_weights(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any]:
    """Evaluates the file ``MODEL.WEIGHTS``, or all checkpoints of that folder for the best."""
    if cfg.MODEL.WEIGHTS and Path(cfg.MODEL.WEIGHTS).is_dir() and not args.resume:
        return evaluate_checkpoints(cfg, evaluate, trust=args.trust_checkpoint)
    model = Trainer.build_model(cfg)
    checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR, trust=args.trust_checkpoint)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    return evaluate(cfg, model)


def main(args: argparse.Namespace) -> object:
    """Runs in every process."""
    cfg = setup(args)
    require_possible(cfg)
    register_datasets(cfg)
    require_datasets(cfg)
    used = () if args.eval_only else cfg.DATASETS.TRAIN
    require_builtin_files((*used, *cfg.DATASETS.TEST))
    if args.eval_only:
        require_same_classes(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
        results = evaluate_weights(cfg, args)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg, trust_checkpoint=args.trust_checkpoint)
    require_same_classes(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)  # the trainer has read the former
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def guarded_main(args: argparse.Namespace) -> object:
    """``main``; errors on purpose are printed once, without a traceback, and end with status 2."""
    try:
        return main(args)
    except SparseNetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Detectron2's arguments and ``--trust-checkpoint``."""
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="allow weights that are pickles, such as Detectron2's .pkl; they can run any code",
    )
    return parser.parse_args(argv)


def run(argv: list[str] | None = None) -> int:
    """Starts the processes and returns the exit status."""
    args = parse_args(argv)
    try:
        launch(
            guarded_main,
            max(1, args.num_gpus),
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ProcessExitedException as error:  # a spawned process has printed why
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(run())
