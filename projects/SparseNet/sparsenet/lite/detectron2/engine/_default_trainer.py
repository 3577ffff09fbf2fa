"""Stands in for detectron2.engine.defaults: has its DefaultTrainer, create_ddp_model and
default_writers; lacks precise BN."""

import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from detectron2._lacking import lacks
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.evaluation import (
    DatasetEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch.nn.parallel import DistributedDataParallel

from . import hooks
from .train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase

__all__ = ["DefaultTrainer", "create_ddp_model", "default_writers"]

logger = logging.getLogger(__name__)


def create_ddp_model(
    model: torch.nn.Module, *, fp16_compression: bool = False, **kwargs: Any
) -> torch.nn.Module:
    """Wraps the model in DistributedDataParallel where there are several processes.

    Args:
        model: on the device that this process uses. (Detectron2's refuses models on the CPU.)
        fp16_compression: send gradients as float16.
        kwargs: of DistributedDataParallel.
    """
    if comm.get_world_size() == 1:
        return model
    is_on_gpu = next(model.parameters()).is_cuda
    kwargs.setdefault("device_ids", [comm.get_local_rank()] if is_on_gpu else None)
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        ddp.register_comm_hook(state=None, hook=default_hooks.fp16_compress_hook)
    return ddp


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Returns writers to the log, to metrics.json and to tensorboard's files in `output_dir`.

    Args:
        output_dir: made if missing.
        max_iter: number of iterations, for the remaining time in the log.
    """
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


def _of_inner_trainer(name: str) -> property:
    """Returns a property that stands for the attribute `name` of `self._trainer`."""
    return property(
        lambda self: getattr(self._trainer, name),
        lambda self, value: setattr(self._trainer, name, value),
    )


class DefaultTrainer(TrainerBase):
    """Training as the config describes it: model, optimizer, loader, schedule, checkpoints, hooks.

    Each part comes from a method to override. `scheduler`, `checkpointer` and `cfg` are attributes.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        # The order counts: each may draw random numbers.
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = create_ddp_model(model, broadcast_buffers=False)
        trainer_class = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = trainer_class(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectionCheckpointer(
            model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    model = _of_inner_trainer("model")
    data_loader = _of_inner_trainer("data_loader")
    optimizer = _of_inner_trainer("optimizer")

    def resume_or_load(self, resume: bool = True) -> None:
        """Goes on from the last checkpoint in OUTPUT_DIR, or loads MODEL.WEIGHTS and starts anew.

        Args:
            resume: False ignores the last checkpoint.
        """
        resume = resume and self.checkpointer.has_checkpoint()
        extra = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if not resume:
            return
        if {"optimizer", "scheduler", "iteration"} <= set(extra or ()):
            self._load_state_of_2020(extra)
        self.start_iter = self.iter + 1  # the checkpoint has the last iteration that was done

    def _load_state_of_2020(self, state: dict[str, Any]) -> None:
        """Restores a checkpoint from before Detectron2 put these states under "trainer"."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.iter = self._trainer.iter = state["iteration"]

    def build_hooks(self) -> list[HookBase]:
        """Returns the hooks: timer, LR, checkpoints, evaluation, writers, in this order."""
        if self.cfg.TEST.PRECISE_BN.ENABLED:
            raise lacks("Precise BN (TEST.PRECISE_BN.ENABLED)")
        is_main = comm.is_main_process()
        hook_list: list[HookBase] = [hooks.IterationTimer(), hooks.LRScheduler()]
        if is_main:
            period = self.cfg.SOLVER.CHECKPOINT_PERIOD
            hook_list.append(hooks.PeriodicCheckpointer(self.checkpointer, period))

        def test_and_save_results() -> dict[str, Any]:
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        # Behind the checkpointer: a model whose evaluation fails is saved already.
        hook_list.append(hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, test_and_save_results))
        if is_main:
            hook_list.append(hooks.PeriodicWriter(self.build_writers(), period=20))
        return hook_list

    def build_writers(self) -> list[EventWriter]:
        """Returns `default_writers` of OUTPUT_DIR."""
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> Any:
        """Trains; returns the last evaluation if TEST.EXPECTED_RESULTS are there to compare."""
        super().train(self.start_iter, self.max_iter)
        if not self.cfg.TEST.EXPECTED_RESULTS or not comm.is_main_process():
            return None
        assert hasattr(self, "_last_eval_results"), (
            "TEST.EXPECTED_RESULTS needs an evaluation, but training made none; set DATASETS.TEST"
        )
        verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def run_step(self) -> None:
        """Lets the inner trainer do a step."""
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict[str, Any]:
        """Returns the base's state and that of the inner trainer as "_trainer"."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """Returns the model of the config, without weights."""
        model = build_model(cfg)
        logger.info(f"Model:\n{model}")
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Returns the optimizer of the config."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Returns the LR schedule of the config."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable:
        """Returns the endless training loader."""
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable:
        """Returns the loader of one test dataset; it has a length."""
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Returns the evaluator of one test dataset; subclasses implement it."""
        raise NotImplementedError(
            "To evaluate, a subclass of DefaultTrainer must implement build_evaluator(cfg, "
            "dataset_name), or test() must be given evaluators"
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """Evaluates the model on each dataset of DATASETS.TEST.

        Args:
            cfg: the config.
            model: with its weights.
            evaluators: one, or one per dataset; None calls `build_evaluator`; a trainer without
                that method warns and gives {}.

        Returns:
            the result of the dataset, or dataset -> result if there are several.
        """
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        assert evaluators is None or len(evaluators) == len(cfg.DATASETS.TEST), (
            f"one evaluator per dataset of {cfg.DATASETS.TEST} is needed, got {len(evaluators)}"
        )
        results: OrderedDict[str, Any] = OrderedDict()
        for index, name in enumerate(cfg.DATASETS.TEST):
            loader = cls.build_test_loader(cfg, name)
            evaluator = cls._evaluator_of(cfg, name, evaluators, index)
            if evaluator is None:
                results[name] = {}
                continue
            results[name] = inference_on_dataset(model, loader, evaluator)
            if comm.is_main_process():
                assert isinstance(results[name], dict), (
                    f"an evaluator must return a dict in the main process, got {results[name]!r}"
                )
                logger.info(f"Evaluation results for {name} in csv format:")
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    @classmethod
    def _evaluator_of(
        cls, cfg: CfgNode, name: str, evaluators: Sequence[DatasetEvaluator] | None, index: int
    ) -> DatasetEvaluator | None:
        if evaluators is not None:
            return evaluators[index]
        if cls.build_evaluator.__func__ is DefaultTrainer.build_evaluator.__func__:
            logger.warning(f"{name} is not evaluated: {cls.__name__} has no build_evaluator")
            return None
        return cls.build_evaluator(cfg, name)

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """Returns the config for `num_workers` processes instead of SOLVER.REFERENCE_WORLD_SIZE.

        The batch per process stays: total batch and LR grow with the processes, and all numbers of
        iterations shrink (arXiv 1706.02677). A reference of 0 changes nothing.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        assert cfg.SOLVER.IMS_PER_BATCH % reference == 0, (
            f"SOLVER.IMS_PER_BATCH must be a multiple of REFERENCE_WORLD_SIZE {reference}, got "
            f"{cfg.SOLVER.IMS_PER_BATCH}"
        )
        scale = num_workers / reference
        was_frozen = cfg.is_frozen()
        cfg = cfg.clone()
        cfg.defrost()
        solver = cfg.SOLVER
        solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * scale)
        solver.BASE_LR = solver.BASE_LR * scale
        for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
            solver[key] = round(solver[key] / scale)
        solver.STEPS = tuple(round(step / scale) for step in solver.STEPS)
        cfg.TEST.EVAL_PERIOD = round(cfg.TEST.EVAL_PERIOD / scale)
        solver.REFERENCE_WORLD_SIZE = num_workers
        logger.info(
            f"Scaled the config to {num_workers} processes: batch {solver.IMS_PER_BATCH}, LR "
            f"{solver.BASE_LR}, {solver.MAX_ITER} iterations, warm-up {solver.WARMUP_ITERS}"
        )
        if was_frozen:
            cfg.freeze()
        return cfg
