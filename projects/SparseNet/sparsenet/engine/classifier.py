"""Training loop of classifiers: epochs over photos, whatever the model and the recipe.

A run that was killed goes on from its last whole epoch and ends with the weights that it would have
had: random numbers are a function of seed, epoch and process.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from sparsenet.engine.ema import EMAHook
from sparsenet.engine.trainer import distribute
from sparsenet.errors import CheckpointError, ConfigError, NumericalError, OutputError
from sparsenet.evaluation.classification import evaluate_classifier
from sparsenet.files import write_atomically, write_text
from sparsenet.modeling.checkpoint import read_checkpoint

logger = logging.getLogger(__name__)

CHECKPOINT_FILE = "checkpoint.pth"
BEST_FILE = "model_best.pth"
LOG_FILE = "train_log.txt"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CLIP_MODES = ("norm", "value", "agc")
_STEPS_PER_CHECK = 50  # of the loss; a look at it makes the GPU wait


@dataclass(frozen=True)
class LoopOptions:
    """What the loop does beside forward and backward.

    Args:
        output_dir: Where checkpoints and logs go; it exists.
        epochs: In all, those before a resume included.
        precision: One of ``PRECISIONS``; float16 scales the loss and needs a GPU.
        clip: Limit of the gradients; 0 has none.
        clip_mode: "norm" of all gradients together, "value" of each number, or "agc": norm of
            each unit relative to that of its weights (arXiv 2102.06171).
        ema_decay: Of the moving average of the weights; 0 has none.
        ema_ramp: See ``engine.ema``.
        quiet: No progress bars.

    Raises:
        ConfigError: If a value is out of range.
    """

    output_dir: Path
    epochs: int
    precision: str = "float32"
    clip: float = 0.0
    clip_mode: str = "norm"
    ema_decay: float = 0.0
    ema_ramp: float = 2000.0
    seed: int = 0
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS or self.clip_mode not in CLIP_MODES:
            raise ConfigError(
                f"Precision must be one of {', '.join(PRECISIONS)} and the clip mode one of "
                f"{', '.join(CLIP_MODES)}; got {self.precision!r} and {self.clip_mode!r}."
            )
        if self.epochs < 1 or self.clip < 0:
            raise ConfigError(
                "A training needs at least one epoch and a limit of gradients that is not "
                f"negative, got {self.epochs} and {self.clip}."
            )


class ClassifierTrainer:
    """Trains, evaluates after every epoch, and writes files.

    Args:
        model: From images to logits, on its device, not wrapped for distributed training.
        scheduler: One of timm's, that steps by updates: a function of the step alone.
        loss: Of images, what the model returned, and targets.
        mixup: From images and class numbers to mixed images and soft targets, or None.
        facts: Entries of every checkpoint: what rebuilding the model needs.

    Raises:
        ConfigError: If the device cannot compute in ``options.precision``.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        loss: Callable[[Tensor, Any, Tensor], Tensor],
        options: LoopOptions,
        *,
        mixup: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.loss, self.options, self.mixup = loss, options, mixup
        self.facts = dict(facts or {})
        self.device = next(model.parameters()).device
        self.dtype = PRECISIONS[options.precision]
        is_scaled = self.dtype == torch.float16
        if is_scaled and self.device.type != "cuda":
            raise ConfigError("Training in float16 needs a GPU; use bfloat16 on a CPU.")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=is_scaled)
        self.ema = (
            EMAHook(model, options.ema_decay, options.ema_ramp) if options.ema_decay else None
        )
        self.epoch = 0
        self.history: list[dict[str, float]] = []

    def fit(self, train_loader: DataLoader, val_loader: DataLoader) -> dict[str, float]:
        """Runs the epochs that are left.

        Returns:
            The row of ``train_log.txt`` with the best accuracy; the first of equals.

        Raises:
            NumericalError: If the loss is not finite.
            OutputError: If a file cannot be written; the last checkpoint stays.
        """
        wrapped = distribute(self.model)
        if self.ema is not None:
            self.ema.before_train()
        writer = _Scalars(self.options.output_dir, self.epoch)
        while self.epoch < self.options.epochs:
            start = time.perf_counter()
            row = {"epoch": self.epoch, **self._train_epoch(wrapped, train_loader)}
            self._average_statistics()
            row |= self._evaluate(val_loader)
            row["seconds"] = round(time.perf_counter() - start, 2)
            self.epoch += 1
            self.history.append(row)
            writer.write(row)
            self._save(row)
            logger.info("%s", json.dumps(row))
        return self.best

    @property
    def best(self) -> dict[str, float]:
        return max(self.history, key=_accuracy)

    def resume(self, path: Path, *, trust: bool = False) -> None:
        """Goes on after the last epoch of a checkpoint, with this training's rates and decay.

        From another folder, the best weights beside the checkpoint come along.

        Args:
            trust: Allows checkpoints that hold pickles.

        Raises:
            CheckpointError: If the file is not a checkpoint of this training.
            OutputError: If the best weights cannot be written.
        """
        content = read_checkpoint(path, trust=trust)
        try:
            differing = [key for key, value in self.facts.items() if content[key] != value]
            if differing:
                raise ValueError(f"{', '.join(differing)} differ")
            self.model.load_state_dict(content["model"])
            decays = [group["weight_decay"] for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(content["optimizer"])
            for group, decay in zip(self.optimizer.param_groups, decays):
                group["weight_decay"] = decay
            self.scaler.load_state_dict(content["scaler"])
            self.epoch, self.history = content["epoch"], content["history"]
            if self.ema is not None:
                self.ema.average = {k: v.to(self.device) for k, v in content["ema"].items()}
                self.ema.num_updates = content["ema_updates"]
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} must be a {CHECKPOINT_FILE} of this model and recipe: {error}."
            ) from error
        self._bring_best(path.with_name(BEST_FILE))

    def _bring_best(self, source: Path) -> None:
        """The best epoch may lie before the resume: its weights must not stay behind."""
        target = self.options.output_dir / BEST_FILE
        if not comm.is_main_process() or source.resolve() == target.resolve():
            return
        if source.is_file():
            write_atomically(target, lambda part: shutil.copyfile(source, part))
        else:
            logger.warning("%s is missing: %s waits for a better epoch.", source, target)

    def _train_epoch(self, model: nn.Module, loader: DataLoader) -> dict[str, float]:
        """One pass; its row has the learning rate of the last step and the mean loss."""
        _seed_all(self.options.seed, self.epoch)
        loader.sampler.set_epoch(self.epoch)
        self.model.train()
        total = torch.zeros((), device=self.device)
        bar = tqdm(
            loader,
            desc=f"epoch {self.epoch + 1}/{self.options.epochs}",
            leave=False,
            disable=self.options.quiet or not comm.is_main_process(),
        )
        for step, (images, targets) in enumerate(bar):
            # The rate that this step runs at: the first one has that of the warm-up's start.
            self.scheduler.step_update(self.epoch * len(loader) + step)
            total += self._step(model, images, targets)
            if step % _STEPS_PER_CHECK == 0:
                self._require_finite(total)
        self._require_finite(total)
        means = comm.all_gather(total.item() / len(loader))
        return {
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": sum(means) / len(means),
        }

    def _step(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Forward, backward and the optimiser's step; returns the loss."""
        images = images.to(self.device, non_blocking=True)
        targets = targets.to(self.device, non_blocking=True)
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = self.loss(images, model(images), targets)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        if self.options.clip:
            self.scaler.unscale_(self.optimizer)
            clip_gradients(self.model, self.options.clip, self.options.clip_mode)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.after_step()
        return loss.detach()

    def _require_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise NumericalError(
                f"The training loss must be finite, it became {loss.item()} in epoch {self.epoch}. "
                "Lower SOLVER.BASE_LR, clip the gradients (CLASSIFIER.CLIP), or train in float32."
            )

    def _average_statistics(self) -> None:
        """Every process has met other images; all shall evaluate one model."""
        if comm.get_world_size() == 1:
            return
        states = [self.model.state_dict(), {} if self.ema is None else self.ema.average]
        for key, value in ((k, v) for state in states for k, v in state.items()):
            if key.endswith(("running_mean", "running_var")):
                dist.all_reduce(value)
                value /= comm.get_world_size()

    def _evaluate(self, loader: DataLoader) -> dict[str, float]:
        """Accuracy of the weights, and of their average where there is one."""
        options = {"precision": self.dtype, "quiet": self.options.quiet}
        row = _prefixed("val_", evaluate_classifier(self.model, loader, **options))
        if self.ema is not None:
            with self.ema.averaged():
                row |= _prefixed("ema_", evaluate_classifier(self.model, loader, **options))
        return row

    def _save(self, row: Mapping[str, float]) -> None:
        """The best first: when killed in between, the epoch is repeated and writes it again."""
        if not comm.is_main_process():
            return
        folder, state = self.options.output_dir, self.model.state_dict()
        average = {} if self.ema is None else self.ema.average
        if self.best is row:
            is_average = row.get("ema_top1", -1.0) > row["val_top1"]
            best = {"model": average if is_average else state, **self.facts, "metrics": row}
            write_atomically(folder / BEST_FILE, lambda part: torch.save(best, part))
        content = {
            "model": state,
            "ema": average,
            "ema_updates": 0 if self.ema is None else self.ema.num_updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
            **self.facts,
        }
        write_text(folder / LOG_FILE, "".join(json.dumps(row) + "\n" for row in self.history))
        write_atomically(folder / CHECKPOINT_FILE, lambda part: torch.save(content, part))


def clip_gradients(model: nn.Module, limit: float, mode: str) -> None:
    """Limits the gradients in place; see :class:`LoopOptions`."""
    from timm.utils import dispatch_clip_grad

    dispatch_clip_grad(model.parameters(), limit, mode=mode)


class _Scalars:
    """Numbers of every epoch for TensorBoard, from the main process."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self.writer = None
        if comm.is_main_process():
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder), purge_step=epoch)

    def write(self, row: Mapping[str, float]) -> None:
        if self.writer is None:
            return
        try:
            for name, value in row.items():
                self.writer.add_scalar(name, value, int(row["epoch"]))
            self.writer.flush()
        except OSError as error:
            raise OutputError(
                f"TensorBoard's events must be written to {self.writer.log_dir}, which failed: "
                f"{error}. Free some space."
            ) from error


def _accuracy(row: Mapping[str, float]) -> float:
    return max(row["val_top1"], row.get("ema_top1", 0.0))


def _prefixed(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {prefix + name: value for name, value in metrics.items()}


def _seed_all(seed: int, epoch: int) -> None:
    """All random numbers of this process follow from seed, epoch and its rank."""
    entropy = np.random.SeedSequence((seed, epoch, comm.get_rank()))
    numbers = entropy.generate_state(3).tolist()
    random.seed(numbers[0])
    np.random.seed(numbers[1])
    torch.manual_seed(numbers[2])
