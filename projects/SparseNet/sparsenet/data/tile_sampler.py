"""Which tile a training step sees: requests drawn over all images, and the sampler that deals them.

Request ``i`` is a function of ``(seed, i)`` alone. It does not matter which process or worker asks
for it, in which order, or whether training was interrupted: the tiles are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.utils.data

from sparsenet.data.image_record import ImageRecord
from sparsenet.errors import ConfigError, DatasetError
from sparsenet.tiling.window import Window

# Upsampling beyond 2x only blurs: an object of half the smallest wanted size is taken as it is.
MIN_DOWNSAMPLE = 0.5
# Draws of an empty tile before an object tile is taken instead (crowded scenes have few gaps).
EMPTY_ATTEMPTS = 16
# Attempts from here on, and from each multiple, are partners of a request.
PARTNER_ATTEMPTS = 1000


@dataclass(frozen=True)
class TileDistribution:
    """How tiles are drawn.

    Args:
        size: Side of a tile, tile pixels.
        object_size_range: Longer side, tile pixels, that the drawn object gets; log-uniform.
        empty_share: Share of tiles without objects.
        scale_jitter: The downsample is multiplied by a factor in ``[1 / (1 + s), 1 + s]``.

    Raises:
        ConfigError: If a value cannot work; the message names the configuration key.
    """

    size: int
    object_size_range: tuple[float, float]
    empty_share: float
    scale_jitter: float

    def __post_init__(self) -> None:
        low, high = self.object_size_range
        if self.size < 1 or not 0 < low <= high:
            raise ConfigError(
                "INPUT.TILE.SIZE must be at least 1 and OBJECT_SIZE_RANGE two positive rising "
                f"numbers of tile pixels, got {self.size} and {self.object_size_range}."
            )
        if not 0 <= self.empty_share <= 1 or self.scale_jitter < 0:
            raise ConfigError(
                "INPUT.TILE.EMPTY_SHARE must be in [0, 1] and SCALE_JITTER at least 0, got "
                f"{self.empty_share} and {self.scale_jitter}."
            )


@dataclass(frozen=True)
class TileRequest:
    """One tile to read.

    Args:
        index: The request's number; with ``attempt`` it seeds the augmentation.
        attempt: 0, or higher where earlier draws hit an unreadable file.
        record: The image.
        window: Full-image pixels, inside the image. A side shorter than
            ``size * downsample`` means that the tile is padded.
        downsample: Full-image pixels per tile pixel.
    """

    index: int
    attempt: int
    record: ImageRecord
    window: Window
    downsample: float


class TileRequests(torch.utils.data.Dataset[TileRequest]):
    """Endless map-style sequence of tile requests.

    Args:
        dataset_dicts: Detectron2's dataset dicts.
        distribution: How tiles are drawn.
        seed: At least 0.

    Raises:
        DatasetError: If there are no images, or no objects while object tiles are asked for.
    """

    def __init__(
        self, dataset_dicts: Sequence[dict[str, Any]], distribution: TileDistribution, *, seed: int
    ) -> None:
        self.records = [ImageRecord.from_dict(item) for item in dataset_dicts]
        self.distribution = distribution
        self.seed = seed
        self._object_ids = [np.flatnonzero(~record.is_ignore) for record in self.records]
        counts = np.array([len(ids) for ids in self._object_ids], dtype=np.float64)
        if not self.records or (counts.sum() == 0 and distribution.empty_share < 1):
            raise DatasetError(
                f"Tile training needs images with objects, got {len(self.records)} images with "
                f"{int(counts.sum())} objects. Check the annotation file, or set "
                "INPUT.TILE.EMPTY_SHARE 1 for background alone."
            )
        # The square root keeps a crowd of thousands from drowning the sparse scenes.
        self._image_chances = _cumulative(np.sqrt(counts)) if counts.sum() else None
        self._object_chances = [
            _cumulative(_object_weights(record, ids)) if len(ids) else None
            for record, ids in zip(self.records, self._object_ids)
        ]

    def __getitem__(self, index: int) -> TileRequest:
        return self.draw(index)

    def draw(self, index: int, attempt: int = 0) -> TileRequest:
        """Request ``index``, or a replacement for it where ``attempt`` is above 0."""
        rng = np.random.default_rng((self.seed, index, attempt))
        found = None
        if rng.random() < self.distribution.empty_share:
            found = self._draw_empty(rng)
        if found is None:
            found = self._draw_object(rng)
        return TileRequest(index, attempt, *found)

    def partner(self, request: TileRequest, number: int) -> TileRequest:
        """Another tile for a mosaic with the tile of a request; ``number`` is 0 or higher."""
        return self.draw(request.index, request.attempt + PARTNER_ATTEMPTS * (number + 1))

    def _draw_object(self, rng: np.random.Generator) -> tuple[ImageRecord, Window, float]:
        """A tile that contains one drawn object, or lies inside it where it is larger."""
        record, box = self._pick_object(rng)
        side, downsample = self._draw_side(rng, record, box)
        height, width = record.image_size
        x = _draw_start(rng, box[0], box[2], side, width)
        y = _draw_start(rng, box[1], box[3], side, height)
        return record, Window(x, y, side, side).clip(record.image_size), downsample

    def _draw_empty(self, rng: np.random.Generator) -> tuple[ImageRecord, Window, float] | None:
        """A tile that no annotation touches, at a downsample drawn as for objects."""
        for _ in range(EMPTY_ATTEMPTS):
            record = self.records[int(rng.integers(len(self.records)))]
            side, downsample = self._draw_empty_side(rng, record)
            height, width = record.image_size
            x = int(rng.integers(max(width - side, 0) + 1))
            y = int(rng.integers(max(height - side, 0) + 1))
            window = Window(x, y, side, side).clip(record.image_size)
            if not _touches_any(record.boxes_xyxy, window):
                return record, window, downsample
        return None if self._image_chances is not None else (record, window, downsample)

    def _draw_empty_side(self, rng: np.random.Generator, record: ImageRecord) -> tuple[int, float]:
        if self._image_chances is None:
            return self._to_side(1.0, record)
        _, box = self._pick_object(rng)
        return self._draw_side(rng, record, box)

    def _pick_object(self, rng: np.random.Generator) -> tuple[ImageRecord, np.ndarray]:
        image = _pick(rng, self._image_chances)
        chosen = self._object_ids[image][_pick(rng, self._object_chances[image])]
        return self.records[image], self.records[image].boxes_xyxy[chosen].astype(np.float64)

    def _draw_side(
        self, rng: np.random.Generator, record: ImageRecord, box: np.ndarray
    ) -> tuple[int, float]:
        """Side of the window, full-image pixels, and the downsample, for an object's box."""
        low, high = self.distribution.object_size_range
        length = max(box[2] - box[0], box[3] - box[1])
        # A downsample below 1 adds no detail: small objects keep their size where it is in range.
        high = max(low, min(high, length))
        target = math.exp(rng.uniform(math.log(low), math.log(high)))
        jitter = math.log1p(self.distribution.scale_jitter)
        return self._to_side(length / target * math.exp(rng.uniform(-jitter, jitter)), record)

    def _to_side(self, downsample: float, record: ImageRecord) -> tuple[int, float]:
        """Whole pixels; at most the image's longer side, so that a tile is not mostly padding."""
        size = self.distribution.size
        largest = max(record.image_size) / size
        downsample = max(min(downsample, largest), MIN_DOWNSAMPLE)
        side = max(1, round(size * downsample))
        return side, side / size


