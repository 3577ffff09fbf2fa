"""Pictures of annotations, examples and results: boxes are where they belong."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from pycocotools import mask as coco_mask

from sparsenet.analysis.drawing import (
    contact_sheet,
    draw_annotations,
    draw_example,
    draw_results,
    load_dataset,
)
from sparsenet.errors import DatasetError
from sparsenet.gigapixel.exports import class_color

GREY = 90
NAME = "drawing_test"


@pytest.fixture
def item(tmp_path: Path):
    """A grey image of 400 × 200 px with one object and one ignored one, in a registered dataset."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((200, 400, 3), GREY, np.uint8))
    annotations = [
        {"bbox": [40, 40, 100, 80], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1},
        {"bbox": [240, 40, 80, 80], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 1},
    ]
    item = {"file_name": str(tmp_path / "a.png"), "image_id": 7, "annotations": annotations}
    DatasetCatalog.register(NAME, lambda: [item])
    MetadataCatalog.get(NAME).set(
        thing_classes=["cat", "dog"], thing_dataset_id_to_contiguous_id={3: 0, 8: 1}
    )
    yield item
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def tint(picture: np.ndarray, y: int, x: int) -> np.ndarray:
    """How far the strongest pixel of a 5 × 5 spot is from the grey of the image."""
    spot = picture[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).astype(int) - GREY
    return spot[np.abs(spot).sum(axis=1).argmax()]


def test_annotations_are_drawn_in_their_class_and_ignored_ones_in_grey(item) -> None:
    picture = draw_annotations(item, NAME, side=200)  # downsample 2
    assert picture.shape == (100, 200, 3)
    edge, color = tint(picture, 40, 20), np.array(class_color(1)) - GREY  # x = 40 / 2
    assert edge @ color > 0.95 * np.linalg.norm(edge) * np.linalg.norm(color)
    ignored = tint(picture, 40, 120)
    assert ignored.min() > 10 and np.ptp(ignored) < 12
    assert np.abs(tint(picture, 90, 190)).max() < 5


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_an_example_is_drawn_as_the_model_gets_it(item, image_format: str) -> None:
    image = torch.full((3, 64, 64), GREY, dtype=torch.uint8)
    image[0] = 250 if image_format == "RGB" else GREY
    image[2] = 250 if image_format == "BGR" else GREY
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 40.0]]))
    instances.gt_classes = torch.tensor([0])
    example = {"image": image, "instances": instances, "ignore_boxes": Boxes(torch.zeros(0, 4))}
    picture = draw_example(example, NAME, image_format, side=128)
    assert picture.shape == (128, 128, 3)
    assert picture[120, 120].tolist() == [250, GREY, GREY]  # red in either format
    assert np.abs(picture[50, 16].astype(int) - [250, GREY, GREY]).max() > 30


def test_results_stand_beside_the_truth(item) -> None:
    results = [
        {"category_id": 8, "bbox": [80, 40, 200, 120], "score": 0.9},
        {"category_id": 3, "bbox": [300, 100, 80, 80], "score": 0.1},
    ]
    picture = draw_results(item, results, NAME, threshold=0.5, side=400)
    assert picture.shape == (200, 806, 3)
    assert np.abs(tint(picture, 140, 80)).max() > 20  # the detection, on the left only
    assert np.abs(tint(picture, 140, 406 + 80)).max() < 5
    assert np.abs(tint(picture, 150, 300)).max() < 5  # below the threshold
    with pytest.raises(DatasetError, match=r"category ids of drawing_test, \[3, 8\], got \[1\]"):
        results[0]["category_id"] = 1
        draw_results(item, results, NAME, threshold=0.5, side=400)


@pytest.mark.parametrize("kind", ["polygons", "run lengths", "too large"])
def test_masks_of_results_and_truth_are_filled(item, kind: str, monkeypatch) -> None:
    """The upper left half of the box; in the picture, which is half the image, 20…70 × 20…60."""
    mask: Any = [[40, 40, 140, 40, 40, 120]]
    if kind != "polygons":
        (run_lengths,) = coco_mask.frPyObjects(mask, 200, 400)
        mask = {"size": [200, 400], "counts": run_lengths["counts"].decode()}
    monkeypatch.setattr("sparsenet.analysis.drawing._MAX_LABELS", 0)  # they would hide the masks
    if kind == "too large":
        monkeypatch.setattr("sparsenet.analysis.drawing.MAX_MASK_PIXELS", 200 * 400 - 1)
    item["annotations"][0]["segmentation"] = mask
    result = {"category_id": 8, "bbox": [40, 40, 100, 80], "score": 0.9, "segmentation": mask}
    picture = draw_results(item, [result], NAME, threshold=0.5, side=200)
    for left in (0, 206):
        spots = (28, 28), (52, 60)
        inside, outside = (np.abs(tint(picture, y, left + x)).max() for y, x in spots)
        assert outside < 5  # in the box, outside the outline
        assert inside < 5 if kind == "too large" else inside > 20


def test_a_contact_sheet_keeps_order_and_proportions() -> None:
    pictures = [np.full((10, 20, 3), 40 * i + 40, np.uint8) for i in range(3)]
    sheet = contact_sheet(pictures, columns=2, side=14)
    assert sheet.shape == (2 * (5 + 4), 2 * 14, 3)
    assert sheet[0, 0, 0] == 40 and sheet[0, 14, 0] == 80 and sheet[9, 0, 0] == 120
    with pytest.raises(DatasetError, match="at least one image"):
        contact_sheet([])


def test_an_unknown_dataset() -> None:
    with pytest.raises(DatasetError, match="'absent' must be registered"):
        load_dataset("absent")


@pytest.mark.parametrize("as_bits", [False, True])
def test_outlines_of_an_example_are_filled(item, as_bits: bool) -> None:
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 40.0]]))
    instances.gt_classes = torch.tensor([0])
    masks = PolygonMasks([[np.array([8.0, 8, 40, 8, 8, 40])]])  # the upper left half of the box
    instances.gt_masks = BitMasks.from_polygon_masks(masks, 64, 64) if as_bits else masks
    ignored = Boxes(torch.tensor([[44.0, 44.0, 60.0, 60.0]]))
    image = torch.full((3, 64, 64), GREY, dtype=torch.uint8)
    example = {"image": image, "instances": instances, "ignore_boxes": ignored}
    picture = draw_example(example, NAME, "RGB", side=128)
    assert np.abs(tint(picture, 60, 30)).max() > 20  # inside the outline, below the label
    assert np.abs(tint(picture, 66, 66)).max() < 5  # in the box, outside the outline
