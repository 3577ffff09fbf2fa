"""Photos in one folder per class, as ImageNet lies on disk, and their batches.

Classes are numbered in the alphabetical order of their folders, as torchvision numbers them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, Subset
from torchvision.datasets import ImageFolder

from sparsenet.data.photo import PHOTO_SUFFIXES, read_photo
from sparsenet.errors import DatasetError, DatasetNotFoundError


def open_image_folder(
    folder: Path,
    transform: Callable[[Image.Image], Tensor],
    *,
    class_names: Sequence[str] | None = None,
) -> ImageFolder:
    """The photos below ``folder/<class>/``.

    Args:
        transform: From an upright RGB photo to a tensor.
        class_names: The folders that must be there; None takes those that are.

    Raises:
        DatasetNotFoundError: If there is no such folder, or no photo in a class.
        DatasetError: If the classes are others.
    """
    try:
        dataset = ImageFolder(str(folder), transform, loader=_read, is_valid_file=_is_photo)
    except FileNotFoundError as error:
        raise DatasetNotFoundError(
            f"{folder} must hold one folder of photos per class, as in {folder}/cat/1.jpg: {error}"
        ) from error
    if class_names is not None and list(class_names) != dataset.classes:
        differing = sorted(set(class_names) ^ set(dataset.classes))[:5]
        raise DatasetError(
            f"{folder} must have the {len(class_names)} classes of the training, it has "
            f"{len(dataset.classes)}; in one of them only: {', '.join(differing)}."
        )
    return dataset


def _read(path: str) -> Image.Image:
    return read_photo(Path(path))


def _is_photo(path: str) -> bool:
    name = Path(path)
    return name.suffix.lower() in PHOTO_SUFFIXES and not name.name.startswith(".")


def build_train_loader(
    dataset: Any, batch_size: int, *, num_workers: int = 0, repeats: int = 1, seed: int = 0
) -> DataLoader:
    """Shuffled batches of this process, all of one size, an even number.

    The order is a function of seed and epoch (``loader.sampler.set_epoch``), of repeated ones of
    the epoch alone. Fewer photos than a batch are one smaller batch; the rest of the last batch is
    left to other epochs.

    Args:
        dataset: Of (image, class number).
        batch_size: Of this process.
        repeats: Repeated augmentation: so many versions of a photo in an epoch, of fewer photos.

    Raises:
        DatasetError: If a batch of a process has less than two photos: batch norms need two.
    """
    shares = {"num_replicas": comm.get_world_size(), "rank": comm.get_rank()}
    sampler: Any = DistributedSampler(dataset, **shares, seed=seed)
    if repeats > 1:
        from timm.data.distributed_sampler import RepeatAugSampler

        sampler = RepeatAugSampler(dataset, **shares, num_repeats=repeats)
    num_photos = min(batch_size, len(sampler)) // 2 * 2
    if num_photos < 2:
        raise DatasetError(
            "Training needs batches of two photos or more in every process, got a batch size of "
            f"{batch_size} per process (SOLVER.IMS_PER_BATCH is that of all), and {len(dataset)} "
            f"photo(s) in {shares['num_replicas']} process(es), {len(sampler)} for each."
        )
    return _loader(dataset, num_photos, num_workers, sampler=sampler, drop_last=True)


def build_eval_loader(dataset: Any, batch_size: int, *, num_workers: int = 0) -> DataLoader:
    """Every photo once, in order, over all processes together."""
    share = range(comm.get_rank(), len(dataset), comm.get_world_size())
    return _loader(Subset(dataset, share), batch_size, num_workers)


def _loader(dataset: Any, batch_size: int, num_workers: int, **options: Any) -> DataLoader:
    # Workers start anew in every epoch, so that their random numbers follow from its seed alone.
    return DataLoader(
        dataset,
        batch_size,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        **options,
    )
