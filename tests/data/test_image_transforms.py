"""Letterbox, homographies, colour and sharpness: pixels and points move together."""

import numpy as np
import pytest
from golden_data import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet.data.augmentation import (
    AffineRanges,
    Letterbox,
    RandomBlur,
    RandomHSV,
    RandomNoise,
    RandomPerspective,
    RandomSideCrop,
)
from sparsenet.data.image_transforms import (
    BlurTransform,
    HSVTransform,
    LetterboxTransform,
    NoiseTransform,
    PerspectiveTransform,
    centred_homography,
)
from sparsenet.errors import ConfigError

SIZE = (120, 160)
BOX = (50, 40, 110, 80)
FILL = (9.0, 8.0, 7.0)


def paint(box=BOX, size=SIZE) -> np.ndarray:
    image = np.zeros((*size, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


def bounds(image: np.ndarray) -> np.ndarray:
    """The rectangle (x, y, x2, y2) of what is brighter than half."""
    rows, columns = np.nonzero(image[..., 0] > 127 if image.ndim == 3 else image)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def assert_box_stays_on_its_pixels(transform, tolerance=1.0):
    moved = transform.apply_box(np.array([BOX], np.float64))[0]
    np.testing.assert_allclose(bounds(transform.apply_image(paint())), moved, atol=tolerance)
    segmentation = transform.apply_segmentation(paint()[..., 0])
    np.testing.assert_allclose(bounds(segmentation), moved, atol=tolerance)


@pytest.mark.golden
def test_letterbox_places_images_as_the_port_does():
    """Height, width, height and width of the result, scale, left, top."""
    for h, w, *result, scale, left, top in load_golden("sparsercnn_unofficial.npz")[
        "letterbox_rows"
    ]:
        transform = LetterboxTransform(int(h), int(w), 640)
        assert result == [640, 640]
        assert (transform.left, transform.top) == (left, top)
        corners = transform.apply_coords(np.array([[0.0, 0.0], [w, h]]))
        # The port multiplies by the scale, here the sides are whole pixels: half a pixel apart.
        np.testing.assert_allclose(corners[1] - corners[0], [w * scale, h * scale], atol=0.51)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 200))
def test_letterbox_fits_and_centres_any_size(height, width, side):
    transform = LetterboxTransform(height, width, side, FILL)
    image = transform.apply_image(np.full((height, width, 3), 200, np.uint8))
    assert image.shape == (side, side, 3)
    is_inside = (image == 200).all(-1)
    assert (is_inside | (image == np.array(FILL)).all(-1)).all()
    left, top, right, bottom = bounds(is_inside)
    assert max(right - left, bottom - top) == side
    assert 0 <= (side - right) - left <= 1 and 0 <= (side - bottom) - top <= 1
    corners = transform.apply_coords(np.array([[0.0, 0.0], [width, height]]))
    np.testing.assert_allclose(corners.ravel(), [left, top, right, bottom])


@pytest.mark.parametrize("side", [64, 160, 400])
def test_letterboxed_boxes_stay_on_their_pixels_and_come_back(side):
    transform = LetterboxTransform(*SIZE, side)
    assert_box_stays_on_its_pixels(transform)
    inverse = transform.inverse()
    there = transform.apply_coords(np.array([[50.0, 40], [110, 80]]))
    np.testing.assert_allclose(inverse.apply_coords(there), [[50, 40], [110, 80]], atol=1e-4)
    assert inverse.apply_image(transform.apply_image(paint())).shape == paint().shape


def test_letterbox_refuses_other_sizes():
    with pytest.raises(AssertionError, match=r"for images of \(10, 20\), got \(20, 10\)"):
        LetterboxTransform(10, 20, 8).apply_image(np.zeros((20, 10, 3), np.uint8))


@settings(max_examples=40, deadline=None)
@given(
    degrees=st.sampled_from([0, 90, 180, -90]),
    scale=st.floats(0.6, 1.2),
    shift=st.tuples(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1)),
)
def test_rectangles_that_stay_rectangles_keep_their_pixels(degrees, scale, shift):
    matrix = centred_homography(SIZE, (200, 200), degrees=degrees, scale=scale, shift=shift)
    assert_box_stays_on_its_pixels(PerspectiveTransform(matrix, SIZE, (200, 200), FILL))


@settings(max_examples=40, deadline=None)
@given(
    degrees=st.floats(-30, 30),
    shear=st.tuples(st.floats(-15, 15), st.floats(-15, 15)),
    perspective=st.tuples(st.floats(-2e-3, 2e-3), st.floats(-2e-3, 2e-3)),
)
def test_turned_boxes_enclose_their_pixels_tightly(degrees, shear, perspective):
    matrix = centred_homography(
        SIZE, (300, 300), degrees=degrees, scale=0.9, shear=shear, perspective=perspective
    )
    # Corners of a turned box are sharp: half a corner pixel is dark.
    assert_box_stays_on_its_pixels(PerspectiveTransform(matrix, SIZE, (300, 300)), tolerance=3)


