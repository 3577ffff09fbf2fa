"""What evaluators that keep one result per image share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from detectron2.utils import comm

from sparsenet.errors import DatasetError

T = TypeVar("T")


def gather_by_image(own: dict[Any, T], *, distributed: bool) -> dict[Any, T] | None:
    """The results of all processes by image id, in the main one; None in the others."""
    if not distributed or comm.get_world_size() == 1:
        return dict(own)
    comm.synchronize()
    parts = comm.gather(own, dst=0)
    if not comm.is_main_process():
        return None
    return {image_id: value for part in parts for image_id, value in part.items()}


def require_known_classes(
    classes: np.ndarray, class_names: Sequence[str], dataset_name: str
) -> None:
    """Refuses predictions of a model with more classes than the dataset.

    Raises:
        DatasetError: If a class (N,) is not below the number of names.
    """
    highest = int(classes.max(initial=0))
    if highest >= len(class_names):
        raise DatasetError(
            f"Predicted classes must be below the {len(class_names)} classes of "
            f"{dataset_name!r}, got {highest}. Check NUM_CLASSES of the model's head."
        )
