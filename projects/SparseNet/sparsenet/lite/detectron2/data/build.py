"""Stands in for detectron2.data.build: has the loaders and what they are made of; lacks precomputed
proposals, keypoint filters and the random-subset and weighted samplers."""

import itertools
import logging
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from detectron2._lacking import lacks, package_getattr
from detectron2.config import configurable
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng
from tabulate import tabulate
from torch.utils import data as torchdata

from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

__all__ = [
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "filter_images_with_only_crowd_annotations",
    "get_detection_dataset_dicts",
    "print_instances_class_histogram",
    "trivial_batch_collator",
    "worker_init_reset_seed",
]

logger = logging.getLogger(__name__)

__getattr__ = package_getattr(__name__)


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """Returns the dicts that have at least one annotation with "iscrowd" 0."""
    kept = [d for d in dataset_dicts if any(a.get("iscrowd", 0) == 0 for a in d["annotations"])]
    logger.info(f"Removed {len(dataset_dicts) - len(kept)} images without usable annotations")
    return kept


def print_instances_class_histogram(dataset_dicts: list[dict], class_names: Sequence[str]) -> None:
    """Logs how many annotations (crowds aside) each class has."""
    counts = Counter(
        a["category_id"] for d in dataset_dicts for a in d["annotations"] if not a.get("iscrowd", 0)
    )
    wrong = [c for c in counts if not 0 <= c < len(class_names)]
    assert not wrong, (
        f"category_id must be in 0…{len(class_names) - 1}, the range of thing_classes, got {wrong}"
    )
    rows = [(name, counts[i]) for i, name in enumerate(class_names)]
    if len(rows) > 1:
        rows.append(("total", sum(counts.values())))
    table = tabulate(rows, headers=["category", "#instances"], tablefmt="pipe", numalign="left")
    logger.info(f"Instances of all {len(class_names)} categories:\n{table}")


def get_detection_dataset_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> Any:
    """Loads registered datasets and joins them.

    Args:
        names: one name or several.
        filter_empty: drop images without an annotation other than crowds.
        min_keypoints: must be 0.
        proposal_files: must be None.
        check_consistency: the datasets must have the same class names; logs their counts.

    Returns:
        the list of dataset dicts, or the torch Dataset where the registered function gives one.
    """
    if min_keypoints > 0:
        raise lacks("Filtering by keypoints (min_keypoints)")
    if proposal_files is not None:
        raise lacks("Precomputed proposals (MODEL.LOAD_PROPOSALS)")
    names = [names] if isinstance(names, str) else list(names)
    assert names, "at least one dataset name is needed, got none; check cfg.DATASETS"
    parts = [DatasetCatalog.get(name) for name in names]
    if isinstance(parts[0], torchdata.Dataset):
        return torchdata.ConcatDataset(parts) if len(parts) > 1 else parts[0]
    empty = [name for name, part in zip(names, parts) if len(part) == 0]
    assert not empty, f"datasets must not be empty, but {', '.join(empty)} have no image"
    dataset_dicts = list(itertools.chain.from_iterable(parts))
    if "annotations" in dataset_dicts[0]:
        if filter_empty:
            dataset_dicts = filter_images_with_only_crowd_annotations(dataset_dicts)
        if check_consistency and hasattr(MetadataCatalog.get(names[0]), "thing_classes"):
            check_metadata_consistency("thing_classes", names)
            print_instances_class_histogram(
                dataset_dicts, MetadataCatalog.get(names[0]).thing_classes
            )
    assert dataset_dicts, (
        f"no image of {', '.join(names)} has a usable annotation; filter_empty=False keeps all"
    )
    return dataset_dicts


def _batch_size_per_process(total_batch_size: int, single_gpu_batch_size: int | None) -> int:
    if single_gpu_batch_size:
        if total_batch_size:
            raise ValueError(
                "Give one of total_batch_size and single_gpu_batch_size, got both: "
                f"{total_batch_size} and {single_gpu_batch_size}"
            )
        return single_gpu_batch_size
    world_size = get_world_size()
    assert total_batch_size > 0 and total_batch_size % world_size == 0, (
        f"the total batch size must be a multiple of {world_size} processes, got {total_batch_size}"
    )
    return total_batch_size // world_size


