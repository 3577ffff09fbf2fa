"""Reading images and transforming them, real or lite: behaviour that both share."""

import numpy as np
import pytest
import torch
from contract.data_cases import make_image
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from PIL import Image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_read_upright(tmp_path, orientation):
    pixels = np.kron(
        np.array([[10, 80, 240], [120, 160, 200]], np.uint8), np.ones((8, 8), np.uint8)
    )
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: pixels.T[::-1],
        7: pixels.T[::-1, ::-1],
        8: pixels.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "photo.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    image = detection_utils.read_image(str(path), "L")
    assert np.array_equal(image[:, :, 0], pixels)


def test_channels_go_where_the_format_says(tmp_path):
    path = str(tmp_path / "red.png")
    Image.new("RGB", (4, 3), (200, 10, 0)).save(path)
    assert detection_utils.read_image(path, "BGR")[0, 0].tolist() == [0, 10, 200]
    rgb = detection_utils.read_image(path, "RGB")
    assert rgb.shape == (3, 4, 3) and rgb[0, 0].tolist() == [200, 10, 0]
    assert detection_utils.read_image(path).shape == (3, 4, 3)
    back = detection_utils.convert_image_to_rgb(torch.tensor(rgb[:, :, ::-1].copy()), "BGR")
    assert np.array_equal(back, rgb)


def test_stated_size_must_be_that_of_the_image():
    image = make_image(5, 7)
    with pytest.raises(detection_utils.SizeMismatchError, match=r"a\.png"):
        detection_utils.check_image_size({"file_name": "a.png", "height": 7, "width": 5}, image)
    incomplete = {"file_name": "a.png"}
    detection_utils.check_image_size(incomplete, image)
    assert (incomplete["height"], incomplete["width"]) == (5, 7)


def test_flat_boxes_are_filtered():
    instances = Instances((50, 50))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0, 5, 5], [3, 3, 3, 9], [1, 1, 2, 1.5]]))
    instances.gt_classes = torch.tensor([0, 1, 2])
    kept, mask = detection_utils.filter_empty_instances(instances, return_mask=True)
    assert mask.tolist() == [True, False, True] and kept.gt_classes.tolist() == [0, 2]
    assert len(detection_utils.filter_empty_instances(instances, box_threshold=1)) == 1


def test_image_without_annotations_has_no_instances_but_the_fields():
    empty = detection_utils.annotations_to_instances([], (4, 5))
    assert empty.gt_boxes.tensor.shape == (0, 4) and empty.gt_classes.dtype == torch.int64


def test_augmentation_arguments_are_checked():
    with pytest.raises(ValueError, match=r"[Tt]wo"):
        T.RandomFlip(horizontal=True, vertical=True)
    with pytest.raises(AssertionError):
        T.ResizeShortestEdge([1, 2, 3])
    with pytest.raises(AssertionError):
        T.RandomCrop("nonsense", (1, 1))
    with pytest.raises(AssertionError):
        T.AugInput([[1]])


def test_augmentations_take_the_inputs_that_they_name():
    class CropToBox(T.Augmentation):
        def get_transform(self, image, boxes):
            x0, y0, x1, y1 = boxes[0].astype(int)
            return T.CropTransform(x0, y0, x1 - x0, y1 - y0)

    class NeedsMore(T.Augmentation):
        def get_transform(self, image, depth):
            return T.NoOpTransform()

    inputs = T.AugInput(make_image(20, 30), boxes=np.array([[5.0, 4, 15, 12]]))
    tfm = T.AugmentationList([CropToBox(), T.HFlipTransform(10)])(inputs)
    assert inputs.image.shape == (8, 10, 3) and inputs.boxes.tolist() == [[0, 0, 10, 8]]
    assert tfm.apply_coords(np.array([[5.0, 4.0]])).tolist() == [[10, 0]]
    with pytest.raises(AttributeError, match="depth"):
        NeedsMore()(inputs)


def test_apply_augmentations_takes_a_bare_image():
    image = make_image(20, 30)
    flipped, tfms = T.apply_transform_gens([T.RandomFlip(prob=1.0)], image)
    assert np.array_equal(flipped, image[:, ::-1])
    assert np.array_equal(tfms.inverse().apply_image(flipped), image)
