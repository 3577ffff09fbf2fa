"""Endless batches of tiles, the same for any number of processes and workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import torch.utils.data
from detectron2.config import CfgNode
from detectron2.utils import comm

from sparsenet.data.dataset_dicts import load_training_dicts
from sparsenet.data.image_record import ImageRecord
from sparsenet.data.mixing import is_augmented
from sparsenet.data.pyramids import PYRAMID_SUFFIXES
from sparsenet.data.recipe_mapper import RecipeTileMapper
from sparsenet.data.tile_mapper import TileMapper
from sparsenet.data.tile_sampler import TileDistribution, TileRequest, TileRequests, TileSampler
from sparsenet.errors import ConfigError, DatasetError, ImageReadError

logger = logging.getLogger(__name__)

MAX_FAILED_SHARE = 0.1
# A larger image that stores rows has to be decoded whole before its first tile.
MAX_UNTILED_PIXELS = 50_000_000
# With at most a tenth of the files broken, 30 broken draws in a row do not happen by chance.
MAX_ATTEMPTS = 30


class TileDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Requests mapped to examples; unreadable files are passed over, up to a tenth of them.

    Args:
        requests: Source of tile requests.
        mapper: Makes an example of a request.
    """

    def __init__(
        self, requests: TileRequests, mapper: Callable[[TileRequest], dict[str, Any]]
    ) -> None:
        self.requests = requests
        self.mapper = mapper
        self._num_files = len({record.file_name for record in requests.records})
        self._failed: dict[str, str] = {}

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Example ``index``; the same in every process, whatever files are broken.

        Raises:
            DatasetError: If more than a tenth of the files have turned out to be unreadable.
        """
        for attempt in range(MAX_ATTEMPTS):
            request = self.requests.draw(index, attempt)
            # A file that failed before is tried again: a truncated one can be read in part, and
            # what another worker has met must not change this example.
            try:
                return self.mapper(request)
            except ImageReadError as error:
                self._note_failure(error.path or request.record.file_name, error)
        raise self._too_many_failures()

    def _note_failure(self, path: str, error: ImageReadError) -> None:
        if path in self._failed:
            return
        self._failed[path] = str(error)
        logger.warning(
            "Skipping unreadable image %s (%d of %d files so far): %s",
            path,
            len(self._failed),
            self._num_files,
            error,
        )
        if len(self._failed) > MAX_FAILED_SHARE * self._num_files:
            raise self._too_many_failures() from error

    def _too_many_failures(self) -> DatasetError:
        listing = "\n  ".join(self._failed.values())
        return DatasetError(
            f"At most {MAX_FAILED_SHARE:.0%} of the {self._num_files} image files may be "
            f"unreadable, {len(self._failed)} were:\n  {listing}\nRepair or remove them."
        )


class TileLoader:
    """Endless batches of examples; iterate once.

    Args:
        dataset: Examples by number.
        sampler: Numbers of this process.
        batch_size: Examples per batch of this process.
        num_workers: Worker processes; 0 reads in this one. The batches are the same for any number.
    """

    def __init__(
        self, dataset: TileDataset, sampler: TileSampler, batch_size: int, *, num_workers: int = 0
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.batch_size = batch_size
        self.num_workers = num_workers

    def skip(self, num_batches: int) -> None:
        """Starts after this many batches, for resumed training; call before iterating."""
        self.sampler.start = num_batches * self.batch_size

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        batches = torch.utils.data.BatchSampler(self.sampler, self.batch_size, drop_last=True)
        return iter(
            torch.utils.data.DataLoader(
                self.dataset,
                batch_sampler=batches,
                num_workers=self.num_workers,
                collate_fn=_as_list,
                worker_init_fn=_limit_threads,
            )
        )


def build_tile_train_loader(cfg: CfgNode) -> TileLoader:
    """Batches of random tiles of ``DATASETS.TRAIN`` for this process.

    ``SOLVER.IMS_PER_BATCH`` examples per step are shared out over the processes. The tiles depend
    on ``SEED`` and the step only; a negative seed is replaced by one drawn for all processes.

    Raises:
        ConfigError: If the batch cannot be shared out evenly.
        DatasetError: If there is nothing to train on.
    """
    world_size = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH < world_size or cfg.SOLVER.IMS_PER_BATCH % world_size:
        raise ConfigError(
            "SOLVER.IMS_PER_BATCH must be a multiple of the number of processes, got "
            f"{cfg.SOLVER.IMS_PER_BATCH} and {world_size}."
        )
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    dicts = load_training_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
    node = cfg.INPUT.TILE
    distribution = TileDistribution(
        size=node.SIZE,
        object_size_range=tuple(node.OBJECT_SIZE_RANGE),
        empty_share=node.EMPTY_SHARE,
        scale_jitter=node.SCALE_JITTER,
    )
    requests = TileRequests(dicts, distribution, seed=seed)
    _warn_of_slow_files(requests.records)
    mapper = TileMapper(cfg, seed=seed)
    return TileLoader(
        TileDataset(
            requests, RecipeTileMapper(cfg, mapper, requests) if is_augmented(cfg) else mapper
        ),
        TileSampler(comm.get_rank(), world_size),
        cfg.SOLVER.IMS_PER_BATCH // world_size,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def _warn_of_slow_files(records: Sequence[ImageRecord]) -> None:
    slow = [
        record.file_name
        for record in records
        if record.image_size[0] * record.image_size[1] > MAX_UNTILED_PIXELS
        and not record.file_name.lower().endswith(PYRAMID_SUFFIXES)
    ]
    if slow and comm.is_main_process():
        logger.warning(
            "%d large images, such as %s, are not tiled TIFF pyramids: every worker decodes each "
            "of them whole. Training is faster on pyramids (datasets/README.md).",
            len(slow),
            slow[0],
        )


def _as_list(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return examples


def _limit_threads(worker_id: int) -> None:
    """Workers are the parallelism; a thread pool in each would only fight over the cores."""
    cv2.setNumThreads(0)
