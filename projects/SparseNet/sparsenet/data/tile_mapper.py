"""From a tile request to a training example, read straight from the image pyramid."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode, configurable

from sparsenet.data.augmentation import flip_boxes, jitter_color
from sparsenet.data.sample import Sample
from sparsenet.data.tile_sampler import TileRequest
from sparsenet.errors import ConfigError, ImageReadError
from sparsenet.tiling.annotations import clip_boxes, visible_share
from sparsenet.tiling.level_reader import ImageReader, output_size
from sparsenet.tiling.reader import open_image
from sparsenet.tiling.window import boxes_to_tile

# An object longer than this many tile sides cannot be boxed from what the tile shows of it.
MAX_OBJECT_SIDES = 1.6
MAX_OPEN_READERS = 16


class TileMapper:
    """Reads a tile and makes the model's input of it.

    Args:
        size: Side of the tile, tile pixels.
        image_format: ``"RGB"`` or ``"BGR"``.
        min_visible: Objects whose visible share is below become ignore boxes.
        min_size: Objects whose visible part has a longer side below, tile pixels, become ignore
            boxes.
        color_jitter: Strength of :func:`sparsenet.data.augmentation.jitter_color`.
        flip: Probability of a horizontal flip.
        pad_value: Three grey levels, in ``image_format`` order, beyond the image's border.
        seed: Of the augmentation.

    Raises:
        ConfigError: If the image format is another.
    """

    @configurable
    def __init__(
        self,
        *,
        size: int,
        image_format: str = "RGB",
        min_visible: float = 0.4,
        min_size: float = 4.0,
        color_jitter: float = 0.2,
        flip: float = 0.5,
        pad_value: tuple[float, ...] = (0.0, 0.0, 0.0),
        seed: int = 0,
    ) -> None:
        if image_format not in ("RGB", "BGR"):
            raise ConfigError(
                f"INPUT.FORMAT must be RGB or BGR for training on tiles, got {image_format!r}."
            )
        self.size = size
        self.image_format = image_format
        self.min_visible = min_visible
        self.min_size = min_size
        self.color_jitter = color_jitter
        self.flip = flip
        self.pad_value = np.clip(np.round(pad_value), 0, 255).astype(np.uint8)
        self.seed = seed
        self._readers = ReaderCache()

    @classmethod
    def from_config(cls, cfg: CfgNode, *, seed: int = 0) -> dict[str, Any]:
        """Arguments from ``INPUT.TILE``, ``INPUT.FORMAT`` and ``MODEL.PIXEL_MEAN``."""
        node = cfg.INPUT.TILE
        return {
            "size": node.SIZE,
            "image_format": cfg.INPUT.FORMAT,
            "min_visible": node.MIN_VISIBLE,
            "min_size": node.MIN_SIZE,
            "color_jitter": node.COLOR_JITTER,
            "flip": node.FLIP,
            "pad_value": tuple(cfg.MODEL.PIXEL_MEAN),
            "seed": seed,
        }

    def __call__(self, request: TileRequest) -> dict[str, Any]:
        """Builds one training example.

        Returns:
            ``image`` uint8 (C, size, size) in ``image_format`` order; ``instances`` with
            ``gt_boxes`` and ``gt_classes``, and ``ignore_boxes``, in tile pixels; ``height`` and
            ``width`` of the tile; ``file_name``, ``image_id`` and ``window`` (x, y, width, height
            in full-image pixels).

        Raises:
            ImageReadError: If the image cannot be read.
        """
        return self.to_example(self.read_sample(request), request)

    def generator(self, request: TileRequest, *, purpose: int) -> np.random.Generator:
        """Source of what is drawn for a request; other purposes have other draws.

        The draws that choose the tile have no fourth number.
        """
        return np.random.default_rng((self.seed, request.index, request.attempt, purpose))

    def read_sample(self, request: TileRequest) -> Sample:
        """The tile with its colours jittered and, by chance, mirrored; coordinates in tile pixels.

        Raises:
            ImageReadError: If the image cannot be read.
        """
        rng = self.generator(request, purpose=1)
        try:
            pixels = self._read(request)
        except ImageReadError as error:
            error.path = request.record.file_name  # of a partner, perhaps, in a mosaic
            raise
        image = jitter_color(pixels, self.color_jitter, rng)
        boxes, classes, is_ignore = self._annotations(request)
        image = self._pad(image if self.image_format == "RGB" else image[:, :, ::-1])
        if rng.random() < self.flip:
            image, boxes = image[:, ::-1], flip_boxes(boxes, self.size)
        return Sample(
            image=np.ascontiguousarray(image),
            boxes_xyxy=boxes,
            classes=classes,
            is_ignore=is_ignore,
            visible=np.ones(len(boxes), dtype=np.float32),
        )

    def to_example(self, sample: Sample, request: TileRequest) -> dict[str, Any]:
        """The model's input of a sample of the tile's size."""
        window = request.window
        return {
            **sample.to_example(),
            "height": self.size,
            "width": self.size,
            "file_name": request.record.file_name,
            "image_id": request.record.image_id,
            "window": (window.x, window.y, window.width, window.height),
        }

    def _read(self, request: TileRequest) -> np.ndarray:
        """(h, w, 3) uint8 RGB, at most ``size`` per side: the part of the tile inside the image."""
        reader = self._readers.get(request.record.file_name)
        height, width = request.record.image_size
        if tuple(reader.size) != (height, width):
            raise ImageReadError(
                f"{request.record.file_name} must have the {width} × {height} pixels that its "
                f"annotations state, it has {reader.size[1]} × {reader.size[0]}. Annotate the "
                "image at full resolution, after EXIF rotation."
            )
        pixels = reader.read(request.window, request.downsample)
        height, width = output_size(request.window, request.downsample)
        wanted = (min(self.size, height), min(self.size, width))
        if pixels.shape[:2] != wanted:
            pixels = cv2.resize(pixels, wanted[::-1], interpolation=cv2.INTER_AREA)
        return pixels

    def _annotations(self, request: TileRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (N, 4) in tile pixels, clipped, classes (N,), and which (N,) are ignore boxes."""
        record, window, downsample = request.record, request.window, request.downsample
        share = visible_share(record.boxes_xyxy, window)
        seen = np.flatnonzero(share > 0)
        whole = record.boxes_xyxy[seen]
        clipped = boxes_to_tile(clip_boxes(whole, window), window, downsample).astype(np.float32)
        is_ignore = record.is_ignore[seen] | (share[seen] < self.min_visible)
        is_ignore |= _longer_side(clipped) < self.min_size
        is_ignore |= _longer_side(whole) / downsample > MAX_OBJECT_SIDES * self.size
        return clipped, record.classes[seen], is_ignore

    def _pad(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        if (height, width) == (self.size, self.size):
            return image
        canvas = np.empty((self.size, self.size, 3), dtype=np.uint8)
        canvas[:] = self.pad_value
        canvas[:height, :width] = image
        return canvas


class ReaderCache:
    """Open readers, the least recently used dropped first; readers survive a fork.

    Args:
        max_open: Files held open.
    """

    def __init__(self, max_open: int = MAX_OPEN_READERS) -> None:
        self._max_open = max_open
        self._readers: OrderedDict[str, ImageReader] = OrderedDict()

    def get(self, path: str) -> ImageReader:
        """The open reader of a file.

        Raises:
            ImageReadError: If the file cannot be opened.
        """
        if path not in self._readers:
            self._readers[path] = open_image(path)
            if len(self._readers) > self._max_open:
                self._readers.popitem(last=False)
        self._readers.move_to_end(path)
        return self._readers[path]


def _longer_side(boxes_xyxy: np.ndarray) -> np.ndarray:
    return (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).max(axis=1, initial=0.0)
