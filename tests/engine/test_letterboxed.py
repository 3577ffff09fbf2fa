"""Evaluation of letterboxed images: detections return to where they are in the image."""

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sparse_rcnn import small_cfg

from sparsenet.data import register_coco_files
from sparsenet.data.image_transforms import LetterboxTransform
from sparsenet.engine import Trainer
from sparsenet.engine.letterboxed import LetterboxedDetector, letterbox_mapper, undo_letterbox
from sparsenet.modeling.meta_arch.sparse_rcnn import postprocess_detections

SIDE = 64


def detect_bright(batched_inputs):
    """What a perfect detector of Detectron2 says of bright pixels in squares."""
    results = []
    for item in batched_inputs:
        mask = item["image"][0] > 127
        rows, columns = torch.nonzero(mask, as_tuple=True)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        found = Instances(tuple(mask.shape))
        found.pred_boxes = Boxes(torch.tensor([box], dtype=torch.float32))
        found.scores, found.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)
        results.append(found)
    return postprocess_detections(results, batched_inputs)


class BrightPixels(torch.nn.Module):
    """The same as a model."""

    def forward(self, batched_inputs):
        return detect_bright(batched_inputs)


def bright_image(size, box):
    image = np.full((*size, 3), 20, np.uint8)
    x, y, x2, y2 = box
    image[y:y2, x:x2] = 230
    return image


def letterboxed_item(image):
    height, width = image.shape[:2]
    square = LetterboxTransform(height, width, SIDE).apply_image(image)
    tensor = torch.from_numpy(square.transpose(2, 0, 1).copy())
    return {"image": tensor, "height": height, "width": width}


@settings(max_examples=30, deadline=None)
@given(st.integers(40, 200), st.integers(40, 200), st.data())
def test_boxes_return_to_their_pixels(height, width, data):
    x, y = data.draw(st.integers(0, width - 20)), data.draw(st.integers(0, height - 20))
    box = (x, y, data.draw(st.integers(x + 15, width)), data.draw(st.integers(y + 15, height)))
    model = LetterboxedDetector(BrightPixels(), SIDE)
    (result,) = model([letterboxed_item(bright_image((height, width), box))])
    found = result["instances"]
    assert found.image_size == (height, width)
    pixel = max(height, width) / SIDE
    torch.testing.assert_close(
        found.pred_boxes.tensor, torch.tensor([box], dtype=torch.float32), atol=1.1 * pixel, rtol=0
    )


def test_exactly_the_inverse_of_the_letterbox():
    transform = LetterboxTransform(90, 200, SIDE)
    boxes = np.array([[10.0, 20, 60, 80], [0, 0, 200, 90]])
    squares = torch.from_numpy(transform.apply_box(boxes))
    stretched = Instances((90, 200))
    stretched.pred_boxes = Boxes(squares * torch.tensor([200, 90, 200, 90]) / SIDE)
    result = undo_letterbox(stretched, SIDE)
    np.testing.assert_allclose(result.pred_boxes.tensor, boxes, atol=1e-3)


def test_what_lies_in_the_border_is_dropped():
    stretched = Instances((64, 128))
    # The square's rows 0 to 16 and 48 to 64 are border.
    stretched.pred_boxes = Boxes(torch.tensor([[0.0, 0, 40, 15], [0, 10, 40, 40]]))
    stretched.scores = torch.tensor([0.9, 0.8])
    result = undo_letterbox(stretched, 128)
    assert result.scores.tolist() == pytest.approx([0.8])
    assert result.pred_boxes.tensor.tolist() == [[0, 0, 40, 48]]


def test_masks_are_stretched_with_their_boxes():
    height, width = 60, 120
    square = LetterboxTransform(height, width, 120).apply_segmentation(
        bright_image((height, width), (30, 10, 80, 50))[..., 0]
    )
    stretched = Instances((height, width))
    mask = cv2.resize((square > 127).astype(np.uint8), (width, height), interpolation=0)
    stretched.pred_masks = torch.from_numpy(mask.astype(bool))[None]
    stretched.pred_boxes = Boxes(torch.tensor([[30.0, 20, 80, 40]]))
    result = undo_letterbox(stretched, 120)
    expected = bright_image((height, width), (30, 10, 80, 50))[..., 0] > 127
    assert (result.pred_masks[0].numpy() != expected).mean() < 0.02
    torch.testing.assert_close(result.pred_boxes.tensor, torch.tensor([[30.0, 10, 80, 50]]))


def test_the_trainer_letterboxes_and_measures_in_image_pixels(tmp_path):
    """A perfect detector has AP 100, seen through squares of another shape than the images."""
    images, annotations = [], []
    for number, size in enumerate([(60, 120), (150, 50)]):
        box = (10, 12, 45, 44)
        cv2.imwrite(str(tmp_path / f"{number}.png"), bright_image(size, box))
        images.append(
            {"id": number + 1, "file_name": f"{number}.png", "height": size[0], "width": size[1]}
        )
        annotations.append(
            {
                "id": number + 1, "image_id": number + 1, "category_id": 1,
                "bbox": [10, 12, 35, 32], "area": 35 * 32, "iscrowd": 0,
            }
        )  # fmt: skip
    content = {
        "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}],
    }  # fmt: skip
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    register_coco_files([["letterboxed", str(tmp_path / "boxes.json"), str(tmp_path)]])
    cfg = small_cfg()
    cfg.merge_from_list(
        [
            "INPUT.LETTERBOX", 320, "DATASETS.TEST", ("letterboxed",), "DATALOADER.NUM_WORKERS", 0,
            "OUTPUT_DIR", str(tmp_path / "output"),
        ]
    )  # fmt: skip
    item = letterbox_mapper(cfg)({"file_name": str(tmp_path / "0.png"), "height": 60, "width": 120})
    assert item["image"].shape == (3, 320, 320)
    assert item["image"][:, 0, 0].tolist() == [120, 120, 120]  # the mean colour
    results = Trainer.test(cfg, BrightPixels())
    assert results["bbox"]["AP75"] == pytest.approx(100)
