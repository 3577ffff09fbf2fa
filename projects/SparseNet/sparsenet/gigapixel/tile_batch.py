"""Tiles -> batches of one shape for a model; its instances -> full-image detections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.masks import encode_mask, encode_roi_mask, mask_windows
from sparsenet.gigapixel.options import TileOptions
from sparsenet.tiling import Tile, TileGrid, boxes_to_image


@dataclass(frozen=True)
class TileBatch:
    """Tiles of one shape.

    Args:
        tiles: Where they lie.
        pixels: (B, 3, size, size) uint8 in the model's channel order.
    """

    tiles: list[Tile]
    pixels: torch.Tensor

    def part(self, start: int, end: int) -> TileBatch:
        """Tiles ``start`` to ``end`` of the batch."""
        return TileBatch(self.tiles[start:end], self.pixels[start:end])


def number_tiles(grids: Sequence[TileGrid]) -> Callable[[Tile], int]:
    """Numbers for the tiles of all grids of a run, grid by grid and row by row.

    A tile's number does not depend on which tiles run, in which order, or in which process.
    """
    firsts = np.cumsum([0, *(len(grid) for grid in grids)])
    places = {g.downsample: (int(first), g.shape[1]) for g, first in zip(grids, firsts)}

    def number(tile: Tile) -> int:
        first, num_columns = places[tile.downsample]
        return first + tile.row * num_columns + tile.column

    return number


def numbered_tile(number: int, grids: Sequence[TileGrid]) -> Tile:
    """The tile with a number of :func:`number_tiles`."""
    for grid in grids:
        if number < len(grid):
            row, column = divmod(number, grid.shape[1])
            return grid.row(row)[column]
        number -= len(grid)
    raise AssertionError("the number is of other grids")


def tile_windows(grids: Sequence[TileGrid]) -> np.ndarray:
    """(T, 4) ``x1, y1, x2, y2`` of the tiles by their :func:`number_tiles`."""
    return np.array([tile.window.xyxy for grid in grids for tile in grid], dtype=np.float64)


def pack_tiles(
    tiles: Iterable[tuple[Tile, np.ndarray]],
    *,
    batch_size: int,
    size: int,
    image_format: str,
    pad_value: Sequence[float],
) -> Iterator[TileBatch]:
    """Packs tiles into batches in the order they come in.

    Args:
        tiles: Tiles and their (h, w, 3) uint8 RGB pixels.
        batch_size: Tiles per batch; the last batch may have fewer.
        size: Side of the model's input; smaller tiles are padded on the right and below.
        image_format: "RGB" or "BGR".
        pad_value: Three grey levels in that order.
    """
    fill = np.clip(np.round(pad_value), 0, 255).astype(np.uint8)[:, None, None]
    members: list[Tile] = []
    batch = np.empty((batch_size, 3, size, size), np.uint8)
    for tile, pixels in tiles:
        height, width = pixels.shape[:2]
        target = batch[len(members)]
        if (height, width) != (size, size):
            target[:] = fill
        channels = pixels if image_format == "RGB" else pixels[:, :, ::-1]
        target[:, :height, :width] = channels.transpose(2, 0, 1)  # (3, h, w)
        members.append(tile)
        if len(members) == batch_size:
            yield TileBatch(members, torch.from_numpy(batch))
            members, batch = [], np.empty_like(batch)
    if members:
        yield TileBatch(members, torch.from_numpy(batch[: len(members)]))


def tile_detections(
    instances: Any,
    tile: Tile,
    tile_id: int,
    options: TileOptions,
    *,
    image_size: tuple[int, int],
) -> Detections:
    """One tile's instances -> detections of good score, clipped to the tile.

    Args:
        instances: Detectron2's ``Instances`` in tile pixels. Masks are kept where there are any:
            ``pred_masks``, (N, h, w) bool, or ``roi_masks``, (N, M, M) probabilities over the box.
        tile: Where the tile lies.
        tile_id: Its number within the run.
        options: Score threshold and seam margins.
        image_size: ``(h, w)`` in full-image pixels.

    Returns:
        Detections in full-image pixels, without class names.
    """
    in_tile = to_numpy(instances.pred_boxes.tensor)
    window = np.array(tile.window.xyxy, dtype=np.float32)
    low, high = np.tile(window[:2], 2), np.tile(window[2:], 2)
    whole = boxes_to_image(in_tile, tile.window, tile.downsample)
    boxes = np.clip(whole, low, high)
    scores = to_numpy(instances.scores)
    # A box in the padding beyond the image border has no area left.
    keep = (scores >= options.score_threshold) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes, whole = boxes[keep], whole[keep]
    return Detections(
        boxes_xyxy=boxes,
        scores=scores[keep],
        classes=to_numpy(instances.pred_classes)[keep],
        truncated=reaches_seam(boxes, tile, options.seam_margin, options.seam_margin_share),
        tile_ids=np.full(len(boxes), tile_id),
        image_size=image_size,
        downsamples=np.full(len(boxes), tile.downsample),
        masks=_masks_in_boxes(instances, keep, whole, boxes, tile),  # type: ignore[arg-type]
    )


def _masks_in_boxes(
    instances: Any, keep: np.ndarray, whole: np.ndarray, boxes: np.ndarray, tile: Tile
) -> list[dict[str, Any]] | None:
    """Run lengths for the full-image boxes that are kept; None where there are no masks.

    Args:
        keep: (N,) bool.
        whole: (K, 4) the boxes that are kept, as the model gave them.
        boxes: (K, 4) what of them is in the tile.
    """
    picked = torch.from_numpy(keep)
    if instances.has("roi_masks"):
        kept = to_numpy(instances.roi_masks[picked])
        return [encode_roi_mask(mask, *pair) for mask, *pair in zip(kept, whole, boxes)]
    if instances.has("pred_masks"):
        pixels = to_numpy(instances.pred_masks[picked])
        return [_mask_in_box(mask, box, tile) for mask, box in zip(pixels, mask_windows(boxes))]
    return None


def _mask_in_box(mask: np.ndarray, box: np.ndarray, tile: Tile) -> dict[str, Any]:
    """The (h, w) mask of a tile, cut to a box of whole full-image pixels and enlarged to them."""
    x, y = tile.window.x, tile.window.y
    columns = (np.arange(box[0], box[2]) - x) // tile.downsample
    rows = (np.arange(box[1], box[3]) - y) // tile.downsample
    return encode_mask(mask[np.ix_(rows, columns)] > 0)


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


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A tensor of any device as an array; half precision becomes float32."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
