"""Datasets, tile training and mappers; importing it registers PANDA's names."""

from sparsenet.data.builtin import prefer_pyramids, register_coco_files, register_panda
from sparsenet.data.coco_json import load_coco_json, read_coco_json
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
    "SparseRCNNDatasetMapper",
    "TileDataset",
    "TileDistribution",
    "TileLoader",
    "TileMapper",
    "TileRequest",
    "TileRequests",
    "TileSampler",
    "build_tile_train_loader",
    "load_coco_json",
    "prefer_pyramids",
    "read_coco_json",
    "register_coco_files",
    "register_panda",
]
