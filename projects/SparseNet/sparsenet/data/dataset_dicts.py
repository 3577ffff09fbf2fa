"""Registered datasets by name: loaded for training, and compared with those of the test."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts

from sparsenet.errors import DatasetError, SparseNetError

logger = logging.getLogger(__name__)


def load_training_dicts(names: Sequence[str], *, filter_empty: bool) -> list[dict[str, Any]]:
    """Detectron2's dataset dicts of all datasets together.

    Args:
        names: Registered datasets.
        filter_empty: Leave out images without objects.

    Raises:
        DatasetError: If nothing is left to train on, or the datasets have other classes.
    """
    try:
        return get_detection_dataset_dicts(names, filter_empty=filter_empty)
    except SparseNetError:
        raise
    except (AssertionError, ValueError) as error:
        raise DatasetError(
            "The datasets of DATASETS.TRAIN must have images with objects and the same classes, "
            f"{', '.join(names)} have not: {error}. Check the annotations and "
            "DATASETS.CLASS_NAMES; for background alone set DATALOADER.FILTER_EMPTY_ANNOTATIONS "
            "False."
        ) from error


def require_same_classes(train: Sequence[str], test: Sequence[str]) -> None:
    """Compares the classes of test sets with those of the first training set.

    A class is a number to the model: another list, or another order, would give a wrong AP without
    a word. Datasets that do not know their classes yet are loaded. A training set that cannot be
    loaded, for instance because it lies on another machine, is not compared.

    Args:
        train: Registered datasets, which agree among themselves.
        test: Registered datasets.

    Raises:
        DatasetError: If they differ.
    """
    try:
        expected = _class_names(train[0]) if train and test else ()
    except (SparseNetError, OSError) as error:
        logger.warning("The classes of training and test were not compared: %s", error)
        return
    for name in test if expected else ():
        found = _class_names(name)
        if found and found != expected:
            raise DatasetError(
                "Training and test sets must have the same classes in the same order; "
                f"{train[0]!r} has {_shown(expected)}, {name!r} has {_shown(found)}. Name them all "
                "in DATASETS.CLASS_NAMES or a classes.txt (VOC and YOLO folders), or in "
                "'categories' (COCO files). If the model was trained on other data, name that in "
                "DATASETS.TRAIN."
            )


def _class_names(name: str) -> tuple[str, ...]:
    """Of a dataset, which is loaded if need be; none where it does not tell."""
    metadata = MetadataCatalog.get(name)
    key = "stuff_classes" if metadata.get("evaluator_type") == "sem_seg" else "thing_classes"
    if metadata.get(key) is None:
        DatasetCatalog.get(name)  # reading the files tells
    return tuple(MetadataCatalog.get(name).get(key) or ())


def _shown(names: Sequence[str]) -> str:
    more = " …" if len(names) > 10 else ""
    return f"{len(names)} ({', '.join(names[:10])}{more})"
