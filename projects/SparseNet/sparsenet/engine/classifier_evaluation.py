"""Evaluation of a trained classifier: accuracy, robustness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from sparsenet.data.image_folder import build_eval_loader, open_image_folder
from sparsenet.engine.classifier import PRECISIONS
from sparsenet.engine.classifier_recipe import build_transform, device_of, loop_options
from sparsenet.errors import CheckpointError
from sparsenet.evaluation.classification import evaluate_classifier
from sparsenet.evaluation.imagenet_robustness import RobustnessEvaluator
from sparsenet.modeling.checkpoint import read_checkpoint
from sparsenet.modeling.timm_models import create_classifier, import_timm, load_classifier_state

_MAX_BATCH = 256  # photos of a process at once


@dataclass(frozen=True)
class TrainedClassifier:
    """A model with its weights, in evaluation mode.

    Args:
        class_names: By class number.
        cfg: The configuration with what the checkpoint says of the model.
    """

    model: nn.Module
    class_names: tuple[str, ...]
    cfg: CfgNode


def load_trained(cfg: CfgNode, *, trust: bool = False) -> TrainedClassifier:
    """The model of ``MODEL.WEIGHTS``.

    A checkpoint of ours tells what its model is. For one that does not, ``CLASSIFIER`` tells it,
    and the classes are ImageNet's.

    Args:
        trust: Allows checkpoints that hold pickles.

    Raises:
        CheckpointError: If there are no weights, or of another model.
    """
    if not cfg.MODEL.WEIGHTS:
        raise CheckpointError("Evaluation needs trained weights: set MODEL.WEIGHTS to a file.")
    content, cfg = read_checkpoint(cfg.MODEL.WEIGHTS, trust=trust), cfg.clone()
    cfg.defrost()
    node = cfg.CLASSIFIER
    if "arch" in content:
        node.MODEL, node.MODEL_OPTIONS = content["arch"], CfgNode(content["model_options"])
        node.INPUT_SIZE, node.CROP_PCT = content["input_size"], content["crop_pct"]
    class_names = tuple(content.get("class_names") or _imagenet_classes())
    model = create_classifier(node.MODEL, len(class_names), dict(node.MODEL_OPTIONS))
    load_classifier_state(model, content["model"], source=cfg.MODEL.WEIGHTS)
    return TrainedClassifier(model.to(device_of(cfg)).eval(), class_names, cfg)


def _imagenet_classes() -> list[str]:
    import_timm()
    from timm.data import ImageNetInfo

    return ImageNetInfo().label_names()


def evaluate_trained(
    trained: TrainedClassifier, robustness: Mapping[str, Path], *, quiet: bool = False
) -> dict[str, dict[str, float]]:
    """Accuracy on ``CLASSIFIER.DATA_PATH/val``, if that is set, and robustness.

    Args:
        robustness: Folders by kind; see ``evaluation.imagenet_robustness``.

    Returns:
        Metrics by "val" or kind.
    """
    cfg, results = trained.cfg, {}
    num_workers = cfg.DATALOADER.NUM_WORKERS
    # That of all processes; a training's may be more than one can evaluate at once.
    batch_size = min(_MAX_BATCH, max(1, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()))
    precision: torch.dtype = PRECISIONS[loop_options(cfg).precision]
    transform = build_transform(cfg)
    if cfg.CLASSIFIER.DATA_PATH:
        folder = Path(cfg.CLASSIFIER.DATA_PATH) / "val"
        dataset = open_image_folder(folder, transform, class_names=trained.class_names)
        loader = build_eval_loader(dataset, batch_size, num_workers=num_workers)
        results["val"] = evaluate_classifier(
            trained.model, loader, precision=precision, quiet=quiet
        )
    full = cfg.clone()
    full.CLASSIFIER.CROP_PCT = 1.0
    evaluator = RobustnessEvaluator(
        trained.model,
        trained.class_names,
        transform,
        build_transform(full),
        batch_size=batch_size,
        num_workers=num_workers,
        precision=precision,
        quiet=quiet,
    )
    return results | {kind: evaluator.evaluate(kind, path) for kind, path in robustness.items()}
