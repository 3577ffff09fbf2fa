"""Tiles -> batches of one shape for a model; its instances -> full-image detections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.options import TileOptions
from sparsenet.tiling import Tile, boxes_to_image


@dataclass(frozen=True)
class TileBatch:
    """Tiles of one shape.

    Args:
        tile_ids: Number of each tile within the run.
        tiles: Where they lie.
        pixels: (B, 3, size, size) uint8 in the model's channel order.
    """

    tile_ids: list[int]
    tiles: list[Tile]
    pixels: torch.Tensor

    def part(self, start: int, end: int) -> TileBatch:
        """Tiles ``start`` to ``end`` of the batch."""
        return TileBatch(self.tile_ids[start:end], self.tiles[start:end], self.pixels[start:end])


def pack_tiles(
    tiles: Iterable[tuple[Tile, np.ndarray]],
    *,
    batch_size: int,
    size: int,
    image_format: str,
    pad_value: Sequence[float],
) -> Iterator[TileBatch]:
    """Numbers tiles in the order they come in and packs them into batches.

    Args:
        tiles: Tiles and their (h, w, 3) uint8 RGB pixels.
        batch_size: Tiles per batch; the last batch may have fewer.
        size: Side of the model's input; smaller tiles are padded on the right and below.
        image_format: "RGB" or "BGR".
        pad_value: Three grey levels in that order.
    """
    fill = np.clip(np.round(pad_value), 0, 255).astype(np.uint8)[:, None, None]
    ids: list[int] = []
    members: list[Tile] = []
    batch = np.empty((batch_size, 3, size, size), np.uint8)
    for tile_id, (tile, pixels) in enumerate(tiles):
        height, width = pixels.shape[:2]
        target = batch[len(ids)]
        if (height, width) != (size, size):
            target[:] = fill
        channels = pixels if image_format == "RGB" else pixels[:, :, ::-1]
        target[:, :height, :width] = channels.transpose(2, 0, 1)  # (3, h, w)
        ids.append(tile_id)
        members.append(tile)
        if len(ids) == batch_size:
            yield TileBatch(ids, members, torch.from_numpy(batch))
            ids, members, batch = [], [], np.empty_like(batch)
    if ids:
        yield TileBatch(ids, members, torch.from_numpy(batch[: len(ids)]))


def tile_detections(
    instances: Any,
    tile: Tile,
    tile_id: int,
    options: TileOptions,
    *,
    image_size: tuple[int, int],
) -> Detections:
    """One tile's instances -> detections of good score and size, clipped to the tile.

    Args:
        instances: Detectron2's ``Instances`` in tile pixels.
        tile: Where the tile lies.
        tile_id: Its number within the run.
        options: Score threshold, size limits and seam margins.
        image_size: ``(h, w)`` in full-image pixels.

    Returns:
        Detections in full-image pixels, without class names.
    """
    in_tile = _to_numpy(instances.pred_boxes.tensor)
    window = np.array(tile.window.xyxy, dtype=np.float32)
    low, high = np.tile(window[:2], 2), np.tile(window[2:], 2)
    boxes = np.clip(boxes_to_image(in_tile, tile.window, tile.downsample), low, high)
    scores = _to_numpy(instances.scores)
    # A box in the padding beyond the image border has no area left.
    keep = (scores >= options.score_threshold) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    smallest, largest = options.side_limits(tile.downsample)
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0.0) / tile.downsample
    keep &= (side >= smallest) & (side <= largest)
    boxes = boxes[keep]
    return Detections(
        boxes_xyxy=boxes,
        scores=scores[keep],
        classes=_to_numpy(instances.pred_classes)[keep],
        truncated=reaches_seam(boxes, tile, options.seam_margin, options.seam_margin_share),
        tile_ids=np.full(len(boxes), tile_id),
        image_size=image_size,
    )


def reaches_seam(
    boxes_xyxy: np.ndarray, tile: Tile, margin: float = 8.0, margin_share: float = 0.05
) -> np.ndarray:
    """Whether each box comes so close to a seam of its tile that the object may go on beyond it.

    Sides of the tile on the image border are no seams.

    Args:
        boxes_xyxy: (N, 4), full-image pixels.
        tile: The tile that they were found in.
        margin: Distance to the seam, tile pixels.
        margin_share: Distance as a share of the box's own width (left, right) or height; the larger
            of the two distances counts.

    Returns:
        (N,) bool.
    """
    sides = np.tile(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 2)  # (N, 4): w, h, w, h
    limit = np.maximum(margin * tile.downsample, margin_share * sides)
    distance = np.abs(boxes_xyxy - np.array(tile.window.xyxy, dtype=np.float64))
    return ((distance < limit) & np.array(tile.seams)).any(axis=1)


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
