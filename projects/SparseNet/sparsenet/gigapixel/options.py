"""How an image is cut into tiles, which of them run, and how their detections are joined."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from detectron2.config import CfgNode

from sparsenet.errors import ConfigError
from sparsenet.gigapixel.merge import METHODS
from sparsenet.tiling import TileGrid
from sparsenet.tiling.level_reader import DEFAULT_MAX_PIXELS

SELECT_MODES = ("all", "coarse_to_fine", "mask")


@dataclass(frozen=True)
class SelectOptions:
    """``TEST.TILE.SELECT`` and the keys of ``TEST.TILE.SELECTION``: which tiles run.

    Args:
        mode: "all"; "coarse_to_fine": the coarsest downsample runs everywhere, a finer one where
            the coarser ones expect objects of its size; "mask": only tiles that touch the mask.
        mask: File with the mask, see :func:`~sparsenet.gigapixel.area_mask.read_area_mask`. Also
            limits "coarse_to_fine"; empty for none.
        threshold: Score, or objectness, from which an expected object makes a tile run.
        margin: Octaves above the lower end of ``TileOptions.object_size_range`` up to which an
            object wants the finer downsample as well.
        neighbours: Rings of tiles around a chosen one that run as well.
        probe_share: Share of the other tiles that run all the same: what they find tells what the
            selection misses.
        max_tiles: Tiles in all, the best first; the coarsest downsample always runs. 0 for any.

    Raises:
        ConfigError: If a value cannot work.
    """

    mode: str = "all"
    mask: str = ""
    threshold: float = 0.3
    margin: float = 1.0
    neighbours: int = 0
    probe_share: float = 0.01
    max_tiles: int = 0

    def __post_init__(self) -> None:
        if self.mode not in SELECT_MODES:
            raise ConfigError(f"TEST.TILE.SELECT must be one of {SELECT_MODES}, got {self.mode!r}.")
        if (self.mode == "mask") > bool(self.mask) or ((self.mode == "all") and self.mask):
            raise ConfigError(
                "TEST.TILE.SELECT 'mask' needs a file in TEST.TILE.SELECTION.MASK (--mask), and "
                f"'all' takes none; got SELECT {self.mode!r} and MASK {self.mask!r}."
            )
        if self.max_tiles and self.mode != "coarse_to_fine":
            raise ConfigError(
                "TEST.TILE.SELECTION.MAX_TILES (--max-tiles) needs TEST.TILE.SELECT "
                f"'coarse_to_fine', which ranks the tiles, got {self.mode!r}."
            )
        for name in ("threshold", "probe_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"TEST.TILE.SELECTION.{name.upper()} must be in [0, 1], got "
                    f"{getattr(self, name)}."
                )
        for name in ("margin", "neighbours", "max_tiles"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"TEST.TILE.SELECTION.{name.upper()} must be at least 0, got "
                    f"{getattr(self, name)}."
                )

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> SelectOptions:
        """Reads ``cfg.TEST.TILE.SELECT`` and ``cfg.TEST.TILE.SELECTION``."""
        node = cfg.TEST.TILE.SELECTION
        values = {f.name: node[f.name.upper()] for f in fields(cls) if f.name != "mode"}
        return cls(mode=cfg.TEST.TILE.SELECT, **values)


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
            left to a finer downsample, larger ones to a coarser, see
            :mod:`~sparsenet.gigapixel.hand_over`.
        hand_over: Octaves over which a box beyond that range loses its score; 0 is a hard limit.
        select: Which tiles run.
        merge: How duplicates are removed, see ``merge_detections``, as the next two.
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
    hand_over: float = 1.0
    select: SelectOptions = field(default_factory=SelectOptions)
    merge: str = "seam"
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
        if self.hand_over < 0:
            raise ConfigError(f"TEST.TILE.HAND_OVER must be at least 0, got {self.hand_over}.")
        if self.merge not in METHODS:
            raise ConfigError(f"TEST.TILE.MERGE must be one of {METHODS}, got {self.merge!r}.")
        self._check_coarse_to_fine()
        self.grids((1, 1))  # checks size and overlap

    def _check_coarse_to_fine(self) -> None:
        if self.select.mode != "coarse_to_fine":
            return
        low = self.object_size_range[0]
        if len(set(self.downsamples)) < 2 or low <= 0:
            raise ConfigError(
                "TEST.TILE.SELECT 'coarse_to_fine' needs at least two TEST.TILE.DOWNSAMPLES, and "
                "a smallest object in TEST.TILE.OBJECT_SIZE_RANGE that tells which objects want "
                f"the finer ones; got {self.downsamples} and {low:g}. Use for example (1, 4) and "
                "(16, 200)."
            )

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
            hand_over=node.HAND_OVER,
            select=SelectOptions.from_cfg(cfg),
            merge=node.MERGE,
            merge_iou=node.MERGE_IOU,
            merge_containment=node.MERGE_CONTAINMENT,
            max_pixels=node.MAX_PIXELS,
            max_detections=node.MAX_DETECTIONS,
        )

    def grids(self, image_size: tuple[int, int]) -> list[TileGrid]:
        """One grid per downsample for an image of ``(h, w)`` pixels, the coarsest first."""
        return [
            TileGrid(image_size, self.size, self.overlap, downsample)
            for downsample in sorted(set(self.downsamples), reverse=True)
        ]
