"""Datasets, tile training and mappers; importing it registers PANDA's names."""

from sparsenet.data.builtin import register_coco_files, register_datasets, register_panda
from sparsenet.data.builtin_trees import require_builtin_files
from sparsenet.data.coco_json import load_coco_json, read_coco_json
from sparsenet.data.dataset_dicts import load_training_dicts, require_same_classes
from sparsenet.data.image_mapper import build_image_mapper, build_image_train_loader
from sparsenet.data.mixing import is_augmented
from sparsenet.data.pyramids import prefer_pyramids
from sparsenet.data.recipe_mapper import RecipeMapper
from sparsenet.data.sparse_rcnn_mapper import SparseRCNNDatasetMapper
from sparsenet.data.tile_loader import TileDataset, TileLoader, build_tile_train_loader
from sparsenet.data.tile_mapper import TileMapper
from sparsenet.data.tile_sampler import (
    TileDistribution,
    TileRequest,
    TileRequests,
    TileSampler,
)

register_panda()

__all__ = [
    "RecipeMapper",
    "SparseRCNNDatasetMapper",
    "TileDataset",
    "TileDistribution",
    "TileLoader",
    "TileMapper",
    "TileRequest",
    "TileRequests",
    "TileSampler",
    "build_image_mapper",
    "build_image_train_loader",
    "build_tile_train_loader",
    "is_augmented",
    "load_coco_json",
    "load_training_dicts",
    "prefer_pyramids",
    "read_coco_json",
    "register_coco_files",
    "register_datasets",
    "register_panda",
    "require_builtin_files",
    "require_same_classes",
]
