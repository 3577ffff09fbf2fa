"""Pure geometry and reading of large images: windows, grids, readers, streamed tiles. No torch."""

from sparsenet.tiling.annotations import clip_boxes, visible_share
from sparsenet.tiling.georeference import Georeference
from sparsenet.tiling.grid import Tile, TileGrid, tile_starts
from sparsenet.tiling.level_reader import ImageReader
from sparsenet.tiling.reader import IMAGE_SUFFIXES, ArrayReader, open_image
from sparsenet.tiling.stream import stream_tiles
from sparsenet.tiling.window import Window, boxes_to_image, boxes_to_tile

__all__ = [
    "IMAGE_SUFFIXES",
    "ArrayReader",
    "Georeference",
    "ImageReader",
    "Tile",
    "TileGrid",
    "Window",
    "boxes_to_image",
    "boxes_to_tile",
    "clip_boxes",
    "open_image",
    "stream_tiles",
    "tile_starts",
    "visible_share",
]
