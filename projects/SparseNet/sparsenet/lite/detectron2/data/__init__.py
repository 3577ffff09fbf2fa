"""Stands in for detectron2.data: has catalogs, loaders, DatasetMapper, samplers, transforms, the
COCO 2017 and ADE20K names; lacks load_proposals_into_dataset."""

from . import transforms  # isort: skip  (detection_utils needs it)
from detectron2._lacking import package_getattr

from . import datasets, samplers
from .build import (
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    print_instances_class_histogram,
)
from .catalog import DatasetCatalog, Metadata, MetadataCatalog
from .common import DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper

__all__ = [
    "DatasetCatalog",
    "DatasetFromList",
    "DatasetMapper",
    "MapDataset",
    "Metadata",
    "MetadataCatalog",
    "ToIterableDataset",
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "datasets",
    "get_detection_dataset_dicts",
    "print_instances_class_histogram",
    "samplers",
    "transforms",
]

__getattr__ = package_getattr(__name__)
