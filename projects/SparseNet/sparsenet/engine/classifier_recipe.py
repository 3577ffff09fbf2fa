"""A classifier's training from a configuration: data, model, loss, optimiser, schedule.

Augmentation, mixing, losses, optimisers and schedules are timm's; ``CLASSIFIER`` in ``config.py``
has the keys.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sparsenet.data.class_mapping import CLASS_MAPPING_FILE, write_class_mapping
from sparsenet.data.image_folder import build_eval_loader, build_train_loader, open_image_folder
from sparsenet.engine.classifier import CHECKPOINT_FILE, ClassifierTrainer, LoopOptions
from sparsenet.errors import ConfigError
from sparsenet.files import make_folder
from sparsenet.modeling.checkpoint import read_checkpoint
from sparsenet.modeling.losses.distillation import ClassifierLoss
from sparsenet.modeling.timm_models import (
    create_classifier,
    load_classifier_state,
    published_config,
)

logger = logging.getLogger(__name__)

# Of timm's those that are a function of the step: a plateau of the loss is not.
SCHEDULES = ("cosine", "tanh", "step", "multistep", "poly")


def train_classifier(
    cfg: CfgNode, *, resume: Path | None = None, trust: bool = False, quiet: bool = False
) -> dict[str, float]:
    """Trains on ``CLASSIFIER.DATA_PATH``; writes checkpoints, logs and the class mapping.

    Args:
        resume: A ``checkpoint.pth`` of this training to go on from.
        trust: Allows weights that hold pickles.

    Returns:
        The row of ``train_log.txt`` with the best accuracy.

    Raises:
        SparseNetError: See the functions that it calls.
    """
    torch.manual_seed(max(cfg.SEED, 0))
    train_loader, val_loader = build_loaders(cfg)
    class_names = list(val_loader.dataset.dataset.classes)
    model = build_model(cfg, class_names, trust=trust)
    output_dir = make_folder(cfg.OUTPUT_DIR)
    optimizer = build_optimizer(cfg, model, train_loader.batch_size * comm.get_world_size())
    trainer = ClassifierTrainer(
        model,
        optimizer,
        build_scheduler(cfg, optimizer, len(train_loader)),
        build_loss(cfg, model, class_names, trust=trust),
        loop_options(cfg, quiet=quiet),
        mixup=build_mixup(cfg, len(class_names)),
        facts=describe_model(cfg, class_names),
    )
    if resume is not None:
        trainer.resume(resume, trust=trust)
    elif comm.is_main_process() and (output_dir / CHECKPOINT_FILE).exists():
        logger.warning(
            "%s holds a training that will be overwritten: it is not resumed.", output_dir
        )
    if comm.is_main_process():
        write_class_mapping(output_dir / CLASS_MAPPING_FILE, class_names)
    return trainer.fit(train_loader, val_loader)


def build_loaders(cfg: CfgNode) -> tuple[DataLoader, DataLoader]:
    """Batches of ``DATA_PATH/train`` and ``DATA_PATH/val``."""
    node, folder = cfg.CLASSIFIER, Path(cfg.CLASSIFIER.DATA_PATH)
    train = open_image_folder(folder / "train", build_transform(cfg, is_training=True))
    val = open_image_folder(folder / "val", build_transform(cfg), class_names=train.classes)
    batch_size = max(1, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size())
    num_workers = cfg.DATALOADER.NUM_WORKERS
    train_loader = build_train_loader(
        train,
        batch_size,
        num_workers=num_workers,
        repeats=node.AUG.REPEATS,
        seed=max(cfg.SEED, 0),
    )
    return train_loader, build_eval_loader(val, batch_size, num_workers=num_workers)


def build_transform(cfg: CfgNode, *, is_training: bool = False) -> Any:
    """timm's, of one photo: augmented for training, else resized and centre-cropped."""
    node = cfg.CLASSIFIER
    expected = published_config(node.MODEL)
    from timm.data import create_transform

    common = {
        "input_size": (3, node.INPUT_SIZE, node.INPUT_SIZE),
        "interpolation": "bicubic",
        "mean": expected.mean,
        "std": expected.std,
    }
    if not is_training:
        return create_transform(**common, crop_pct=node.CROP_PCT)
    aug = node.AUG
    return create_transform(
        **common,
        is_training=True,
        scale=tuple(aug.SCALE),
        hflip=aug.FLIP_PROB,
        color_jitter=aug.COLOR_JITTER or None,
        auto_augment=aug.AUTO_AUGMENT or None,
        re_prob=aug.ERASE_PROB,
        re_mode="pixel",
    )


