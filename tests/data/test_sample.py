"""Samples: boxes, outlines and shares under transforms, crops and joins."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from sparsenet.data.image_transforms import PerspectiveTransform, centred_homography
from sparsenet.data.sample import Sample, VisibilityLimits, joined
from sparsenet.errors import AnnotationError

SIZE = (100, 120)


def annotation(box, category=0, **more):
    x, y, x2, y2 = box
    outline = [[x, y, x2, y, x2, y2, x, y2]]
    return {
        "bbox": [x, y, x2 - x, y2 - y],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category,
        "segmentation": outline,
        **more,
    }


def make_sample(*boxes, has_masks=False, size=SIZE):
    image = np.zeros((*size, 3), np.uint8)
    annotations = [annotation(box, number) for number, box in enumerate(boxes)]
    return Sample.from_annotations(image, annotations, has_masks=has_masks)


def test_reads_annotations():
    image = np.zeros((*SIZE, 3), np.uint8)
    sample = Sample.from_annotations(
        image, [annotation((10, 20, 30, 50), 4), annotation((0, 0, 5, 5), 2, iscrowd=1)]
    )
    assert sample.boxes_xyxy.tolist() == [[10, 20, 30, 50], [0, 0, 5, 5]]
    assert sample.classes.tolist() == [4, 2] and sample.is_ignore.tolist() == [False, True]
    assert sample.size == SIZE and sample.polygons is None


def test_run_lengths_become_outlines_around_their_pixels():
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[20:60, 30:70] = 1
    item = annotation((30, 20, 70, 60), segmentation=coco_mask.encode(mask))
    sample = Sample.from_annotations(np.zeros((*SIZE, 3), np.uint8), [item], has_masks=True)
    points = np.concatenate(sample.polygons[0])
    np.testing.assert_allclose([*points.min(0), *points.max(0)], [30.5, 20.5, 69.5, 59.5])


def test_masks_that_are_wanted_must_be_there():
    item = {k: v for k, v in annotation((1, 2, 30, 40)).items() if k != "segmentation"}
    image = np.zeros((*SIZE, 3), np.uint8)
    with pytest.raises(AnnotationError, match="annotation 1 of its image has none"):
        Sample.from_annotations(image, [annotation((1, 1, 9, 9)), item], has_masks=True)
    crowd = Sample.from_annotations(image, [{**item, "iscrowd": 1}], has_masks=True)
    assert crowd.is_ignore.tolist() == [True]


def test_crops_cut_boxes_and_note_what_is_left():
    sample = make_sample((0, 0, 20, 20), (30, 30, 50, 70), (80, 80, 90, 90))
    cut = sample.cropped_to((10, 0, 60, 60))
    assert cut.boxes_xyxy.tolist() == [[10, 0, 20, 20], [30, 30, 50, 60]]
    assert cut.visible.tolist() == [0.5, 0.75] and cut.classes.tolist() == [0, 1]
    again = cut.cropped_to((10, 0, 60, 45))
    np.testing.assert_allclose(again.visible, [0.5, 0.375])


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 60), st.integers(0, 60), st.integers(8, 50), st.integers(8, 40), st.booleans()
)
def test_a_crop_transform_keeps_boxes_and_masks_on_their_pixels(x, y, width, height, has_masks):
    box = (20, 15, 70, 60)
    sample = make_sample(box, has_masks=has_masks)
    sample.image[box[1] : box[3], box[0] : box[2]] = 255
    cropped = sample.transformed(T.CropTransform(x, y, width, height, SIZE[1], SIZE[0]))
    bright = cropped.image[..., 0] > 0
    if not len(cropped.classes):
        assert not bright.any()
        return
    left, top, right, bottom = cropped.boxes_xyxy[0].astype(int)
    assert bright.sum() == (right - left) * (bottom - top)
    assert bright[top:bottom, left:right].all()
    assert cropped.visible[0] == pytest.approx(bright.sum() / (50 * 45), rel=1e-5)
    if has_masks:
        masks = cropped.to_example("bitmask")["instances"].gt_masks
        assert isinstance(masks, BitMasks)
        np.testing.assert_array_equal(masks.tensor[0].numpy(), bright)


def test_outlines_make_boxes_of_turned_objects_tight():
    circle = [[60 + 30 * np.cos(a), 50 + 30 * np.sin(a)] for a in np.linspace(0, 6.2, 60)]
    item = annotation((30, 20, 90, 80), segmentation=[np.ravel(circle).tolist()])
    image = np.zeros((*SIZE, 3), np.uint8)
    turn = PerspectiveTransform(centred_homography(SIZE, SIZE, degrees=45), SIZE, SIZE)
    tight = Sample.from_annotations(image, [item], has_masks=True).transformed(turn)
    loose = Sample.from_annotations(image, [item]).transformed(turn)
    np.testing.assert_allclose(tight.boxes_xyxy, [[30, 20, 90, 80]], atol=0.2)
    assert (loose.boxes_xyxy[:, 2] - loose.boxes_xyxy[:, 0]).item() > 80


def test_mirrored_twice_is_the_same():
    sample = make_sample((10, 20, 30, 50), (60, 5, 118, 95), has_masks=True)
    flip = T.HFlipTransform(SIZE[1])
    once = sample.transformed(flip)
    assert once.boxes_xyxy[0].tolist() == [90, 20, 110, 50]
    twice = once.transformed(flip)
    np.testing.assert_allclose(twice.boxes_xyxy, sample.boxes_xyxy)
    np.testing.assert_allclose(twice.polygons[1][0], sample.polygons[1][0])
    assert sample.polygons[0][0][0].tolist() == [10, 20]  # the first one has not changed


def test_limits_turn_what_cannot_be_made_out_into_ignore_boxes():
    sample = make_sample((0, 0, 50, 50), (0, 0, 1, 9), (0, 0, 90, 4), (0, 0, 40, 40))
    sample.visible[3] = 0.1
    limited = VisibilityLimits(0.2, 2.0, 20.0).applied(sample)
    assert limited.is_ignore.tolist() == [False, True, True, True]
    assert not sample.is_ignore.any()
    assert len(VisibilityLimits().applied(make_sample()).classes) == 0


def test_examples_have_objects_and_ignore_boxes_apart():
    sample = make_sample((10, 20, 30, 50), (60, 5, 100, 95), has_masks=True)
    sample.is_ignore[0] = True
    example = sample.to_example("polygon")
    assert example["image"].shape == (3, *SIZE)
    instances = example["instances"]
    assert instances.image_size == SIZE and instances.gt_classes.tolist() == [1]
    assert instances.gt_boxes.tensor.tolist() == [[60, 5, 100, 95]]
    assert isinstance(instances.gt_masks, PolygonMasks)
    assert example["ignore_boxes"].tensor.tolist() == [[10, 20, 30, 50]]
    assert "gt_masks" not in sample.to_example()["instances"].get_fields()


@pytest.mark.parametrize("mask_format", [None, "polygon", "bitmask"])
def test_images_without_objects(mask_format):
    example = make_sample(has_masks=True).to_example(mask_format)
    assert len(example["instances"]) == 0 and example["ignore_boxes"].tensor.shape == (0, 4)


def test_joined_has_the_objects_of_all():
    first, second = make_sample((1, 2, 3, 4), has_masks=True), make_sample((5, 6, 7, 8))
    image = np.ones((*SIZE, 3), np.uint8)
    both = joined(image, [first, second.shifted(10, 20)])
    assert both.boxes_xyxy.tolist() == [[1, 2, 3, 4], [15, 26, 17, 28]]
    assert both.image is image and both.polygons is None
    assert len(joined(image, [first, first]).polygons) == 2