class TileSampler(torch.utils.data.Sampler[int]):
    """Endless request numbers of one process: rank, rank + world, rank + 2 world …

    Args:
        rank: This process.
        world_size: Number of processes.
        start: Requests that this process has already had, for resumed training. May be set until
            iteration begins.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, start: int = 0) -> None:
        if not 0 <= rank < world_size or start < 0:
            raise ConfigError(
                f"A sampler needs 0 <= rank < world_size and start >= 0, got rank {rank}, "
                f"world_size {world_size}, start {start}."
            )
        self.rank = rank
        self.world_size = world_size
        self.start = start

    def __iter__(self) -> Iterator[int]:
        number = self.start
        while True:
            yield self.rank + number * self.world_size
            number += 1


def _object_weights(record: ImageRecord, object_ids: np.ndarray) -> np.ndarray:
    """One over the root of a group's number: rare classes and sizes are drawn more often."""
    boxes = record.boxes_xyxy[object_ids]
    sides = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    octaves = np.floor(np.log2(np.maximum(sides, 1.0))).astype(np.int64)
    groups = record.classes[object_ids] * 64 + octaves  # an image side has fewer than 64 octaves
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return 1.0 / np.sqrt(counts[inverse])


def _cumulative(weights: np.ndarray) -> np.ndarray:
    total = np.cumsum(weights)
    return total / total[-1]


def _pick(rng: np.random.Generator, cumulative: np.ndarray | None) -> int:
    """An index drawn with the chances whose running sum is given."""
    assert cumulative is not None, "objects are drawn only where there are some"
    return int(np.searchsorted(cumulative, rng.random(), side="right"))


def _draw_start(rng: np.random.Generator, first: float, last: float, side: int, length: int) -> int:
    """Start of a window of ``side`` pixels that contains ``[first, last)`` or lies inside it."""
    bounds = sorted((math.ceil(last) - side, math.floor(first)))
    start = int(rng.integers(bounds[0], bounds[1] + 1))
    return min(max(start, 0), max(length - side, 0))


def _touches_any(boxes_xyxy: np.ndarray, window: Window) -> bool:
    x, y, x2, y2 = window.xyxy
    inside = (boxes_xyxy[:, 0] < x2) & (boxes_xyxy[:, 2] > x)
    inside &= (boxes_xyxy[:, 1] < y2) & (boxes_xyxy[:, 3] > y)
    return bool(inside.any())
