"""Training and evaluation of every model of this project, in Detectron2's terms."""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.engine import AMPTrainer, DefaultTrainer, HookBase, SimpleTrainer, TrainerBase
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sparsenet.data import (
    RecipeMapper,
    SparseRCNNDatasetMapper,
    TileLoader,
    build_image_train_loader,
    build_tile_train_loader,
    is_augmented,
    load_training_dicts,
)
from sparsenet.engine.batch_norm import set_batch_norms, share_statistics
from sparsenet.engine.checkpoint import SafeCheckpointer
from sparsenet.engine.ema import EMAHook
from sparsenet.engine.evaluate import evaluate_tiled
from sparsenet.engine.letterboxed import LetterboxedDetector, letterbox_mapper
from sparsenet.engine.lr_schedule import build_schedule
from sparsenet.engine.optimizer import build_optimizer
from sparsenet.errors import ConfigError, DatasetError
from sparsenet.evaluation import CrowdEvaluator, PandaEvaluator
from sparsenet.gigapixel.predictor import dataset_classes
from sparsenet.modeling.meta_arch import SparseRCNNWithTTA

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
            model,
            cfg.OUTPUT_DIR,
            trust=trust_checkpoint,
            class_names=dataset_classes(cfg),
            trainer=weakref.proxy(self),
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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As Detectron2's.

        Raises:
            ConfigError: If the checkpoint holds an average as its model and SOLVER.EMA is off:
                training would go on from the average, with the optimiser of other weights.
        """
        if EMAHook.__qualname__ in state_dict.get("hooks", {}) and not self.cfg.SOLVER.EMA.ENABLED:
            raise ConfigError(
                "SOLVER.EMA.ENABLED must be True to resume a run that was started with it. To "
                "start anew from its average, name the checkpoint in MODEL.WEIGHTS and leave "
                "--resume out."
            )
        super().load_state_dict(state_dict)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """As Detectron2's, with the batch norms that ``MODEL.BATCH_NORM`` asks for."""
        return set_batch_norms(super().build_model(cfg), cfg.MODEL.BATCH_NORM)

    def build_hooks(self) -> list[HookBase]:
        """As Detectron2's; with ``SOLVER.EMA`` the average is what is evaluated and saved."""
        hooks = super().build_hooks()
        node = self.cfg.SOLVER.EMA
        if not node.ENABLED:
            return hooks
        ema = EMAHook(_unwrap(self.model), node.DECAY, node.RAMP)
        self.checkpointer.read_weights = lambda: ema.average

        def test_average() -> dict[str, Any]:
            with ema.averaged():
                self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        evaluate = EvalHook(self.cfg.TEST.EVAL_PERIOD, test_average)
        return [ema, *(evaluate if isinstance(hook, EvalHook) else hook for hook in hooks)]

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See :func:`sparsenet.engine.optimizer.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """See :func:`sparsenet.engine.lr_schedule.build_schedule`."""
        return build_schedule(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Tiles where ``INPUT.TILE.ENABLED``, otherwise whole images.

        Those come by the recipe of ``INPUT.AUG`` where it is on, or else by Sparse R-CNN's mapper
        or, for Detectron2's own models, by Detectron2's, with masks and semantic labels.
        """
        if not cfg.DATASETS.TRAIN:
            raise DatasetError(
                "DATASETS.TRAIN must name at least one dataset, it is empty. "
                "Register COCO files with DATASETS.COCO_FILES or use a config of configs/."
            )
        if cfg.INPUT.TILE.ENABLED:
            return build_tile_train_loader(cfg)
        if not is_augmented(cfg) and cfg.MODEL.META_ARCHITECTURE != "SparseRCNN":
            return build_image_train_loader(cfg)
        dicts = load_training_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
        mapper = (
            RecipeMapper(cfg, dicts) if is_augmented(cfg) else SparseRCNNDatasetMapper(cfg, True)
        )
        return build_detection_train_loader(cfg, mapper=mapper, dataset=dicts)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """As Detectron2's, letterboxed where ``INPUT.LETTERBOX`` is set."""
        if cfg.INPUT.LETTERBOX:
            return build_detection_test_loader(cfg, dataset_name, mapper=letterbox_mapper(cfg))
        return super().build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """``PandaEvaluator`` for tiled evaluation, otherwise what the dataset's labels are for."""
        folder = output_folder or str(
            Path(cfg.OUTPUT_DIR, "inference", *_own_folder(cfg, dataset_name))
        )
        kind = MetadataCatalog.get(dataset_name).evaluator_type
        evaluator: DatasetEvaluator
        if cfg.TEST.TILE.ENABLED or kind == "panda":
            evaluator = PandaEvaluator(
                dataset_name, report_threshold=cfg.TEST.REPORT_THRESHOLD, output_dir=folder
            )
        elif kind == "sem_seg":
            return SemSegEvaluator(dataset_name, output_dir=folder)
        else:
            evaluator = COCOEvaluator(
                dataset_name,
                output_dir=folder,
                max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
                allow_cached_coco=False,  # it may be of an earlier state of VOC or YOLO files
            )
        if cfg.TEST.MISS_RATE or kind == "crowd":
            return DatasetEvaluators([evaluator, CrowdEvaluator(dataset_name)])
        return evaluator

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None
    ) -> OrderedDict[str, Any]:
        """Evaluates on the datasets of ``DATASETS.TEST``, in tiles where ``TEST.TILE`` says so.

        Returns:
            Metrics of the dataset, or of each dataset by name where there are several.
        """
        share_statistics(model)
        if not cfg.TEST.TILE.ENABLED:
            if cfg.INPUT.LETTERBOX:
                model = LetterboxedDetector(model, cfg.INPUT.LETTERBOX).train(model.training)
            return super().test(cfg, model, evaluators)
        names = cfg.DATASETS.TEST
        evaluators = evaluators or [cls.build_evaluator(cfg, name) for name in names]
        results = OrderedDict(
            (name, evaluate_tiled(cfg, _unwrap(model), name, evaluator))
            for name, evaluator in zip(names, evaluators)
        )
        return next(iter(results.values())) if len(results) == 1 else results

    @classmethod
    def test_with_tta(cls, cfg: CfgNode, model: nn.Module) -> OrderedDict[str, Any]:
        """Evaluates Sparse R-CNN by several passes over each image, see ``TEST.AUG``.

        Images are resized from what ``INPUT.MIN_SIZE_TEST`` makes of them; 0 keeps their size.

        Returns:
            As ``test``, with "_TTA" after the names of the tasks.

        Raises:
            ConfigError: If evaluation is by tiles, which have sizes of their own.
        """
        if cfg.TEST.TILE.ENABLED:
            raise ConfigError(
                "TEST.AUG must be off where TEST.TILE is on. Use TEST.TILE.DOWNSAMPLES for several "
                "sizes."
            )
        evaluators = [
            cls.build_evaluator(cfg, name, str(Path(cfg.OUTPUT_DIR, "inference_TTA", name)))
            for name in cfg.DATASETS.TEST
        ]
        plain = cfg.clone()
        plain.defrost()
        plain.INPUT.LETTERBOX = 0
        results = cls.test(plain, SparseRCNNWithTTA(cfg, _unwrap(model)), evaluators)
        return OrderedDict((f"{task}_TTA", metrics) for task, metrics in results.items())


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
    """Wraps a model for data-parallel training on GPUs (nccl) or CPUs (gloo); alone, leaves it.

    Raises:
        ConfigError: If batch norms are to be synchronised between CPUs, which PyTorch cannot.
    """
    if comm.get_world_size() == 1:
        return model
    is_on_cpu = next(model.parameters()).device.type == "cpu"
    if is_on_cpu and any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        raise ConfigError(
            "Batch norms that are synchronised between processes need GPUs, the model is on the "
            "CPU. Set MODEL.BATCH_NORM to BN or FrozenBN, or the backbone's NORM."
        )
    device_ids = None if is_on_cpu else [comm.get_local_rank()]
    return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)


def _own_folder(cfg: CfgNode, dataset_name: str) -> list[str]:
    """Results of several datasets lie apart; those of one lie where Detectron2 writes them."""
    return [dataset_name] if len(cfg.DATASETS.TEST) > 1 else []


def _unwrap(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model
