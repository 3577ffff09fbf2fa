"""Detection in gigapixel images: predictor, merging, and what is made of the results."""

from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.merge import merge_detections
from sparsenet.gigapixel.options import TileOptions
from sparsenet.gigapixel.predictor import GigapixelPredictor, GigapixelResult

__all__ = [
    "Detections",
    "GigapixelPredictor",
    "GigapixelResult",
    "TileOptions",
    "merge_detections",
]
