"""What a predictor returns for one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.selection import TileSelection


@dataclass(frozen=True)
class GigapixelResult:
    """What was found in one image, and what it took.

    Args:
        detections: Merged, best first, full-image pixels.
        timings: Seconds by part. ``decode`` (reading, shrinking and cutting) and ``detect`` (the
            model) run at the same time, so that their sum may exceed ``total``; ``merge`` follows.
            Where processes share an image, those of the slowest.
        num_tiles: Tiles that went through the model, in this run or in the one that it resumes.
        num_tile_pixels: Pixels that went through the model, padding included.
        selection: Which tiles ran and why; None without tiles.
        num_saturated_tiles: Tiles in which the detector found about as many objects as it can, so
            that some may be missing.
    """

    detections: Detections
    timings: dict[str, float]
    num_tiles: int
    num_tile_pixels: int
    selection: TileSelection | None = None
    num_saturated_tiles: int = 0

    def __len__(self) -> int:
        return len(self.detections)

    def to_coco(self, *args: Any, **options: Any) -> list[dict[str, Any]]:
        """See :meth:`Detections.to_coco`."""
        return self.detections.to_coco(*args, **options)

    def to_geojson(self, **options: Any) -> dict[str, Any]:
        """See :meth:`Detections.to_geojson`."""
        return self.detections.to_geojson(**options)

    def to_supervision(self) -> Any:
        """See :meth:`Detections.to_supervision`."""
        return self.detections.to_supervision()

    def save_viewer(self, *args: Any, **options: Any) -> Any:
        """See :meth:`Detections.save_viewer`."""
        return self.detections.save_viewer(*args, **options)
