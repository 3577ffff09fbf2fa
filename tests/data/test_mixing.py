"""Mosaic, mixup and single images: what is drawn, and that boxes stay on their pixels."""

import numpy as np
import pytest
from detectron2.config import get_cfg
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet.config import add_sparsenet_config
from sparsenet.data.image_transforms import LetterboxTransform
from sparsenet.data.mixing import SampleAugmenter, blend, is_augmented, make_mosaic
from sparsenet.data.sample import Sample
from sparsenet.errors import ConfigError

FILL = (0.0, 0.0, 0.0)
GROUND = 40


def make_sample(number: int, size=(60, 80), box=(20, 15, 50, 40)) -> Sample:
    """A rectangle of grey level 100, 130, 160 or 190, by its number, on dark ground."""
    image = np.full((*size, 3), GROUND, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 100 + 30 * number
    return Sample(
        image=image,
        boxes_xyxy=np.array([box], np.float32),
        classes=np.array([number]),
        is_ignore=np.zeros(1, bool),
        visible=np.ones(1, np.float32),
    )


def assert_boxes_on_their_pixels(sample: Sample, tolerance: int = 2) -> None:
    """Inside its box an object has its level; outside all boxes there is only ground."""
    covered = np.zeros(sample.size, bool)
    for (x, y, x2, y2), number in zip(sample.boxes_xyxy.round().astype(int), sample.classes):
        high_y, high_x = max(y2 - tolerance, 0), max(x2 - tolerance, 0)
        inside = sample.image[y + tolerance : high_y, x + tolerance : high_x, 0]
        assert (np.abs(inside.astype(int) - (100 + 30 * number)) <= 3).all()
        low_y, low_x = max(y - tolerance, 0), max(x - tolerance, 0)
        covered[low_y : y2 + tolerance, low_x : x2 + tolerance] = True
    # A sliver that was cut off shows in the last row or column, mixed with the ground.
    assert (sample.image[~covered] <= GROUND + 20).all()


def make_augmenter(side=64, flip=0.0, **keys) -> SampleAugmenter:
    cfg = get_cfg()
    add_sparsenet_config(cfg)
    cfg.MODEL.PIXEL_MEAN = [0.0, 0.0, 0.0]
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.AUG.AFFINE.DEGREES = 0.0  # boxes of turned rectangles are not full
    for key, value in keys.items():
        cfg.merge_from_list([f"INPUT.AUG.{key}", value])
    return SampleAugmenter.from_config(cfg, side=side, flip=flip)


def letterboxed(sample: Sample) -> Sample:
    return sample.transformed(LetterboxTransform(*sample.size, 64, FILL))


def draw(augmenter: SampleAugmenter, seed: int) -> Sample:
    partners = (make_sample(1), make_sample(2, (90, 40), (5, 10, 35, 70)), make_sample(3, (30, 30)))
    rng = np.random.default_rng(seed)
    return augmenter(make_sample(0), rng, lambda number: partners[number], letterboxed)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), side=st.sampled_from([32, 64, 101]))
def test_parts_of_a_mosaic_show_their_objects(seed, side):
    parts = [make_sample(0), make_sample(1, (50, 50)), make_sample(2), make_sample(3, (80, 60))]
    mosaic = make_mosaic(parts, side, np.random.default_rng(seed), FILL)
    assert mosaic.size == (2 * side, 2 * side)
    assert_boxes_on_their_pixels(mosaic)
    assert ((mosaic.visible > 0) & (mosaic.visible <= 1)).all()
    np.testing.assert_array_equal(parts[0].image, make_sample(0).image)


def test_all_parts_meet_in_the_centre():
    size = (40, 40)
    parts = [make_sample(number, size, (0, 0, 40, 40)) for number in range(4)]
    for seed in range(10):
        mosaic = make_mosaic(parts, 40, np.random.default_rng(seed), FILL)
        assert mosaic.classes.tolist() == [0, 1, 2, 3]
        x, y = mosaic.boxes_xyxy[0, 2:].tolist()
        assert 20 <= x <= 60 and 20 <= y <= 60
        np.testing.assert_array_equal(mosaic.boxes_xyxy[1, [0, 3]], [x, y])
        np.testing.assert_array_equal(mosaic.boxes_xyxy[2, [2, 1]], [x, y])
        np.testing.assert_array_equal(mosaic.boxes_xyxy[3, :2], [x, y])


