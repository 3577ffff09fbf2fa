"""Names of datasets: PANDA's, and the files and folders that a configuration lists."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from sparsenet.data.coco_json import read_coco_json
from sparsenet.data.crowdhuman_odgt import read_odgt
from sparsenet.data.loaded_dataset import LoadedDataset
from sparsenet.data.panda import PANDA_TREE
from sparsenet.data.pyramids import prefer_pyramids
from sparsenet.data.semantic_folders import SEMANTIC_KEY, register_semantic_folders
from sparsenet.data.voc_xml import read_voc
from sparsenet.data.yolo_txt import read_yolo
from sparsenet.errors import ConfigError, DatasetNotFoundError

logger = logging.getLogger(__name__)

PANDA_SUBJECTS = ("person", "vehicle", "all")
PANDA_SPLITS = ("train", "val")


@dataclass(frozen=True)
class _Source:
    """Where a registered dataset comes from; equal sources need no second registration.

    Args:
        key: Key of ``DATASETS`` whose reader it needs.
        annotations: File or folder.
        place: Image folder, or the split where images are found by the annotations.
        evaluator_type: "panda", "coco" or "crowd".
        options: What the reader takes besides.
    """

    key: str
    annotations: str
    place: str
    evaluator_type: str
    options: tuple[tuple[str, Any], ...] = ()


_READERS: dict[str, Callable[..., LoadedDataset]] = {
    "COCO_FILES": read_coco_json,
    "ODGT_FILES": read_odgt,
    "VOC_FOLDERS": read_voc,
    "YOLO_FOLDERS": read_yolo,
}
# What an entry of each key of DATASETS lists after the name.
_FORMS = {
    "COCO_FILES": "json file, image folder",
    "ODGT_FILES": "odgt file, image folder",
    "VOC_FOLDERS": "folder, split",
    "YOLO_FOLDERS": "folder or data.yaml, split",
}
# What this module registered.
_registered: dict[str, _Source] = {}


def panda_root() -> Path:
    """``$DETECTRON2_DATASETS/panda``, by default ``datasets/panda``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "panda"


def register_panda(root: str | Path | None = None) -> None:
    """Registers ``panda_{person,vehicle,all}_{train,val}``; may be called again.

    Nothing is read yet. Loading a name while the dataset is missing raises
    :class:`~sparsenet.errors.DatasetNotFoundError` with the expected tree.

    Args:
        root: PANDA's folder; None means :func:`panda_root`.
    """
    folder = Path(root) if root is not None else panda_root()
    for subject in PANDA_SUBJECTS:
        for split in PANDA_SPLITS:
            name = f"panda_{subject}_{split}"
            json_file = folder / "annotations" / f"{name}.json"
            # Both splits are scenes of PANDA's training part; its test part has no public boxes.
            source = _Source("COCO_FILES", str(json_file), str(folder / "image_train"), "panda")
            _register(name, source, PANDA_TREE)


def register_datasets(cfg: CfgNode) -> None:
    """Registers all files and folders that ``DATASETS`` lists; may be called again.

    Nothing is read yet: mistakes in the files are told when a name is loaded.

    Raises:
        ConfigError: If an entry has another form, or its name belongs to another dataset or
            occurs twice.
    """
    node = cfg.DATASETS
    names = tuple(node.CLASS_NAMES)
    for key in _READERS:
        options: dict[str, Any] = {"class_names": names} if key.endswith("_FOLDERS") else {}
        if key == "ODGT_FILES":
            options["box"] = node.ODGT_BOX
        kind = "crowd" if key == "ODGT_FILES" else "coco"
        _register_entries(key, node[key], kind, tuple(options.items()))
    register_semantic_folders(node.SEM_SEG_FOLDERS, names)
    _require_different_names(cfg)  # now that all entries are known to have names


def register_coco_files(files: Sequence[Sequence[str]], *, evaluator_type: str = "coco") -> None:
    """Registers COCO files as those of ``DATASETS.COCO_FILES``; may be called again.

    Args:
        files: ``[name, json file, image folder]`` each.
        evaluator_type: ``"panda"`` for images that are detected tile by tile, otherwise ``"coco"``.

    Raises:
        ConfigError: If an entry has another form or its name belongs to another dataset.
    """
    _register_entries("COCO_FILES", files, evaluator_type)


def _register_entries(
    key: str,
    entries: Sequence[Sequence[str]],
    evaluator_type: str,
    options: tuple[tuple[str, Any], ...] = (),
) -> None:
    for entry in entries:
        if isinstance(entry, str) or len(entry) != 3 or not all(isinstance(e, str) for e in entry):
            raise ConfigError(
                f"DATASETS.{key} must list [name, {_FORMS[key]}] for each dataset, got {entry!r}."
            )
        name, annotations, place = entry
        _register(name, _Source(key, annotations, place, evaluator_type, options))


def _require_different_names(cfg: CfgNode) -> None:
    """A second entry of a name would take the place of the first without a word."""
    counts = Counter(entry[0] for key in (*_READERS, SEMANTIC_KEY) for entry in cfg.DATASETS[key])
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise ConfigError(
            f"Every dataset of a config must have a name of its own, {', '.join(repeated)} occurs "
            f"more than once in DATASETS.{', '.join(_READERS)} and {SEMANTIC_KEY}."
        )


def _register(name: str, source: _Source, expected_tree: str = "") -> None:
    if _registered.get(name) == source:
        return
    if name in _registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    elif name in DatasetCatalog.list():
        raise ConfigError(
            f"A dataset named {name!r} is already registered elsewhere. Choose another name in "
            f"DATASETS.{source.key}."
        )
    _registered[name] = source
    DatasetCatalog.register(name, lambda: _load(name, expected_tree))
    metadata = MetadataCatalog.get(name).set(evaluator_type=source.evaluator_type)
    if source.key == "COCO_FILES":  # the others are converted when they are evaluated
        metadata.set(json_file=source.annotations, image_root=source.place)


def _load(name: str, expected_tree: str) -> list[dict[str, Any]]:
    """Reads a registered dataset and completes its metadata."""
    source = _registered[name]
    if expected_tree and not Path(source.annotations).is_file():
        raise DatasetNotFoundError(
            f"Dataset {name!r} needs {source.annotations}, which does not exist. Set "
            "DETECTRON2_DATASETS to the folder that holds panda/, which must look like this:\n"
            f"{expected_tree}"
        )
    dataset = _READERS[source.key](source.annotations, source.place, **dict(source.options))
    is_folder = source.key.endswith("_FOLDERS")
    num_pyramids = prefer_pyramids(dataset.dicts, source.annotations if is_folder else source.place)
    logger.info("%s: %d images, %d with a pyramid", name, len(dataset.dicts), num_pyramids)
    MetadataCatalog.get(name).set(
        thing_classes=list(dataset.class_names),
        thing_dataset_id_to_contiguous_id=dict(dataset.class_of_category),
    )
    return dataset.dicts
