"""Tile numbers, and masks on their way from tiles to the image."""

import cv2
import numpy as np
import pytest
import torch
from blob_detector import BlobDetector
from contract.detector_inputs import mask_rcnn_config, model_of
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask
from scipy import ndimage

from sparsenet.gigapixel import GigapixelPredictor, TileOptions
from sparsenet.gigapixel.masks import decode_mask, encode_mask, mask_areas, mask_windows
from sparsenet.gigapixel.tile_batch import (
    TileBatch,
    number_tiles,
    numbered_tile,
    tile_detections,
    tile_windows,
)
from sparsenet.gigapixel.tile_runner import RunOptions, TileRunner
from sparsenet.tiling import Tile, Window

SIZE = (500, 640)
# Centre, half axes: alone, across seams, at the image border, small.
ELLIPSES = [
    ((60, 60), (30, 20)), ((190, 180), (22, 38)), ((630, 300), (30, 30)), ((300, 430), (9, 6)),
    ((420, 90), (44, 44)),
]  # fmt: skip


class MaskedBlobs(BlobDetector):
    """Every connected area with its mask."""

    def find(self, image: torch.Tensor) -> Instances:
        found = super().find(image)
        labels = ndimage.label(image[self.channel].numpy() > self.threshold)[0]
        masks = np.zeros((len(found), *labels.shape), dtype=bool)
        for mask, box in zip(masks, found.pred_boxes.tensor.int().tolist()):
            x1, y1, x2, y2 = box
            part = labels[y1:y2, x1:x2]
            mask[y1:y2, x1:x2] = part == np.bincount(part[part > 0]).argmax()
        found.pred_masks = torch.from_numpy(masks)
        return found


@pytest.fixture(scope="module")
def shapes() -> np.ndarray:
    """(5, h, w) bool."""
    masks = np.zeros((len(ELLIPSES), *SIZE), np.uint8)
    for mask, (centre, axes) in zip(masks, ELLIPSES):
        cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)
    return masks.astype(bool)


def predictor(*downsamples: int, model=None) -> GigapixelPredictor:
    tile = TileOptions(size=128, overlap=96, downsamples=downsamples, batch_size=8)
    return GigapixelPredictor(model or MaskedBlobs(), ("shape",), tile)


def drawn(detections) -> np.ndarray:
    """(N, h, w) bool; the masks in the image."""
    masks = np.zeros((len(detections), *SIZE), dtype=bool)
    for mask, small, (x1, y1, x2, y2) in zip(
        masks, detections.masks, mask_windows(detections.boxes_xyxy)
    ):
        mask[y1:y2, x1:x2] = decode_mask(small)
    return masks


def ious(detections, shapes) -> np.ndarray:
    """(5,) of each shape with the nearest mask."""
    pairs = drawn(detections)[:, None], shapes[None]
    shared, union = (pairs[0] & pairs[1]).sum((2, 3)), (pairs[0] | pairs[1]).sum((2, 3))
    return (shared / union).max(axis=0)


@pytest.mark.parametrize(("downsamples", "least"), [((1,), 1.0), ((2,), 0.8), ((1, 2), 0.95)])
def test_masks_come_through_tiles_and_seams(shapes, downsamples, least):
    image = np.where(shapes.any(0)[..., None], 250, 10).astype(np.uint8).repeat(3, axis=2)
    found = predictor(*downsamples)(image, progress=False).detections
    assert len(found) == len(ELLIPSES)
    assert ious(found, shapes).min() >= least


def test_coco_results_hold_the_masks_in_the_image(shapes):
    image = np.where(shapes.any(0)[..., None], 250, 10).astype(np.uint8).repeat(3, axis=2)
    found = predictor(1)(image, progress=False).detections
    decoded = [coco_mask.decode(result["segmentation"]) for result in found.to_coco()]
    np.testing.assert_array_equal(np.array(decoded, dtype=bool), drawn(found))


def test_masks_below_the_threshold_are_left_out(shapes):
    image = np.where(shapes.any(0)[..., None], 250, 10).astype(np.uint8).repeat(3, axis=2)
    model = MaskedBlobs()
    every = predictor(1, model=model)(image, progress=False).detections
    limit = float(np.sort(every.scores)[1]) - 1e-4
    tile = TileOptions(size=128, overlap=96, batch_size=8, score_threshold=limit)
    found = GigapixelPredictor(model, tile=tile)(image, progress=False).detections
    assert len(found.masks) == len(found) == len(ELLIPSES) - 1
    assert (ious(found, shapes) == 1).sum() == len(found)