def build_model(cfg: CfgNode, class_names: list[str], *, trust: bool = False) -> nn.Module:
    """The model on its device, from ``MODEL.WEIGHTS`` where that names a file.

    Heads of another number of classes start anew.

    Args:
        trust: Allows weights that hold pickles.
    """
    node = cfg.CLASSIFIER
    model = create_classifier(
        node.MODEL, len(class_names), dict(node.MODEL_OPTIONS), pretrained=node.PRETRAINED
    )
    if cfg.MODEL.WEIGHTS:
        state = read_checkpoint(cfg.MODEL.WEIGHTS, trust=trust)["model"]
        load_classifier_state(model, state, source=cfg.MODEL.WEIGHTS, new_head=True)
    return model.to(device_of(cfg))


def device_of(cfg: CfgNode) -> torch.device:
    """``MODEL.DEVICE``; of several GPUs that of this process. Without a GPU, the CPU.

    Raises:
        ConfigError: If torch has no such device here.
    """
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        return torch.device("cpu")
    if cfg.MODEL.DEVICE == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    try:
        return torch.empty(0, device=cfg.MODEL.DEVICE).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            "MODEL.DEVICE (--device) must be a device that torch has here, as cuda or cpu, got "
            f"{cfg.MODEL.DEVICE!r}."
        ) from error


def build_optimizer(cfg: CfgNode, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
    """timm's; vectors and what the model's ``no_weight_decay`` names are spared of decay.

    Args:
        batch_size: Of all processes; the rate is ``SOLVER.BASE_LR`` for ``LR_BATCH`` photos.
    """
    from timm.optim import create_optimizer_v2

    node = cfg.CLASSIFIER
    rate = cfg.SOLVER.BASE_LR * (batch_size / node.LR_BATCH if node.LR_BATCH else 1.0)
    return create_optimizer_v2(
        model,
        opt=node.OPTIMIZER,
        lr=rate,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        momentum=cfg.SOLVER.MOMENTUM,
    )


def build_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer, num_steps: int) -> Any:
    """timm's, by updates.

    Args:
        num_steps: Updates of an epoch.

    Raises:
        ConfigError: If the schedule is none of ``SCHEDULES``.
    """
    from timm.scheduler import create_scheduler_v2

    node = cfg.CLASSIFIER
    if node.SCHEDULE not in SCHEDULES:
        raise ConfigError(
            f"CLASSIFIER.SCHEDULE must be one of {', '.join(SCHEDULES)}, got {node.SCHEDULE!r}."
        )
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=node.SCHEDULE,
        num_epochs=node.EPOCHS,
        warmup_epochs=min(node.WARMUP_EPOCHS, node.EPOCHS - 1),
        warmup_lr=node.WARMUP_LR,
        min_lr=node.MIN_LR,
        step_on_epochs=False,
        updates_per_epoch=num_steps,
    )
    return scheduler


def build_mixup(cfg: CfgNode, num_classes: int) -> Any | None:
    """timm's mixup and cutmix of a batch, with label smoothing; None where both are off."""
    from timm.data import Mixup

    aug = cfg.CLASSIFIER.AUG
    if not aug.MIXUP and not aug.CUTMIX:
        return None
    return Mixup(
        mixup_alpha=aug.MIXUP,
        cutmix_alpha=aug.CUTMIX,
        prob=aug.MIX_PROB,
        label_smoothing=cfg.CLASSIFIER.SMOOTHING,
        num_classes=num_classes,
    )


