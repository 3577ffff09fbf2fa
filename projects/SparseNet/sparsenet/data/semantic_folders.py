"""Semantic segmentation datasets as two folders: images, and label maps of the same names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg
from PIL import Image

from sparsenet.data.image_mapper import IGNORED_LABEL
from sparsenet.data.loaded_dataset import CLASSES_FILE, read_class_names
from sparsenet.errors import ConfigError, DatasetError, DatasetNotFoundError, ImageReadError
from sparsenet.files import write_atomically

# Label maps are lossless, photos mostly are not; the first of these endings that occurs is taken.
_LABEL_SUFFIX = "png"
_IMAGE_SUFFIXES = ("jpg", "jpeg", "png")

SEMANTIC_KEY = "SEM_SEG_FOLDERS"

_registered: dict[str, tuple[str, str, tuple[str, ...]]] = {}


def register_semantic_folders(
    folders: Sequence[Sequence[str]], class_names: Sequence[str] = ()
) -> None:
    """Registers folders as those of ``DATASETS.SEM_SEG_FOLDERS``; may be called again.

    Args:
        folders: ``[name, image folder, label folder]`` each. Labels are PNG files of classes 0 to
            K - 1, and 255 where a pixel counts for nothing.
        class_names: K names; () takes the lines of ``classes.txt`` in, or beside, the label folder.

    Raises:
        ConfigError: If an entry has another form, its name belongs to another dataset, or there are
            no class names.
    """
    for entry in folders:
        if isinstance(entry, str) or len(entry) != 3 or not all(isinstance(e, str) for e in entry):
            raise ConfigError(
                "DATASETS.SEM_SEG_FOLDERS must list [name, image folder, label folder] for each "
                f"dataset, got {entry!r}."
            )
        name, images, labels = entry
        _register(name, images, labels, tuple(class_names))


def _register(name: str, images: str, labels: str, class_names: tuple[str, ...]) -> None:
    source = (images, labels, class_names)
    if name in DatasetCatalog.list():
        if _registered.get(name) == source:
            return
        if name not in _registered:
            raise ConfigError(
                f"A dataset named {name!r} is already registered elsewhere. Choose another name in "
                "DATASETS.SEM_SEG_FOLDERS."
            )
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    names = class_names or read_class_names(Path(labels), Path(labels).parent)
    if not names:
        raise ConfigError(
            f"The classes of {name!r} must have names, there are none. List them in "
            f"DATASETS.CLASS_NAMES or, one a line, in {Path(labels) / CLASSES_FILE}."
        )
    _registered[name] = source
    DatasetCatalog.register(name, lambda: _load(images, labels))
    MetadataCatalog.get(name).set(
        stuff_classes=list(names),
        image_root=images,
        sem_seg_root=labels,
        evaluator_type="sem_seg",
        ignore_label=IGNORED_LABEL,
    )


def _load(images: str, labels: str) -> list[dict[str, Any]]:
    """Detectron2's dataset dicts of all images that have a label map."""
    for folder in (images, labels):
        if not Path(folder).is_dir():
            raise DatasetNotFoundError(
                f"The folder {folder} of DATASETS.SEM_SEG_FOLDERS does not exist. Check the path."
            )
    for suffix in _IMAGE_SUFFIXES:
        if any(Path(images).glob(f"*.{suffix}")) and any(Path(labels).glob(f"*.{_LABEL_SUFFIX}")):
            return load_sem_seg(labels, images, gt_ext=_LABEL_SUFFIX, image_ext=suffix)
    raise DatasetError(
        f"{images} must hold {', '.join(_IMAGE_SUFFIXES)} files and {labels} png files of the same "
        "names, they hold none."
    )


def renumber_labels(source: Path, output: Path) -> None:
    """Writes a label map with all classes less 1, and 255 where ``source`` has 0.

    Raises:
        ImageReadError: If ``source`` is no 8-bit label map.
    """
    try:
        with Image.open(source) as image:
            labels = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageReadError(
            f"{source} must be a label map, reading it failed: {error}. Copy it again."
        ) from error
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise ImageReadError(
            f"{source} must hold one byte per pixel, it holds {labels.dtype} of shape "
            f"{labels.shape}. Copy it again."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    renumbered = Image.fromarray(labels - np.uint8(1))  # 0 becomes 255
    write_atomically(output, lambda path: renumbered.save(path, format="PNG"))