@given(st.floats(-180, 180), st.floats(0.2, 5), st.tuples(st.floats(-1, 1), st.floats(-1, 1)))
@settings(max_examples=40, deadline=None)
def test_homographies_move_the_centre_to_the_centre_and_return(degrees, scale, shift):
    matrix = centred_homography(SIZE, (90, 70), degrees=degrees, scale=scale, shift=shift)
    transform = PerspectiveTransform(matrix, SIZE, (90, 70))
    centre = transform.apply_coords(np.array([[80.0, 60]]))
    np.testing.assert_allclose(centre, [[70 * (0.5 + shift[0]), 90 * (0.5 + shift[1])]], atol=1e-6)
    points = np.random.default_rng(0).uniform(0, 100, (5, 2))
    back = transform.inverse().apply_coords(transform.apply_coords(points))
    np.testing.assert_allclose(back, points, atol=1e-6)


def test_a_map_that_does_nothing_gives_the_same_pixels_and_beyond_is_the_fill():
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    same = PerspectiveTransform(centred_homography(SIZE, SIZE), SIZE, SIZE)
    np.testing.assert_array_equal(same.apply_image(image), image)
    half = PerspectiveTransform(centred_homography(SIZE, SIZE, scale=0.5), SIZE, SIZE, FILL)
    corners = half.apply_image(image)[[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_array_equal(corners, [FILL] * 4)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_hsv_factors_of_one_keep_colours_and_others_change_what_they_name(image_format):
    image = np.random.default_rng(0).integers(30, 220, (20, 30, 3), dtype=np.uint8)
    same = HSVTransform((1, 1, 1), image_format).apply_image(image)
    assert np.abs(same.astype(int) - image).max() <= 6  # hues of 8 bits are 2 degrees wide
    grey = HSVTransform((1, 0, 1), image_format).apply_image(image)
    np.testing.assert_array_equal(grey, image.max(-1, keepdims=True).repeat(3, -1))
    dark = HSVTransform((1, 1, 0.5), image_format).apply_image(image)
    np.testing.assert_allclose(dark.max(-1), image.max(-1) / 2, atol=1)


def test_hue_means_the_same_in_both_channel_orders():
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    rgb = HSVTransform((1.2, 1, 1), "RGB").apply_image(image)
    bgr = HSVTransform((1.2, 1, 1), "BGR").apply_image(image[..., ::-1])
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])


@pytest.mark.parametrize("kind", BlurTransform.KINDS)
def test_blur_smooths_and_keeps_flat_parts(kind):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert BlurTransform(kind, 5).apply_image(image).std() < 0.8 * image.std()
    flat = np.full((8, 8, 3), 77, np.uint8)
    np.testing.assert_array_equal(BlurTransform(kind, 3).apply_image(flat), flat)


def test_noise_has_its_deviation_and_saturates():
    flat = np.full((100, 100, 3), 128, np.uint8)
    noisy = NoiseTransform(10.0, seed=1).apply_image(flat)
    assert noisy.mean() == pytest.approx(128, abs=0.5)
    assert noisy.std() == pytest.approx(10, rel=0.05)
    np.testing.assert_array_equal(noisy, NoiseTransform(10.0, seed=1).apply_image(flat))
    assert NoiseTransform(50.0, seed=1).apply_image(np.zeros_like(flat)).max() < 255


AUGMENTATIONS = {
    "letterbox": Letterbox(64),
    "hsv": RandomHSV(1.0),
    "blur": RandomBlur(1.0),
    "noise": RandomNoise(1.0),
    "crop": RandomSideCrop(1.0),
    "perspective": RandomPerspective(1.0, AffineRanges(10, (0.8, 1.2), 0.1, 5, 0.2)),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_draws_depend_on_the_generator_alone(name):
    augmentation, image = AUGMENTATIONS[name], paint()
    image[:30, :30] = (200, 90, 40)

    def draw(seed):
        return augmentation.draw(SIZE, np.random.default_rng(seed)).apply_image(image)

    np.testing.assert_array_equal(draw(1), draw(1))
    results = [draw(seed) for seed in range(8)]
    is_random = any(r.shape != results[0].shape or (r != results[0]).any() for r in results)
    assert is_random == (name != "letterbox")


def test_probabilities_switch_off_and_on():
    rng = np.random.default_rng(0)
    happened = [
        sum(RandomBlur(p).draw(SIZE, rng).__class__ is BlurTransform for _ in range(400))
        for p in (0.0, 0.25, 1.0)
    ]
    assert happened[0] == 0 and happened[2] == 400 and 70 < happened[1] < 130


def test_cropped_sides_are_in_their_range():
    for seed in range(30):
        transform = RandomSideCrop(1.0, 0.6).draw(SIZE, np.random.default_rng(seed))
        height, width = transform.apply_image(paint()).shape[:2]
        assert 72 <= height <= 120 and 96 <= width <= 160


def test_values_out_of_range():
    with pytest.raises(ConfigError, match=r"probability of RandomBlur must be in \[0, 1\], got 2"):
        RandomBlur(2)
    for ranges in ({"scale": (0.0, 1.0)}, {"scale": (2.0, 1.0)}, {"perspective": 0.5}):
        with pytest.raises(ConfigError, match=r"SCALE of INPUT.AUG must be two positive"):
            AffineRanges(**ranges)
