"""Stands in for detectron2.engine.defaults: has the argument parser, the set-up, DefaultPredictor
and DefaultTrainer; lacks LazyConfig, precise BN and coloured listings in the log."""

import argparse
import os
import platform
import sys
from typing import Any

import detectron2
import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2._lacking import lacks
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

from ._default_trainer import DefaultTrainer, create_ddp_model, default_writers

__all__ = [
    "DefaultPredictor",
    "DefaultTrainer",
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
]


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Returns the parser of a training script.

    Args:
        epilog: shown below the help; None shows examples.
    """
    script = sys.argv[0]
    examples = f"""examples:
  one machine:    {script} --num-gpus 8 --config-file cfg.yaml
  other options:  {script} --config-file cfg.yaml MODEL.WEIGHTS model.pth SOLVER.BASE_LR 0.001
  two machines:   {script} --num-machines 2 --machine-rank 0 --dist-url URL [...]
                  {script} --num-machines 2 --machine-rank 1 --dist-url URL [...]
"""
    parser = argparse.ArgumentParser(
        epilog=epilog or examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="path to config file")
    add(
        "--resume", action="store_true", help="go on from the last checkpoint of OUTPUT_DIR, if any"
    )
    add("--eval-only", action="store_true", help="evaluate, do not train")
    add("--num-gpus", type=int, default=1, help="number of GPUs (or processes) *per machine*")
    add("--num-machines", type=int, default=1, help="number of machines")
    add("--machine-rank", type=int, default=0, help="which machine this is, from 0")
    # The same port for the same user: a process left over from an earlier job is noticed.
    user = os.getuid() if hasattr(os, "getuid") else 1
    port = 2**15 + 2**14 + hash(user) % 2**14
    add("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the processes meet")
    add(
        "opts",
        nargs=argparse.REMAINDER,
        default=None,
        help="config options to change, at the end: KEY VALUE KEY VALUE ...",
    )
    return parser


def _environment() -> str:
    """Returns versions and devices, one per line, for the head of the log."""
    lines = [
        f"python {platform.python_version()} on {platform.platform()}",
        f"detectron2 {detectron2.__version__} at {os.path.dirname(detectron2.__file__)}",
        f"torch {torch.__version__}, numpy {np.__version__}",
    ]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    lines += [f"GPU {i}: {torch.cuda.get_device_name(i)}" for i in devices]
    return "\n".join(lines if devices else [*lines, "no GPU"])


def default_setup(cfg: CfgNode, args: Any) -> None:
    """Opens the logs, writes OUTPUT_DIR/config.yaml, seeds all generators and sets CUDA's options.

    Args:
        cfg: the complete config.
        args: the parsed arguments, which are logged; `config_file` and `eval_only` may be missing.
    """
    if not isinstance(cfg, CfgNode):
        raise lacks(f"A config of type {type(cfg).__name__} (LazyConfig)")
    output_dir, rank = cfg.OUTPUT_DIR, comm.get_rank()
    is_writer = comm.is_main_process() and bool(output_dir)
    if is_writer:
        PathManager.mkdirs(output_dir)
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    log = setup_logger(output_dir, distributed_rank=rank)
    log.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    log.info(f"Environment:\n{_environment()}")
    log.info(f"Command line arguments: {args}")
    if getattr(args, "config_file", ""):
        with PathManager.open(args.config_file) as f:
            log.info(f"Contents of {args.config_file}:\n{f.read()}")
    if is_writer:
        path = os.path.join(output_dir, "config.yaml")
        with PathManager.open(path, "w") as f:
            f.write(cfg.dump())
        log.info(f"Running with this config, saved to {path}:\n{cfg.dump()}")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):  # benchmarking does not pay in a short evaluation
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION and torch.cuda.is_available():
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"


class DefaultPredictor:
    """A model with its weights, for one image at a time on one device.

    `metadata` is that of the first name in cfg.DATASETS.TEST, if there is one.
    """

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg.clone()
        self.input_format = cfg.INPUT.FORMAT
        assert self.input_format in ("RGB", "BGR"), (
            f"INPUT.FORMAT must be RGB or BGR, got {self.input_format!r}"
        )
        self.model = build_model(self.cfg)
        self.model.eval()
        if cfg.DATASETS.TEST:
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        short = cfg.INPUT.MIN_SIZE_TEST
        self.aug = T.ResizeShortestEdge([short, short], cfg.INPUT.MAX_SIZE_TEST)

    @torch.no_grad()
    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """Returns the model's output for an (h, w, 3) image whose channels are in the order BGR."""
        if self.input_format == "RGB":
            original_image = original_image[:, :, ::-1]
        height, width = original_image.shape[:2]
        resized = self.aug.get_transform(original_image).apply_image(original_image)
        chw = resized.astype("float32").transpose(2, 0, 1)  # (3, h, w)
        image = torch.as_tensor(chw).to(self.cfg.MODEL.DEVICE)
        return self.model([{"image": image, "height": height, "width": width}])[0]
