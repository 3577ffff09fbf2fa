"""How an image is cut into tiles and its detections are joined."""

from __future__ import annotations

from dataclasses import dataclass

from detectron2.config import CfgNode

from sparsenet.errors import ConfigError
from sparsenet.tiling import TileGrid
from sparsenet.tiling.reader import DEFAULT_MAX_PIXELS


@dataclass(frozen=True)
class TileOptions:
    """The keys of ``TEST.TILE``; sizes are in tile pixels.

    Args:
        size: Side of a square tile.
        overlap: Pixels that neighbours share.
        downsamples: Full-image pixels per tile pixel; all of them run in one pass over the file.
        batch_size: Tiles per call of the model.
        score_threshold: Detections below it are dropped before merging.
        object_size_range: Longer side of the boxes that a downsample is good for. Smaller ones are
            left to a finer downsample, larger ones to a coarser; the finest and the coarsest keep
            theirs.
        merge_iou: See ``merge_detections``.
        merge_containment: See ``merge_detections``.
        max_pixels: Larger images are refused from their header.
        max_detections: Kept per image, best first.
        seam_margin: A box that comes this close to a seam counts as truncated.
        seam_margin_share: So does one that comes closer than this share of its own side.

    Raises:
        ConfigError: If a value cannot work.
    """

    size: int = 256
    overlap: int = 64
    downsamples: tuple[int, ...] = (1,)
    batch_size: int = 16
    score_threshold: float = 0.05
    object_size_range: tuple[float, float] = (0.0, 1e9)
    merge_iou: float = 0.5
    merge_containment: float = 0.7
    max_pixels: float = DEFAULT_MAX_PIXELS
    max_detections: int = 10_000
    # A detector stops a cut object some pixels short of the seam. 8 px and 5 % kept the count error
    # of noisy detections within 2.4 % on simulated crowds.
    seam_margin: float = 8.0
    seam_margin_share: float = 0.05

    def __post_init__(self) -> None:
        for downsample in self.downsamples:
            if not isinstance(downsample, int) or downsample < 1:
                raise ConfigError(
                    f"TEST.TILE.DOWNSAMPLES must be whole numbers of at least 1, got "
                    f"{self.downsamples}. Use for example (1, 4)."
                )
        if not self.downsamples:
            raise ConfigError("TEST.TILE.DOWNSAMPLES must name at least one, got none. Use (1,).")
        if self.batch_size < 1:
            raise ConfigError(f"TEST.TILE.BATCH_SIZE must be at least 1, got {self.batch_size}.")
        low, high = self.object_size_range
        if not 0 <= low < high:
            raise ConfigError(
                "TEST.TILE.OBJECT_SIZE_RANGE must be (smallest, largest) with 0 <= smallest < "
                f"largest, got {self.object_size_range}."
            )
        self.grids((1, 1))  # checks size and overlap

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> TileOptions:
        """Reads ``cfg.TEST.TILE``."""
        node = cfg.TEST.TILE
        return cls(
            size=node.SIZE,
            overlap=node.OVERLAP,
            downsamples=tuple(node.DOWNSAMPLES),
            batch_size=node.BATCH_SIZE,
            score_threshold=node.SCORE_THRESHOLD,
            object_size_range=tuple(node.OBJECT_SIZE_RANGE),
            merge_iou=node.MERGE_IOU,
            merge_containment=node.MERGE_CONTAINMENT,
            max_pixels=node.MAX_PIXELS,
            max_detections=node.MAX_DETECTIONS,
        )

    def side_limits(self, downsample: int) -> tuple[float, float]:
        """Smallest and largest longer side, in tile pixels, of the boxes kept at a downsample."""
        low, high = self.object_size_range
        return (
            low if downsample > min(self.downsamples) else 0.0,
            high if downsample < max(self.downsamples) else float("inf"),
        )

    def grids(self, image_size: tuple[int, int]) -> list[TileGrid]:
        """One grid per downsample for an image of ``(h, w)`` pixels."""
        return [
            TileGrid(image_size, self.size, self.overlap, downsample)
            for downsample in dict.fromkeys(self.downsamples)
        ]
