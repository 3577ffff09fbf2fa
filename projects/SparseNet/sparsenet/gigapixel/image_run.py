"""The tiles of one image through the model: select, stream, batch, detect, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from detectron2.utils import comm

from sparsenet.gigapixel.area_mask import read_area_mask
from sparsenet.gigapixel.evidence import Evidence, ObjectnessTap
from sparsenet.gigapixel.merge import check_masks
from sparsenet.gigapixel.options import TileOptions
from sparsenet.gigapixel.patient_gather import all_gather
from sparsenet.gigapixel.prefetch import Prefetcher
from sparsenet.gigapixel.progress import ProgressTracker
from sparsenet.gigapixel.row_shares import Rows, exchange_rows, own_rows, rows_to_run
from sparsenet.gigapixel.selection import LevelSelection
from sparsenet.gigapixel.selector import select_tiles, selection_stages
from sparsenet.gigapixel.tile_batch import (
    TileBatch,
    number_tiles,
    pack_tiles,
    tile_detections,
    to_numpy,
)
from sparsenet.gigapixel.tile_rows import RowCollector, RowStore, TileRow
from sparsenet.gigapixel.tile_runner import TileRunner
from sparsenet.tiling import ImageReader, Tile, TileGrid, stream_tiles


@dataclass(eq=False)
class TileModel:
    """A model and what it wants its tiles to look like.

    Args:
        runner: The model.
        image_format: Channel order, "RGB" or "BGR".
        pad_value: Three grey levels in that order, for what lies beyond the image border.
        expects_objects: Whether its outputs are to decide on finer tiles.
    """

    runner: TileRunner
    image_format: str
    pad_value: Sequence[float]
    expects_objects: bool

    def __post_init__(self) -> None:
        self._tap = ObjectnessTap.of_model(self.runner.model) if self.expects_objects else None

    def listen(self) -> AbstractContextManager[None]:
        """While it lasts, calls of the model leave their evidence."""
        return self._tap or nullcontext()

    def evidence(self, index: int, instances: Any, tile: Tile, options: TileOptions) -> Evidence:
        """What the last call of the model says of its image ``index``, which showed ``tile``."""
        if not self.expects_objects:
            return Evidence.empty()
        boxes, scores = to_numpy(instances.pred_boxes.tensor), to_numpy(instances.scores)
        seen = Evidence.from_boxes(boxes, scores, tile, options)
        if self._tap is None:
            return seen
        return Evidence.cat([seen, self._tap.evidence(index, tile, options)])


class ImageRun:
    """The tiles of one image through the model.

    Args:
        reader: The image.
        model: The model.
        options: Of tiles and selection.
        tracker: Told of every step.
        store: Keeps finished rows; None keeps nothing.
        shares_rows: Whether all processes of ``torch.distributed`` run this image together.

    Attributes:
        grids: The coarsest first.
        levels: Which tiles ran.
        rows: What was found in them.
        seconds: ``decode`` and ``detect``.
    """

    def __init__(
        self,
        reader: ImageReader,
        model: TileModel,
        options: TileOptions,
        tracker: ProgressTracker,
        *,
        store: RowStore | None = None,
        shares_rows: bool = False,
    ) -> None:
        self.reader = reader
        self.grids = options.grids(reader.size)
        self.levels: list[LevelSelection] = []
        self.rows: list[TileRow] = []
        self.seconds: dict[str, float] = {"decode": 0.0, "detect": 0.0}
        self._model = model
        self._options = options
        self._tracker = tracker
        self._store = store
        self._shares_rows = shares_rows
        self._number = number_tiles(self.grids)

    def detect(self) -> None:
        """Runs stage by stage; what a stage finds decides on the tiles of the next."""
        mask_file = self._options.select.mask
        mask = read_area_mask(mask_file, self.reader.size) if mask_file else None
        for stage in selection_stages(self.grids, self._options):
            evidence = Evidence.cat([row.evidence for row in self.rows])
            levels = [
                select_tiles(grid, self.levels, evidence, self._options, mask) for grid in stage
            ]
            self.levels += levels
            self.rows += self._run_stage(levels)
        if self._shares_rows:
            every = all_gather(self.seconds)
            self.seconds = {name: max(s[name] for s in every) for name in every[0]}

    def _run_stage(self, levels: Sequence[LevelSelection]) -> list[TileRow]:
        """The rows of one pass over the image, by all processes that share it."""
        wanted = rows_to_run(levels)
        is_main = not self._shares_rows or comm.is_main_process()
        # One process looks what an earlier run has finished, before any keeps more: the shares of
        # what is missing must fit together, and be equal.
        loaded = self._load_rows(wanted) if is_main else []
        finished = self._exchange(lambda: loaded)
        keys = {row.key for row in finished}
        missing = {key: columns for key, columns in wanted.items() if key not in keys}
        if self._shares_rows:
            missing = own_rows(missing, comm.get_rank(), comm.get_world_size())
        num_resumed = sum(len(row.columns) for row in loaded)
        self._tracker.select(
            num_resumed + sum(map(len, missing.values())),
            num_resumed,
            {str(level.grid.downsample): level.counts() for level in levels},
        )
        grids = [level.grid for level in levels]
        found = finished + self._exchange(lambda: list(self._detect_rows(grids, missing)))
        return sorted(found, key=lambda row: (-row.downsample, row.row))

    def _exchange(self, compute: Callable[[], list[TileRow]]) -> list[TileRow]:
        """The rows of all processes that share the image."""
        return exchange_rows(compute) if self._shares_rows else compute()

    def _load_rows(self, wanted: Rows) -> list[TileRow]:
        if self._store is None:
            return []
        loaded = (self._store.load(key, c, self.reader.size) for key, c in wanted.items())
        return [row for row in loaded if row is not None]

    def _detect_rows(self, grids: Sequence[TileGrid], missing: Rows) -> Iterator[TileRow]:
        if not missing:
            return
        collector = RowCollector(missing, self.reader.size)
        tiles = stream_tiles(
            self.reader,
            grids,
            wanted=lambda tile: tile.column in missing.get((tile.downsample, tile.row), ()),
        )
        packed = pack_tiles(
            tiles,
            batch_size=self._options.batch_size,
            size=self._options.size,
            image_format=self._model.image_format,
            pad_value=self._model.pad_value,
        )
        listening = self._model.listen() if self._has_finer(grids[-1]) else nullcontext()
        with listening, Prefetcher(packed) as batches:
            for batch in batches:
                yield from self._detect_batch(batch, collector)
        self.seconds["decode"] += batches.busy_seconds

    def _has_finer(self, place: TileGrid | Tile) -> bool:
        """Whether what is found there may decide on tiles of a finer downsample."""
        return place.downsample > self.grids[-1].downsample

    def _detect_batch(self, batch: TileBatch, collector: RowCollector) -> Iterator[TileRow]:
        """Runs a batch; yields the rows that it completes, after keeping them."""
        before = time.perf_counter()
        done: list[TileRow] = []
        for part, outputs in self._model.runner(batch):
            for index, tile in enumerate(part.tiles):
                instances = outputs[index]["instances"]
                evidence = Evidence.empty()
                if self._has_finer(tile):
                    evidence = self._model.evidence(index, instances, tile, self._options)
                detections = tile_detections(
                    instances,
                    tile,
                    self._number(tile),
                    self._options,
                    image_size=self.reader.size,
                )
                check_masks(detections, self._options.merge)  # rather than after the last tile
                row = collector.add(tile, detections, evidence)
                done += [row] if row is not None else []
        self.seconds["detect"] += time.perf_counter() - before
        for row in done:
            if self._store is not None:
                self._store.save(row)
            yield row
        self._tracker.add(len(batch.tiles), batch.pixels.shape[-1] ** 2 * len(batch.tiles))
