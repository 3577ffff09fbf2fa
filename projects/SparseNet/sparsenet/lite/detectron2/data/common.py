"""Stands in for detectron2.data.common: has DatasetFromList, MapDataset, ToIterableDataset and
AspectRatioGroupedDataset; lacks set_default_dataset_from_list_serialize_method."""

import copy as copy_module
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cloudpickle
import numpy as np
import torch
from detectron2._lacking import package_getattr
from torch.utils import data as torchdata

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "ToIterableDataset"]

logger = logging.getLogger(__name__)

__getattr__ = package_getattr(__name__)


class _Picklable:
    """A function that reaches spawned workers even if it is a lambda or a closure."""

    def __init__(self, function: Callable):
        self._function = function

    def __reduce__(self) -> tuple:
        return _unpickle, (cloudpickle.dumps(self._function),)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


def _unpickle(pickled: bytes) -> _Picklable:
    return _Picklable(pickle.loads(pickled))


class _MapIterableDataset(torchdata.IterableDataset):
    """Applies a function to each element of an iterable dataset; None is left out."""

    def __init__(self, dataset: torchdata.IterableDataset, map_func: Callable):
        self._dataset = dataset
        self._map_func = _Picklable(map_func)

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator:
        return (y for y in map(self._map_func, self._dataset) if y is not None)


class MapDataset(torchdata.Dataset):
    """Applies a function to each element; an iterable dataset gives an iterable dataset.

    Where the function returns None, a map-style dataset tries another index at random and an
    iterable one goes on to its next element.
    """

    def __new__(cls, dataset: Any, map_func: Callable) -> Any:
        if isinstance(dataset, torchdata.IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset: Any, map_func: Callable):
        self._dataset = dataset
        self._map_func = _Picklable(map_func)
        self._rng = random.Random(42)  # Detectron2's seed: the replacement indices are the same
        self._fallback_candidates = set(range(len(dataset)))

    def __getnewargs__(self) -> tuple:
        return self._dataset, self._map_func

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        current, failures = int(idx), 0
        while (item := self._map_func(self._dataset[current])) is None:
            failures += 1
            if failures >= 3:
                logger.warning(f"The mapper returned None {failures} times in place of index {idx}")
            self._fallback_candidates.discard(current)
            current = self._rng.sample(list(self._fallback_candidates), k=1)[0]
        self._fallback_candidates.add(current)
        return item


class _PickledList:
    """A list as one byte tensor, so that forked and spawned workers share its memory."""

    def __init__(self, items: list):
        pickled = [np.frombuffer(pickle.dumps(x, protocol=-1), dtype=np.uint8) for x in items]
        self._ends = torch.from_numpy(np.cumsum([len(x) for x in pickled], dtype=np.int64))
        self._bytes = torch.from_numpy(np.concatenate(pickled))
        logger.info(f"Packed {len(items)} samples into {len(self._bytes) / 2**20:.2f} MiB")

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, idx: int) -> Any:
        begin = self._ends[idx - 1].item() if idx else 0
        return pickle.loads(memoryview(self._bytes[begin : self._ends[idx].item()].numpy()))


class DatasetFromList(torchdata.Dataset):
    """A list as a map-style dataset."""

    def __init__(self, lst: list, copy: bool = True, serialize: bool | Callable = True):
        """Args:
        lst: the samples.
        copy: hand out deep copies (a packed list always does).
        serialize: True packs the list into one byte tensor; a function packs it in its own way.
        """
        if not isinstance(serialize, bool) and not callable(serialize):
            raise TypeError(f"serialize must be a bool or a function, got {serialize!r}")
        self._serialize = serialize is not False
        self._copy = copy and not self._serialize
        pack = serialize if callable(serialize) else _PickledList
        self._lst = pack(lst) if self._serialize else lst

    def __len__(self) -> int:
        return len(self._lst)

    def __getitem__(self, idx: int) -> Any:
        item = self._lst[idx]
        return copy_module.deepcopy(item) if self._copy else item


class ToIterableDataset(torchdata.IterableDataset):
    """A map-style dataset and a sampler as one iterable dataset."""

    def __init__(
        self,
        dataset: torchdata.Dataset,
        sampler: torchdata.Sampler,
        shard_sampler: bool = True,
        shard_chunk_size: int = 1,
    ):
        """Args:
        dataset: map-style.
        sampler: yields indices; it runs in full in every loader worker, so it must be cheap.
        shard_sampler: share the indices out among the loader's workers.
        shard_chunk_size: number of consecutive indices that go to one worker.
        """
        assert not isinstance(dataset, torchdata.IterableDataset), (
            f"dataset must be map-style, got {dataset!r}; an iterable one needs no sampler"
        )
        assert isinstance(sampler, torchdata.Sampler), f"sampler must be a Sampler, got {sampler!r}"
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def _indices(self) -> Iterator[int]:
        worker = torchdata.get_worker_info()
        if not self.shard_sampler or worker is None:
            yield from self.sampler
            return
        for position, index in enumerate(self.sampler):
            if position // self.shard_chunk_size % worker.num_workers == worker.id:
                yield index

    def __iter__(self) -> Iterator:
        return (self.dataset[index] for index in self._indices())

    def __len__(self) -> int:
        return len(self.sampler)


class AspectRatioGroupedDataset(torchdata.IterableDataset):
    """Batches of samples that are all wider than high, or all not; needs less padding."""

    def __init__(self, dataset: Iterable[dict], batch_size: int):
        """Args:
        dataset: yields dicts with "width" and "height".
        batch_size: samples per batch; a batch comes out as soon as its group is full.
        """
        self.dataset = dataset
        self.batch_size = batch_size
        self._buckets: dict[bool, list[dict]] = {True: [], False: []}

    def __iter__(self) -> Iterator[list[dict]]:
        for sample in self.dataset:
            is_wide = sample["width"] > sample["height"]
            self._buckets[is_wide].append(sample)
            if len(self._buckets[is_wide]) == self.batch_size:
                batch, self._buckets[is_wide] = self._buckets[is_wide], []
                yield batch