def build_loss(
    cfg: CfgNode, model: nn.Module, class_names: list[str], *, trust: bool = False
) -> ClassifierLoss:
    """Cross-entropy of soft or smoothed labels, and distillation on request.

    Args:
        trust: Allows a teacher's weights that hold pickles.

    Raises:
        ConfigError: If the model has no head to distil into, or the teacher knows other classes.
    """
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

    node, aug = cfg.CLASSIFIER, cfg.CLASSIFIER.AUG
    criterion: nn.Module = SoftTargetCrossEntropy()
    if not aug.MIXUP and not aug.CUTMIX:
        criterion = LabelSmoothingCrossEntropy(node.SMOOTHING)
    distil = node.DISTILLATION
    if distil.TYPE == "none":
        return ClassifierLoss(criterion)
    if not isinstance(model.get_classifier(), tuple):
        raise ConfigError(
            f"CLASSIFIER.DISTILLATION needs a model with two heads, {node.MODEL} has one. "
            "Take lsnet_t_distill, for instance, or TYPE none."
        )
    model.set_distilled_training(True)
    return ClassifierLoss(
        criterion,
        build_teacher(cfg, model, class_names, trust=trust),
        kind=distil.TYPE,
        alpha=distil.ALPHA,
        temperature=distil.TEMPERATURE,
    )


def build_teacher(
    cfg: CfgNode, student: nn.Module, class_names: list[str], *, trust: bool = False
) -> nn.Module:
    """The teacher, of the student's images; its own weights file, or timm's published weights.

    Raises:
        ConfigError: If the published weights are for another number of classes.
    """
    node = cfg.CLASSIFIER.DISTILLATION
    num_published = published_config(node.TEACHER).num_classes
    if not node.TEACHER_WEIGHTS and num_published != len(class_names):
        raise ConfigError(
            f"The teacher must know the {len(class_names)} classes of the student, the published "
            f"{node.TEACHER} knows {num_published}. Train it on them and name its file: "
            "CLASSIFIER.DISTILLATION.TEACHER_WEIGHTS."
        )
    teacher = create_classifier(node.TEACHER, len(class_names), pretrained=not node.TEACHER_WEIGHTS)
    if node.TEACHER_WEIGHTS:
        state = read_checkpoint(node.TEACHER_WEIGHTS, trust=trust)["model"]
        load_classifier_state(teacher, state, source=node.TEACHER_WEIGHTS)
    return nn.Sequential(Renormalise(student, teacher), teacher).to(device_of(cfg)).eval()


class Renormalise(nn.Module):
    """From images normalised for one model to those that another one expects."""

    def __init__(self, source: nn.Module, target: nn.Module) -> None:
        super().__init__()
        mean, std, target_mean, target_std = (
            torch.tensor(model.default_cfg[key]).view(-1, 1, 1)  # (3, 1, 1)
            for model in (source, target)
            for key in ("mean", "std")
        )
        self.register_buffer("scale", std / target_std, persistent=False)
        self.register_buffer("shift", (mean - target_mean) / target_std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


def loop_options(cfg: CfgNode, *, quiet: bool = False) -> LoopOptions:
    """The loop's share of the configuration."""
    node, solver = cfg.CLASSIFIER, cfg.SOLVER
    return LoopOptions(
        output_dir=Path(cfg.OUTPUT_DIR),
        epochs=node.EPOCHS,
        precision=solver.AMP.PRECISION if solver.AMP.ENABLED else "float32",
        clip=node.CLIP,
        clip_mode=node.CLIP_MODE,
        ema_decay=solver.EMA.DECAY if solver.EMA.ENABLED else 0.0,
        ema_ramp=solver.EMA.RAMP,
        seed=max(cfg.SEED, 0),
        quiet=quiet,
    )


def describe_model(cfg: CfgNode, class_names: list[str]) -> dict[str, Any]:
    """What a checkpoint must tell for its model to be built again."""
    return {
        "arch": cfg.CLASSIFIER.MODEL,
        "model_options": dict(cfg.CLASSIFIER.MODEL_OPTIONS),
        "num_classes": len(class_names),
        "class_names": class_names,
        "input_size": cfg.CLASSIFIER.INPUT_SIZE,
        "crop_pct": cfg.CLASSIFIER.CROP_PCT,
    }
