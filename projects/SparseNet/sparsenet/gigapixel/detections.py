"""Detections of one whole image, as plain numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparsenet.errors import ConfigError

_COLUMNS = ("boxes_xyxy", "scores", "classes", "truncated", "tile_ids")


@dataclass(frozen=True, eq=False)
class Detections:
    """N detected objects of one image.

    Args:
        boxes_xyxy: (N, 4) float32, full-image pixels.
        scores: (N,) float32 in [0, 1].
        classes: (N,) int64, contiguous class indices into ``class_names``.
        truncated: (N,) bool; the box reaches a seam of its tile, so the object may go on beyond it.
        tile_ids: (N,) int64; number of the tile, within the run, that the detection came from.
        image_size: ``(h, w)`` in full-image pixels.
        class_names: Names by class index; may be empty.

    Raises:
        ConfigError: If the lengths or shapes of the arrays differ.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    truncated: np.ndarray
    tile_ids: np.ndarray
    image_size: tuple[int, int]
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        dtypes = (np.float32, np.float32, np.int64, np.bool_, np.int64)
        for name, dtype in zip(_COLUMNS, dtypes):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        num = len(self.scores)
        expected = {name: (num, 4) if name == "boxes_xyxy" else (num,) for name in _COLUMNS}
        came = {name: getattr(self, name).shape for name in _COLUMNS}
        if came != expected:
            raise ConfigError(
                f"Detections need arrays of one length N, boxes as (N, 4); got the shapes {came}."
            )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: np.ndarray | slice) -> Detections:
        """The detections that an index array, a boolean mask or a slice picks, in its order."""
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.size == 0:
                index = index.astype(np.int64)
        return replace(self, **{name: getattr(self, name)[index] for name in _COLUMNS})

    def above(self, threshold: float) -> Detections:
        """The detections with a score of at least ``threshold``."""
        return self[self.scores >= threshold]

    @staticmethod
    def empty(image_size: tuple[int, int], class_names: Sequence[str] = ()) -> Detections:
        """No detections of an image of ``(h, w)`` pixels."""
        return Detections(
            boxes_xyxy=np.zeros((0, 4)),
            scores=np.zeros(0),
            classes=np.zeros(0),
            truncated=np.zeros(0),
            tile_ids=np.zeros(0),
            image_size=image_size,
            class_names=tuple(class_names),
        )

    @staticmethod
    def cat(parts: Sequence[Detections]) -> Detections:
        """All detections of several parts of one image, in order.

        Raises:
            ConfigError: If there is no part, or the parts are of different images or classes.
        """
        if not parts:
            raise ConfigError(
                "Detections.cat needs at least one part; use Detections.empty for none."
            )
        first = parts[0]
        for part in parts:
            if (part.image_size, part.class_names) != (first.image_size, first.class_names):
                raise ConfigError(
                    "Detections.cat joins parts of one image with one list of classes; got "
                    f"{first.image_size}, {first.class_names} and "
                    f"{part.image_size}, {part.class_names}."
                )
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS
        }
        return replace(first, **columns)
