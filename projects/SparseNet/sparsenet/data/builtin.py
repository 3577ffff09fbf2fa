"""Names of datasets: PANDA's, and any COCO json that a configuration lists."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from sparsenet.data.coco_json import read_coco_json
from sparsenet.data.panda import PANDA_TREE
from sparsenet.errors import ConfigError, DatasetNotFoundError

logger = logging.getLogger(__name__)

PANDA_SUBJECTS = ("person", "vehicle", "all")
PANDA_SPLITS = ("train", "val")
PYRAMID_FOLDER = "pyramids"
PYRAMID_SUFFIXES = (".tif", ".tiff")

# What this module registered: name -> (json file, image folder, evaluator).
_registered: dict[str, tuple[str, str, str]] = {}


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
            _register(name, json_file, folder / "image_train", "panda", PANDA_TREE)


def register_coco_files(files: Sequence[Sequence[str]], *, evaluator_type: str = "coco") -> None:
    """Registers COCO files, such as those of ``DATASETS.COCO_FILES``; may be called again.

    Args:
        files: ``[name, json file, image folder]`` each.
        evaluator_type: ``"panda"`` for images that are detected tile by tile, otherwise ``"coco"``.

    Raises:
        ConfigError: If an entry has another form or its name belongs to another dataset.
    """
    for entry in files:
        if isinstance(entry, str) or len(entry) != 3 or not all(isinstance(e, str) for e in entry):
            raise ConfigError(
                "DATASETS.COCO_FILES must list [name, json file, image folder] for each dataset, "
                f"got {entry!r}."
            )
        name, json_file, image_root = entry
        _register(name, Path(json_file), Path(image_root), evaluator_type)


def prefer_pyramids(dicts: list[dict[str, Any]], image_root: str | Path) -> int:
    """Points ``file_name`` at the tiled pyramid of an image, where there is one.

    A JPEG has to be decoded from its start for every window; a tiled TIFF only where it is looked
    at. For ``<root>/<folder>/<name>.jpg`` these are tried: ``<root>/<folder>/<name>.tif``, the
    same name in ``<root>/<folder>/pyramids``, ``<root>/pyramids/<folder>`` and, PANDA's place,
    ``<root>/../pyramids/<folder>``; then all of them with ``.tiff``.

    Args:
        dicts: Dataset dicts; changed in place.
        image_root: The dataset's image folder.

    Returns:
        Number of images that have a pyramid.
    """
    num_found = 0
    for item in dicts:
        pyramid = _find_pyramid(Path(item["file_name"]), Path(image_root))
        if pyramid is not None:
            item["file_name"] = str(pyramid)
            num_found += 1
    return num_found


def _find_pyramid(image: Path, root: Path) -> Path | None:
    if image.suffix.lower() in PYRAMID_SUFFIXES:
        return None
    folders = [image.parent, image.parent / PYRAMID_FOLDER]
    if image.is_relative_to(root):
        below = image.parent.relative_to(root)
        folders += [parent / PYRAMID_FOLDER / below for parent in (root, root.parent)]
    candidates = (
        folder / (image.stem + suffix) for suffix in PYRAMID_SUFFIXES for folder in folders
    )
    return next((path for path in candidates if path.is_file()), None)


def _register(
    name: str, json_file: Path, image_root: Path, evaluator_type: str, expected_tree: str = ""
) -> None:
    state = (str(json_file), str(image_root), evaluator_type)
    if _registered.get(name) == state:
        return
    if name in _registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    elif name in DatasetCatalog.list():
        raise ConfigError(
            f"A dataset named {name!r} is already registered elsewhere. Choose another name in "
            "DATASETS.COCO_FILES."
        )
    _registered[name] = state
    DatasetCatalog.register(name, lambda: _load(name, expected_tree))
    MetadataCatalog.get(name).set(
        json_file=state[0], image_root=state[1], evaluator_type=evaluator_type
    )


def _load(name: str, expected_tree: str) -> list[dict[str, Any]]:
    """Reads a registered dataset and completes its metadata."""
    json_file, image_root, _ = _registered[name]
    if expected_tree and not Path(json_file).is_file():
        raise DatasetNotFoundError(
            f"Dataset {name!r} needs {json_file}, which does not exist. Set DETECTRON2_DATASETS to "
            f"the folder that holds panda/, which must look like this:\n{expected_tree}"
        )
    dataset = read_coco_json(json_file, image_root)
    num_pyramids = prefer_pyramids(dataset.dicts, image_root)
    logger.info("%s: %d images, %d with a pyramid", name, len(dataset.dicts), num_pyramids)
    MetadataCatalog.get(name).set(
        thing_classes=list(dataset.class_names),
        thing_dataset_id_to_contiguous_id=dict(dataset.class_of_category),
    )
    return dataset.dicts