def test_a_blend_has_both_images_and_both_objects():
    first, second = make_sample(0), make_sample(3, (90, 40), (5, 45, 35, 70))
    both = blend(first, second, weight=0.25, fill=FILL)
    assert both.size == (90, 80) and both.classes.tolist() == [0, 3]
    assert both.image[20, 45, 0] == round(0.25 * 100)  # beyond the second image
    assert both.image[17, 22, 0] == round(0.25 * 100 + 0.75 * GROUND)
    assert both.image[80, 70, 0] == 0


@pytest.mark.parametrize("seed", range(12))
def test_mosaics_are_cut_to_the_side_and_keep_boxes_on_pixels(seed):
    mixed = draw(make_augmenter(**{"MOSAIC.PROB": 1.0}), seed)
    assert mixed.size == (64, 64)
    assert_boxes_on_their_pixels(mixed, tolerance=3)


@pytest.mark.parametrize("seed", range(8))
def test_single_images_are_cropped_fitted_and_moved_with_their_boxes(seed):
    keys = {"CROP.PROB": 1.0, "AFFINE.PROB": 1.0, "AFFINE.TRANSLATE": 0.2}
    mixed = draw(make_augmenter(flip=0.5, **keys), seed)
    assert mixed.size == (64, 64) and set(mixed.classes) <= {0}
    assert_boxes_on_their_pixels(mixed, tolerance=3)


def test_a_flip_mirrors_everything():
    plain, mirrored = draw(make_augmenter(), 0), draw(make_augmenter(flip=1.0), 0)
    np.testing.assert_array_equal(mirrored.image, plain.image[:, ::-1])
    x, y, x2, y2 = plain.boxes_xyxy[0]
    np.testing.assert_allclose(mirrored.boxes_xyxy, [[64 - x2, y, 64 - x, y2]])


def test_shares_of_mosaics_and_blends():
    augmenter = make_augmenter(**{"MOSAIC.PROB": 0.5, "MIXUP.PROB": 0.25})
    num_partners = {0: 0, 1: 0, 3: 0}
    for seed in range(200):
        asked = set()

        def partner(number, asked=asked):
            asked.add(number)
            return make_sample(1)

        augmenter(make_sample(0), np.random.default_rng(seed), partner, letterboxed)
        num_partners[len(asked)] += 1
    assert 80 < num_partners[3] < 120 and 30 < num_partners[1] < 70 and 30 < num_partners[0] < 70


def test_everything_off_only_fits():
    result, expected = draw(make_augmenter(), 0), letterboxed(make_sample(0))
    np.testing.assert_array_equal(result.image, expected.image)
    np.testing.assert_array_equal(result.boxes_xyxy, expected.boxes_xyxy)


def test_little_that_is_left_is_ignored():
    strict = make_augmenter(**{"MOSAIC.PROB": 1.0, "MIN_VISIBLE": 0.99})
    results = [draw(strict, seed) for seed in range(20)]
    for result in results:
        assert (result.is_ignore == (result.visible < 0.99)).all()
    assert 0 < sum(result.is_ignore.sum() for result in results)
    assert any((~result.is_ignore).any() for result in results)


@pytest.mark.parametrize("number", range(4))
def test_colours_change_in_every_part(number):
    """Noise of a mosaic's parts is their own: nothing but the fill stays flat."""
    mixed = draw(make_augmenter(**{"MOSAIC.PROB": 1.0, "NOISE.PROB": 1.0}), number)
    ground = mixed.image[mixed.image[..., 0] > 0]
    assert len(np.unique(ground)) > 20


def test_each_switch_turns_the_recipe_on():
    cfg = get_cfg()
    add_sparsenet_config(cfg)
    assert not is_augmented(cfg)
    for key in ("HSV", "BLUR", "NOISE", "CROP", "AFFINE", "MOSAIC", "MIXUP"):
        changed = cfg.clone()
        changed.INPUT.AUG[key].PROB = 0.1
        assert is_augmented(changed), key
    cfg.INPUT.LETTERBOX = 64
    assert is_augmented(cfg)


def test_shares_that_cannot_be():
    for keys in (
        {"MOSAIC.PROB": 0.8, "MIXUP.PROB": 0.3},
        {"MOSAIC.PROB": -0.1},
        {"MIXUP.PROB": 0.5, "MIXUP.BETA": 0.0},
    ):
        with pytest.raises(ConfigError, match="at most 1 together"):
            make_augmenter(**keys)
    with pytest.raises(ConfigError, match=r"A mosaic needs a side: set INPUT.LETTERBOX"):
        make_augmenter(side=0, **{"MOSAIC.PROB": 0.5})