@pytest.mark.parametrize("downsamples", [(1,), (1, 2)])
def test_mask_rcnn_goes_through_tiles(downsamples):
    """Weights of chance find some hundred boxes: every mask has the size of its box."""
    image = np.random.default_rng(0).integers(0, 255, (250, 330, 3), dtype=np.uint8)
    tile = TileOptions(
        size=128, overlap=32, downsamples=downsamples, score_threshold=0.0, merge_iou=1.0
    )
    model = model_of(mask_rcnn_config())
    found = GigapixelPredictor(model, tile=tile)(image, progress=False).detections
    windows = mask_windows(found.boxes_xyxy)
    sizes = [(y2 - y1, x2 - x1) for x1, y1, x2, y2 in windows.tolist()]
    assert len(found) > 100
    assert [decode_mask(mask).shape for mask in found.masks] == sizes
    assert (windows[:, :2] >= 0).all() and (windows[:, 2:] <= (330, 250)).all()
    assert (mask_areas(found.masks) > 0).any()


@pytest.mark.parametrize("downsample", [1, 8])
def test_masks_of_heads_are_drawn_in_full_image_pixels(downsample, monkeypatch):
    """As Detectron2 would paste them into the image, also where the tile ends in a box."""
    monkeypatch.setattr("sparsenet.gigapixel.masks._BAND_PIXELS", 900)
    boxes = torch.tensor([[3.3, 5.1, 17.8, 33.0], [20.5, 2.2, 35.7, 12.6], [8.0, 8.0, 8.9, 9.3]])
    found = Instances((40, 40), pred_boxes=Boxes(boxes), scores=torch.ones(3))
    found.pred_classes = torch.zeros(3, dtype=torch.long)
    found.roi_masks = torch.rand(3, 14, 14, generator=torch.Generator().manual_seed(0))
    side = 30 * downsample  # the second box ends beyond it
    tile = Tile(0, 0, Window(0, 0, side, side), downsample=downsample, seams=(False,) * 4)
    detections = tile_detections(found, tile, 0, TileOptions(), image_size=(side, side))
    wanted = paste_masks_in_image(found.roi_masks, boxes * downsample, (side, side)).numpy()
    assert detections.boxes_xyxy[1, 2] == side
    for mask, whole, (x1, y1, x2, y2) in zip(
        detections.masks, wanted, mask_windows(detections.boxes_xyxy).tolist()
    ):
        assert (decode_mask(mask) != whole[y1:y2, x1:x2]).sum() <= whole.size / 10_000  # roundings


def test_mask_rcnn_in_tiles_pastes_nothing():
    model = model_of(mask_rcnn_config())
    pixels = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    tiles = TileOptions(size=64, overlap=0).grids((64, 128))[0].row(0)
    ((_, outputs),) = TileRunner(model, RunOptions(), 2)(TileBatch(tiles, pixels))
    for output in outputs:
        found = output["instances"]
        assert found.roi_masks.shape[0] == len(found) > 0 and not found.has("pred_masks")


def test_areas_of_more_masks_than_a_byte_counts():
    masks = np.array([encode_mask(np.ones((2, 1 + i % 7), bool)) for i in range(300)])
    assert mask_areas(masks).tolist() == [2 * (1 + i % 7) for i in range(300)]
    assert mask_areas(masks[:0]).shape == (0,)


def test_numbers_lead_back_to_their_tiles():
    grids = TileOptions(size=128, overlap=32, downsamples=(1, 2, 4)).grids(SIZE)
    number, windows = number_tiles(grids), tile_windows(grids)
    tiles = [tile for grid in grids for tile in grid]
    assert [number(tile) for tile in tiles] == list(range(len(tiles)))
    assert [numbered_tile(n, grids) for n in range(len(tiles))] == tiles
    assert windows.shape == (len(tiles), 4)
    assert all(tuple(window) == tile.window.xyxy for window, tile in zip(windows, tiles))