def build_batch_data_loader(
    dataset: torchdata.Dataset,
    sampler: torchdata.Sampler | None,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
    drop_last: bool = True,
    single_gpu_batch_size: int | None = None,
    prefetch_factor: int | None = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> Iterable[list]:
    """Returns an iterable of batches, each a list of samples.

    Args:
        dataset: map-style with a sampler, or iterable without one.
        sampler: yields indices.
        total_batch_size: samples per step over all processes; or give `single_gpu_batch_size`.
        aspect_ratio_grouping: see `AspectRatioGroupedDataset`; needs `drop_last`.
        num_workers, prefetch_factor, persistent_workers, pin_memory, kwargs: of torch's DataLoader.
        collate_fn: gets the list of samples; None leaves it as it is.
        drop_last: drop a last batch that is not full.
        seed: of the generator that gives the workers their base seed.
    """
    batch_size = _batch_size_per_process(total_batch_size, single_gpu_batch_size)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "an iterable dataset takes no sampler"
    else:
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    options = {
        "num_workers": num_workers,
        "worker_init_fn": worker_init_reset_seed,
        "prefetch_factor": prefetch_factor if num_workers > 0 else None,
        "persistent_workers": persistent_workers,
        "pin_memory": pin_memory,
        "generator": None if seed is None else torch.Generator().manual_seed(seed),
        **kwargs,
    }
    if not aspect_ratio_grouping:
        return torchdata.DataLoader(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            collate_fn=trivial_batch_collator if collate_fn is None else collate_fn,
            **options,
        )
    assert drop_last, (
        "aspect ratio grouping drops batches that are not full: drop_last must be True"
    )
    single = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **options)
    batches = AspectRatioGroupedDataset(single, batch_size)
    return batches if collate_fn is None else MapDataset(batches, collate_fn)


def _build_train_sampler(cfg: Any, dataset: Any) -> torchdata.Sampler | None:
    if isinstance(dataset, torchdata.IterableDataset):
        return None
    name = cfg.DATALOADER.SAMPLER_TRAIN
    logger.info(f"Using training sampler {name}")
    # Detectron2 seeds with -1 itself when no seed is wanted, which gives each run the same order.
    seed = cfg.SEED if cfg.SEED >= 0 else None
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset), seed=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    if name in (
        "RandomSubsetTrainingSampler",
        "WeightedTrainingSampler",
        "WeightedCategoryTrainingSampler",
    ):
        raise lacks(f"DATALOADER.SAMPLER_TRAIN {name}")
    raise ValueError(
        "DATALOADER.SAMPLER_TRAIN must be TrainingSampler or RepeatFactorTrainingSampler, got "
        f"{name!r}"
    )


def _load_dicts(cfg: Any, names: Sequence[str], filter_empty: bool) -> Any:
    if cfg.MODEL.LOAD_PROPOSALS:
        raise lacks("Precomputed proposals (MODEL.LOAD_PROPOSALS)")
    if cfg.MODEL.KEYPOINT_ON:
        raise lacks("Keypoints (MODEL.KEYPOINT_ON)")
    return get_detection_dataset_dicts(names, filter_empty=filter_empty)


def _train_loader_from_config(
    cfg: Any, mapper: Callable | None = None, *, dataset: Any = None, sampler: Any = None
) -> dict[str, Any]:
    if dataset is None:
        dataset = _load_dicts(cfg, cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "sampler": _build_train_sampler(cfg, dataset) if sampler is None else sampler,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


def _mapped(dataset: Any, mapper: Callable | None) -> torchdata.Dataset:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MapDataset(dataset, mapper)


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: Any,
    *,
    mapper: Callable | None,
    sampler: torchdata.Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
    **kwargs: Any,
) -> Iterable[list]:
    """Returns the endless loader of training batches; takes a cfg or the arguments below.

    Args:
        dataset: list of dataset dicts, or a torch dataset.
        mapper: dataset dict -> model input; None passes the dicts on.
        sampler: for map-style datasets, a `TrainingSampler` by default.
        total_batch_size, aspect_ratio_grouping, num_workers, collate_fn, kwargs: see
            `build_batch_data_loader`.
    """
    dataset = _mapped(dataset, mapper)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = TrainingSampler(len(dataset))
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _test_loader_from_config(
    cfg: Any, dataset_name: str | Sequence[str], mapper: Callable | None = None
) -> dict[str, Any]:
    names = [dataset_name] if isinstance(dataset_name, str) else list(dataset_name)
    return {
        "dataset": _load_dicts(cfg, names, filter_empty=False),
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: Any,
    *,
    mapper: Callable | None,
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
) -> torchdata.DataLoader:
    """Returns a loader that gives each sample once over all processes; takes a cfg and a dataset
    name, or the arguments below.

    Args:
        dataset: list of dataset dicts, or a torch dataset.
        mapper: dataset dict -> model input; None passes the dicts on.
        sampler: for map-style datasets, an `InferenceSampler` by default.
        batch_size: samples per batch of this process; the last batch may be smaller.
        num_workers, collate_fn: see `build_batch_data_loader`.
    """
    dataset = _mapped(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "an iterable dataset takes no sampler"
    elif sampler is None:
        sampler = InferenceSampler(len(dataset))
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=trivial_batch_collator if collate_fn is None else collate_fn,
    )


def trivial_batch_collator(batch: list) -> list:
    """Returns the samples as they are."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seeds all generators of a loader worker, each worker differently."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
