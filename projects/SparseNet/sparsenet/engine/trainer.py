"""Training and evaluation of every model of this project, in Detectron2's terms."""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_train_loader
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sparsenet.data import SparseRCNNDatasetMapper, TileLoader, build_tile_train_loader
from sparsenet.engine.checkpoint import SafeCheckpointer
from sparsenet.engine.evaluate import evaluate_tiled
from sparsenet.engine.optimizer import build_optimizer
from sparsenet.errors import ConfigError, DatasetError
from sparsenet.evaluation import PandaEvaluator

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Detectron2's trainer with tiles, Sparse R-CNN's optimiser, and several processes on a CPU.

    Args:
        cfg: The full configuration.
        trust_checkpoint: Allows checkpoints that hold pickles.
    """

    def __init__(self, cfg: CfgNode, *, trust_checkpoint: bool = False) -> None:
        # DefaultTrainer.__init__ wraps the model for GPUs only, so its steps are repeated here.
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = distribute(model)
        self._trainer = trainer_class(cfg)(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = SafeCheckpointer(
            model, cfg.OUTPUT_DIR, trust=trust_checkpoint, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """As Detectron2's; a resumed run goes on with the tiles that come next."""
        super().resume_or_load(resume)
        if isinstance(self.data_loader, TileLoader):
            self.data_loader.skip(self.start_iter)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See :func:`sparsenet.engine.optimizer.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Tiles where ``INPUT.TILE.ENABLED``, otherwise whole images by Sparse R-CNN's mapper."""
        if not cfg.DATASETS.TRAIN:
            raise DatasetError(
                "DATASETS.TRAIN must name at least one dataset, it is empty. "
                "Register COCO files with DATASETS.COCO_FILES or use a config of configs/."
            )
        if cfg.INPUT.TILE.ENABLED:
            return build_tile_train_loader(cfg)
        return build_detection_train_loader(cfg, mapper=SparseRCNNDatasetMapper(cfg, True))

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """``PandaEvaluator`` for tiled evaluation, otherwise COCO's."""
        folder = output_folder or str(
            Path(cfg.OUTPUT_DIR, "inference", *_own_folder(cfg, dataset_name))
        )
        if cfg.TEST.TILE.ENABLED or MetadataCatalog.get(dataset_name).evaluator_type == "panda":
            return PandaEvaluator(
                dataset_name, report_threshold=cfg.TEST.REPORT_THRESHOLD, output_dir=folder
            )
        return COCOEvaluator(
            dataset_name, output_dir=folder, max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE
        )

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None
    ) -> OrderedDict[str, Any]:
        """Evaluates on the datasets of ``DATASETS.TEST``, in tiles where ``TEST.TILE`` says so.

        Returns:
            Metrics of the dataset, or of each dataset by name where there are several.
        """
        if not cfg.TEST.TILE.ENABLED:
            return super().test(cfg, model, evaluators)
        names = cfg.DATASETS.TEST
        evaluators = evaluators or [cls.build_evaluator(cfg, name) for name in names]
        results = OrderedDict(
            (name, evaluate_tiled(cfg, _unwrap(model), name, evaluator))
            for name, evaluator in zip(names, evaluators)
        )
        return next(iter(results.values())) if len(results) == 1 else results


class BFloat16Trainer(SimpleTrainer):
    """Runs the steps under autocast to bfloat16, on GPUs and CPUs; nothing needs to be scaled."""

    def run_step(self) -> None:
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, dtype=torch.bfloat16):
            super().run_step()


def trainer_class(cfg: CfgNode) -> type[SimpleTrainer]:
    """The training loop for ``SOLVER.AMP``; ConfigError where the device cannot do it."""
    if not cfg.SOLVER.AMP.ENABLED:
        return SimpleTrainer
    precision = cfg.SOLVER.AMP.PRECISION
    if precision == "bfloat16":
        return BFloat16Trainer
    if precision == "float16" and cfg.MODEL.DEVICE != "cpu":
        return AMPTrainer
    raise ConfigError(
        "SOLVER.AMP.PRECISION must be bfloat16, or float16 on a GPU; got "
        f"{precision!r} with MODEL.DEVICE {cfg.MODEL.DEVICE!r}. Set it to bfloat16, or "
        "SOLVER.AMP.ENABLED to False."
    )


def distribute(model: nn.Module) -> nn.Module:
    """Wraps a model for data-parallel training on GPUs (nccl) or CPUs (gloo); alone, leaves it."""
    if comm.get_world_size() == 1:
        return model
    is_on_cpu = next(model.parameters()).device.type == "cpu"
    device_ids = None if is_on_cpu else [comm.get_local_rank()]
    return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)


def _own_folder(cfg: CfgNode, dataset_name: str) -> list[str]:
    """Results of several datasets lie apart; those of one lie where Detectron2 writes them."""
    return [dataset_name] if len(cfg.DATASETS.TEST) > 1 else []


def _unwrap(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model
