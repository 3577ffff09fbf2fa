"""Detections of one whole image, as plain numpy arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsenet.errors import ConfigError
from sparsenet.gigapixel.masks import mask_windows

if TYPE_CHECKING:  # what writes detections imports this module
    from sparsenet.tiling.level_reader import ImageReader

_DTYPES = {
    "boxes_xyxy": np.float32,
    "scores": np.float32,
    "classes": np.int64,
    "truncated": np.bool_,
    "tile_ids": np.int64,
    "downsamples": np.int64,
}


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
        downsamples: (N,) int64; the downsample of the grid that each box was found at. None puts 1.
        masks: (N,) COCO run lengths, or None where there are no masks. Each is a dict of ``size``
            and ``counts`` as ``pycocotools.mask.encode`` makes them, of the window that
            :func:`mask_windows` gives for its box, in full-image pixels.

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
    downsamples: np.ndarray = None  # type: ignore[assignment]  # an array from __post_init__ on
    masks: np.ndarray | None = None

    def __post_init__(self) -> None:
        num = len(self.scores)
        if self.downsamples is None:
            object.__setattr__(self, "downsamples", np.ones(num))
        for name, dtype in _DTYPES.items():
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        if self.masks is not None:
            object.__setattr__(self, "masks", _object_array(self.masks))
        expected = {name: (num, 4) if name == "boxes_xyxy" else (num,) for name in self._columns}
        came = {name: getattr(self, name).shape for name in self._columns}
        if came != expected:
            raise ConfigError(
                f"Detections need arrays of one length N, boxes as (N, 4); got the shapes {came}."
            )

    @property
    def _columns(self) -> tuple[str, ...]:
        return (*_DTYPES, "masks") if self.masks is not None else tuple(_DTYPES)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: np.ndarray | slice) -> Detections:
        """The detections that an index array, a boolean mask or a slice picks, in its order."""
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.size == 0:
                index = index.astype(np.int64)
        return replace(self, **{name: getattr(self, name)[index] for name in self._columns})

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

        Parts without detections may lack masks where the others have some.

        Raises:
            ConfigError: If there is no part, or the parts are of different images or classes, or
                some have masks and others none.
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
        filled = [part for part in parts if len(part)] or [first]
        if len({part.masks is None for part in filled}) > 1:
            raise ConfigError(
                "Detections.cat joins parts that all have masks or all have none; got both. "
                "Take the masks away with dataclasses.replace(part, masks=None)."
            )
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in filled])
            for name in filled[0]._columns
        }
        return replace(filled[0], **columns)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All columns as arrays that ``numpy.savez`` stores without pickling.

        Image size and class names are not among them: whoever stores parts of one image knows both.
        """
        arrays = {name: getattr(self, name) for name in _DTYPES}
        if self.masks is not None:
            arrays["mask_counts"] = np.array(
                [mask["counts"] for mask in self.masks], dtype=np.bytes_
            )
        return arrays

    @staticmethod
    def from_arrays(
        arrays: Mapping[str, np.ndarray],
        image_size: tuple[int, int],
        class_names: Sequence[str] = (),
    ) -> Detections:
        """What :meth:`to_arrays` made, or ``numpy.load`` of it."""
        columns = {name: arrays[name] for name in _DTYPES}
        masks = None
        if "mask_counts" in arrays:
            windows = mask_windows(columns["boxes_xyxy"]).tolist()
            masks = _object_array(
                [
                    {"size": [y2 - y1, x2 - x1], "counts": counts}
                    for (x1, y1, x2, y2), counts in zip(windows, arrays["mask_counts"].tolist())
                ]
            )
        return Detections(
            **columns, image_size=image_size, class_names=tuple(class_names), masks=masks
        )

    def to_coco(
        self,
        image_id: int | str = 0,
        category_ids: Sequence[int] | Mapping[int, int] | None = None,
    ) -> list[dict[str, Any]]:
        """COCO results, see :func:`sparsenet.gigapixel.exports.to_coco`."""
        from sparsenet.gigapixel.exports import to_coco

        return to_coco(self, image_id, category_ids)

    def to_geojson(self, **options: Any) -> dict[str, Any]:
        """GeoJSON, see :func:`sparsenet.gigapixel.exports.to_geojson`."""
        from sparsenet.gigapixel.exports import to_geojson

        return to_geojson(self, **options)

    def to_supervision(self) -> Any:
        """A ``supervision.Detections``, see :func:`sparsenet.gigapixel.adapters.to_supervision`."""
        from sparsenet.gigapixel.adapters import to_supervision

        return to_supervision(self)

    def save_viewer(
        self,
        image: str | os.PathLike[str] | np.ndarray | ImageReader,
        folder: str | os.PathLike[str],
        **options: Any,
    ) -> Path:
        """The deep-zoom page, see :func:`sparsenet.gigapixel.viewer.save_viewer`."""
        from sparsenet.gigapixel.viewer import save_viewer

        return save_viewer(self, image, folder, **options)


def _object_array(items: Sequence[Any] | np.ndarray) -> np.ndarray:
    """(N,) object; ``numpy.asarray`` would look into the items."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
