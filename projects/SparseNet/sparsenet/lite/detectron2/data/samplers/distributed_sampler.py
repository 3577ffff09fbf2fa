"""Stands in for detectron2.data.samplers.distributed_sampler: has TrainingSampler,
RepeatFactorTrainingSampler and InferenceSampler; lacks RandomSubsetTrainingSampler."""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator

import torch
from detectron2.utils import comm
from torch.utils.data.sampler import Sampler

logger = logging.getLogger(__name__)


class _RankStridedSampler(Sampler):
    """One infinite stream that all processes draw alike; rank r of n takes every n-th from r on."""

    def __init__(self, shuffle: bool, seed: int | None):
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        """Returns the unshuffled indices of the next pass over the dataset."""
        raise NotImplementedError

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        while True:
            indices = self._epoch(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)


class TrainingSampler(_RankStridedSampler):
    """Endless passes over the dataset, each in a new order."""

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None):
        """Args:
        size: number of samples in the dataset.
        shuffle: a new permutation each pass, or file order.
        seed: the same in all processes; None draws one and shares it.
        """
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler: size must be an int, got {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"TrainingSampler: size must be at least 1, got {size}")
        super().__init__(shuffle, seed)
        self._size = size

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return torch.arange(self._size)


class RepeatFactorTrainingSampler(_RankStridedSampler):
    """Endless passes in which sample i appears `repeat_factors[i]` times on average."""

    def __init__(
        self, repeat_factors: torch.Tensor, *, shuffle: bool = True, seed: int | None = None
    ):
        """Args:
        repeat_factors: (num_samples,) float; the fraction is rounded at random in each pass.
        shuffle: a new permutation each pass, or file order.
        seed: the same in all processes; None draws one and shares it.
        """
        super().__init__(shuffle, seed)
        self._int_part = torch.trunc(repeat_factors)
        self._frac_part = repeat_factors - self._int_part

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: list[dict], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """Returns the (num_images,) float32 repeat factors of LVIS (arXiv 1908.03195, B.2).

        A category in a share f of the images repeats max(1, sqrt(repeat_thresh / f)) times (without
        the root if not `sqrt`); an image repeats as its rarest category does.
        """
        present = [{ann["category_id"] for ann in d["annotations"]} for d in dataset_dicts]
        counts = Counter(itertools.chain.from_iterable(present))
        factors = {}
        for category, count in sorted(counts.items()):
            ratio = repeat_thresh / (count / len(dataset_dicts))
            factors[category] = max(1.0, math.sqrt(ratio) if sqrt else ratio)
            logger.info(
                f"Category {category}: in {count} images, repeated {factors[category]:.2f}x"
            )
        return torch.tensor(
            [max((factors[c] for c in categories), default=1.0) for categories in present],
            dtype=torch.float32,
        )

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        rounded_up = torch.rand(len(self._frac_part), generator=generator) < self._frac_part
        repeats = (self._int_part + rounded_up.float()).long()
        return torch.repeat_interleave(torch.arange(len(repeats)), repeats)


class InferenceSampler(Sampler):
    """Every sample once over all processes, in contiguous parts that differ by one at most."""

    def __init__(self, size: int):
        """Args:
        size: number of samples in the dataset, at least 1.
        """
        assert size > 0, f"InferenceSampler: size must be at least 1, got {size}"
        self._size = size
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()
        self._local_indices = self._get_local_indices(size, self._world_size, self._rank)

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        share, longer = divmod(total_size, world_size)  # the first `longer` ranks take one more
        begin = rank * share + min(rank, longer)
        return range(begin, begin + share + int(rank < longer))

    def __iter__(self) -> Iterator[int]:
        yield from self._local_indices

    def __len__(self) -> int:
        return len(self._local_indices)
