"""Photos as a whole: sizes, channel order, order of the results."""

import numpy as np
import pytest
import torch
from contract.detector_inputs import mask_rcnn_config, model_of
from detectron2.config import get_cfg
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Boxes, Instances
from torch import nn

from sparsenet.config import add_sparsenet_config
from sparsenet.errors import ConfigError, ImageReadError
from sparsenet.gigapixel.masks import decode_mask, mask_windows
from sparsenet.gigapixel.photo_predictor import PhotoPredictor
from sparsenet.tiling.reader import ArrayReader


class WholeImage(nn.Module):
    """Three boxes in full-image pixels; remembers what it saw."""

    def forward(self, batch):
        (self.item,) = batch
        size = (self.item["height"], self.item["width"])
        boxes = torch.tensor([[0.0, 0, 9, 9], [1, 1, 5, 5], [2, 2, 4, 4]])
        found = Instances(size, pred_boxes=Boxes(boxes))
        found.scores = torch.tensor([0.3, 0.01, 0.8])
        found.pred_classes = torch.tensor([0, 0, 1])
        found.pred_masks = torch.arange(size[1]).expand(3, *size) < 3
        return [{"instances": found}]


def config(image_format):
    cfg = get_cfg()
    add_sparsenet_config(cfg)
    cfg.INPUT.FORMAT = image_format
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 60, 90
    return cfg


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_the_photo_is_resized_and_ordered(image_format):
    image = np.zeros((100, 200, 3), dtype=np.uint8)
    image[..., 0] = 200  # red
    model = WholeImage().train()
    result = PhotoPredictor(config(image_format), model, ("a", "b"))(image)
    assert not model.training
    assert tuple(model.item["image"].shape) == (3, 45, 90)  # the longer side is limited
    assert (model.item["height"], model.item["width"]) == (100, 200)
    red = {"RGB": 0, "BGR": 2}[image_format]
    assert model.item["image"][red].min() == 200
    found = result.detections
    np.testing.assert_allclose(found.scores, [0.8, 0.3])  # best first, above 0.05
    assert found.boxes_xyxy[0].tolist() == [2, 2, 4, 4]
    assert not found.truncated.any()
    assert found.class_names == ("a", "b")
    assert decode_mask(found.masks[0]).tolist() == [[True, False]] * 2
    assert (result.num_tiles, result.num_tile_pixels) == (1, 45 * 90)


def test_masks_of_mask_rcnn_are_those_that_it_would_paste_into_the_photo():
    image = np.random.default_rng(0).integers(0, 255, (150, 210, 3), dtype=np.uint8)
    cfg = config("BGR")
    cfg.TEST.TILE.SCORE_THRESHOLD = 0.0
    model = model_of(mask_rcnn_config())
    found = PhotoPredictor(cfg, model)(image).detections
    small = ResizeShortestEdge([60, 60], 90).get_transform(image).apply_image(image)
    item = {"image": torch.tensor(small[:, :, ::-1].copy()).permute(2, 0, 1)}  # (3, h, w)
    with torch.no_grad():
        pasted = model([item | {"height": 150, "width": 210}])[0]["instances"]
    order = np.argsort(-pasted.scores.numpy(), kind="stable")
    np.testing.assert_array_equal(found.boxes_xyxy, pasted.pred_boxes.tensor.numpy()[order])
    for mask, whole, (x1, y1, x2, y2) in zip(
        found.masks, pasted.pred_masks.numpy()[order], mask_windows(found.boxes_xyxy).tolist()
    ):
        differs = decode_mask(mask) != whole[y1:y2, x1:x2]
        assert differs.mean() < 1e-3  # roundings
    assert len(found) > 10


def test_a_photo_is_one_tile_of_one():
    events = []
    PhotoPredictor(config("RGB"), WholeImage())(
        np.zeros((100, 200, 3), dtype=np.uint8), on_progress=events.append
    )
    assert [event.kind for event in events] == ["start", "selected", "tiles", "end"]
    assert [(event.num_done, event.num_tiles) for event in events[1:]] == [(0, 1), (1, 1), (1, 1)]


def test_a_photo_that_exceeds_the_memory_is_told():
    class Large(nn.Module):
        def forward(self, batch):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(ConfigError, match=r"90 × 45 pixels do not fit\. Lower INPUT"):
        PhotoPredictor(config("RGB"), Large())(np.zeros((100, 200, 3), dtype=np.uint8))


def test_a_gigapixel_image_needs_tiles():
    row = np.zeros((1, 1, 3), dtype=np.uint8)
    reader = ArrayReader(np.broadcast_to(row, (20_000, 20_000, 3)))
    with pytest.raises(ImageReadError, match=r"TEST\.TILE\.ENABLED"):
        PhotoPredictor(config("RGB"), WholeImage())(reader)
