"""Translates a config.yaml of the unofficial Sparse R-CNN of liangheming into one of ours.

The port counts schedules in epochs and batches per GPU; here they become steps and images per step.
What has no counterpart is told, never dropped in silence.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from sparsenet.config import load_config
from sparsenet.errors import ConfigError
from sparsenet.files import write_atomically

# Keys whose values are ours as they are.
COPIED = {
    "data.max_thresh": ("INPUT.LETTERBOX", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"),
    "data.num_workers": ("DATALOADER.NUM_WORKERS",),
    "data.remove_blank": ("DATALOADER.FILTER_EMPTY_ANNOTATIONS",),
    "model.num_cls": ("MODEL.SparseRCNN.NUM_CLASSES",),
    "model.num_proposals": ("MODEL.SparseRCNN.NUM_PROPOSALS",),
    "model.iou_type": ("MODEL.SparseRCNN.BOX_LOSS",),
    "model.cls_weights": ("MODEL.SparseRCNN.CLASS_WEIGHT",),
    "model.l1_weights": ("MODEL.SparseRCNN.L1_WEIGHT",),
    "model.iou_weights": ("MODEL.SparseRCNN.GIOU_WEIGHT",),
    "optim.lr": ("SOLVER.BASE_LR",),
    "optim.weight_decay": ("SOLVER.WEIGHT_DECAY",),
    "optim.alpha": ("SOLVER.GAMMA",),
    "optim.warm_up_iter": ("SOLVER.WARMUP_ITERS",),
    "optim.warm_up_factor": ("SOLVER.WARMUP_FACTOR",),
    "optim.amp": ("SOLVER.AMP.ENABLED",),
}
# Keys that count epochs.
IN_EPOCHS = {
    "optim.epochs": "SOLVER.MAX_ITER",
    "optim.milestones": "SOLVER.STEPS",
    "val.interval": "TEST.EVAL_PERIOD",
}
# Keys that several of ours come from; see the functions below.
COMBINED = (
    "model_name", "gpus", "data.batch_size", "data.train_annotation_path", "data.train_img_root",
    "data.val_annotation_path", "data.val_img_root", "model.backbone", "model.pretrained",
    "model.cls_cost", "model.l1_cost", "model.iou_cost", "optim.optimizer", "val.weight_path",
)  # fmt: skip
# Depth, groups and width per group.
BACKBONES = {
    "resnet18": (18, 1, 64),
    "resnet34": (34, 1, 64),
    "resnet50": (50, 1, 64),
    "resnet101": (101, 1, 64),
    "resnet152": (152, 1, 64),
    "resnext50_32x4d": (50, 32, 4),
    "resnext101_32x8d": (101, 32, 8),
    "wide_resnet50_2": (50, 1, 128),
    "wide_resnet101_2": (101, 1, 128),
}
# Keys that do nothing in the port, or that we do otherwise, if their value is true.
TOLD = {
    "data.use_crowd": "crowds are ignore boxes here, neither objects nor left out",
    "data.debug": "there is no limit on the number of images here; register a smaller file",
    "model.alpha": "the port does not use it; its focal loss has 0.25, as MODEL.SparseRCNN.ALPHA",
    "model.gamma": "the port does not use it; its focal loss has 2.0, as MODEL.SparseRCNN.GAMMA",
    "optim.sync_bn": "the port's norms are frozen, it has no effect; here MODEL.BATCH_NORM SyncBN",
}

Values = dict[str, Any]  # by dotted name
Notes = list[str]


def convert_port_config(
    source: Path, target: Path, base: Path, *, num_images: int | None = None
) -> Notes:
    """Writes our YAML for a config.yaml of the port.

    Args:
        source: The port's file.
        target: Ours, replaced if it is there.
        base: Our YAML with the port's augmentations, which the new one builds on.
        num_images: That are trained on; None counts those of the training json.

    Returns:
        A line for everything that was not translated as it stood.

    Raises:
        ConfigError: If a file is missing or malformed, or a value cannot be ours.
    """
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{source} must be a YAML file, reading it failed: {error}.") from error
    port = dict(_flattened(content)) if isinstance(content, dict) else {}
    if not any(key.startswith("model.") for key in port):
        raise ConfigError(
            f"{source} must be a config.yaml of the port with a section model, it has none."
        )
    values, notes = translate(port, num_images=num_images)
    text = yaml.safe_dump({"_BASE_": os.path.relpath(base, target.parent), **_nested(values)})

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")
        load_config(path)  # what does not load must not take the place of what does

    write_atomically(target, write)
    return notes


def translate(port: Mapping[str, Any], *, num_images: int | None = None) -> tuple[Values, Notes]:
    """Our values by dotted key, and what there is to tell.

    Args:
        port: The port's values by dotted key.
        num_images: See :func:`convert_port_config`.

    Raises:
        ConfigError: If a value cannot be ours.
    """
    defaults, values = load_config(), {}
    for key, ours in COPIED.items():
        for name in ours if key in port else ():
            values[name] = _as_default(defaults, name, key, port[key])
    notes = [f"{key}: {text}" for key, text in TOLD.items() if port.get(key)]
    known = {*COPIED, *COMBINED, *IN_EPOCHS, *TOLD}
    notes += [f"{key}: not known, not translated" for key in port if key not in known]
    for part in (_backbone, _matcher, _datasets, _optimizer):
        part(port, values, notes)
    _schedule(port, values, lambda: num_images or _count_images(port))
    return values, notes


def _backbone(port: Mapping[str, Any], values: Values, notes: Notes) -> None:
    name = port.get("model.backbone", "resnet50")
    if name not in BACKBONES:
        raise ConfigError(
            f"model.backbone must be one of {', '.join(BACKBONES)}, got {name!r}. For others see "
            "MODEL.BACKBONE.NAME build_timm_fpn_backbone."
        )
    depth, groups, width = BACKBONES[name]
    values["MODEL.RESNETS.DEPTH"] = depth
    values["MODEL.RESNETS.NUM_GROUPS"] = groups
    values["MODEL.RESNETS.WIDTH_PER_GROUP"] = width
    if depth < 50:
        values["MODEL.RESNETS.RES2_OUT_CHANNELS"] = 64
    if not port.get("model.pretrained", True):
        values["MODEL.WEIGHTS"] = ""
    elif name != "resnet50":  # the base has those
        values["MODEL.WEIGHTS"] = f"{name}.pth"
        notes.append(
            f"model.pretrained: make {name}.pth of torchvision's weights with "
            "tools/convert_checkpoint.py --from torchvision"
        )


def _matcher(port: Mapping[str, Any], values: Values, notes: Notes) -> None:
    costs = [port.get(f"model.{name}_cost", 1.0) for name in ("cls", "l1", "iou")]
    values["MODEL.SparseRCNN.COSTS"] = [float(cost) for cost in costs]


def _datasets(port: Mapping[str, Any], values: Values, notes: Notes) -> None:
    files = []
    for part, key in (("train", "DATASETS.TRAIN"), ("val", "DATASETS.TEST")):
        path = port.get(f"data.{part}_annotation_path")
        if path:
            files.append([f"port_{part}", path, port.get(f"data.{part}_img_root", "")])
            values[key] = [f"port_{part}"]
    if files:
        values["DATASETS.COCO_FILES"] = files


def _optimizer(port: Mapping[str, Any], values: Values, notes: Notes) -> None:
    name = str(port.get("optim.optimizer", "AdamW")).upper()
    if name == "ADAM":
        notes.append("optim.optimizer: AdamW in place of Adam, whose weight decay is another")
        name = "ADAMW"
    if name not in ("ADAMW", "SGD"):
        raise ConfigError(f"optim.optimizer must be Adam, AdamW or SGD, got {name!r}.")
    values["SOLVER.OPTIMIZER"] = name
    values["OUTPUT_DIR"] = str(
        Path(port.get("val.weight_path", "output"), port.get("model_name", "sparsercnn"))
    )
    if "gpus" in port:
        notes.append(f"gpus: start train_net.py with --num-gpus {_num_gpus(port)}")


def _schedule(port: Mapping[str, Any], values: Values, count: Callable[[], int]) -> None:
    """Epochs to steps; the port fills up the last batch of an epoch."""
    (batch_size,) = _whole_numbers("data.batch_size", port.get("data.batch_size", 4))
    batch = batch_size * _num_gpus(port)
    values["SOLVER.IMS_PER_BATCH"] = batch
    in_epochs = {key: ours for key, ours in IN_EPOCHS.items() if key in port}
    per_epoch = math.ceil(count() / batch) if in_epochs else 0
    for key, ours in in_epochs.items():
        steps = [epoch * per_epoch for epoch in _whole_numbers(key, port[key])]
        values[ours] = steps if key == "optim.milestones" else steps[0]


def _whole_numbers(key: str, value: Any) -> list[int]:
    """The positive integers of a list, or the one that stands alone."""
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(type(number) is int and number > 0 for number in numbers):
        raise ConfigError(f"{key} must be whole numbers above 0, got {value!r}.")
    return numbers


def _num_gpus(port: Mapping[str, Any]) -> int:
    return len(str(port.get("gpus", "0")).split(","))


def _count_images(port: Mapping[str, Any]) -> int:
    """Images that the port trains on: with ``remove_blank``, those with boxes."""
    path = Path(port.get("data.train_annotation_path") or "")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ids = {image["id"] for image in content["images"]}
        if port.get("data.remove_blank"):
            ids &= {annotation["image_id"] for annotation in content["annotations"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "data.train_annotation_path must be a COCO json, whose images tell how many steps an "
            f"epoch has; reading {path} failed: {error}. Or give the number with --num-images."
        ) from error
    return len(ids)


def _as_default(defaults: CfgNode, name: str, key: str, value: Any) -> Any:
    """The value in the type of our default; yacs takes no other. "Ture" is true, as in the port."""
    node = defaults
    for part in name.split("."):
        node = node[part]
    try:
        return type(node)(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key} must be a {type(node).__name__}, got {value!r}.") from error


def _flattened(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _nested(values: Values) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for name, value in values.items():
        *parts, last = name.split(".")
        node = root
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = value
    return root
