import numpy as np
import pytest
from PIL import Image, ImageEnhance

from sparsenet.data.augmentation import RandomSideCrop, flip_boxes, jitter_color
from sparsenet.errors import ConfigError


class Fixed:
    """Stands in for a generator: brightness, contrast and saturation as given."""

    def __init__(self, *factors):
        self.factors = np.array(factors)

    def uniform(self, low, high, size):
        return self.factors


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(40, 200, (30, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("factors", "enhance"),
    [
        ((1.3, 1, 1), ImageEnhance.Brightness),
        ((0.6, 1, 1), ImageEnhance.Brightness),
        ((1, 1.4, 1), ImageEnhance.Contrast),
        ((1, 0.5, 1), ImageEnhance.Contrast),
        ((1, 1, 1.5), ImageEnhance.Color),
        ((1, 1, 0.0), ImageEnhance.Color),
    ],
)
def test_factors_mean_what_pillow_means(image, factors, enhance):
    (factor,) = [f for f in factors if f != 1]
    expected = np.asarray(enhance(Image.fromarray(image)).enhance(factor)).astype(int)
    changed = jitter_color(image, 0.5, Fixed(*factors)).astype(int)
    # Pillow rounds the grey values in between.
    assert np.abs(changed - expected).max() <= 2


def test_draws_within_the_strength_and_saturates():
    white = np.full((4, 4, 3), 250, np.uint8)
    means = [jitter_color(white, 0.2, np.random.default_rng(i)).mean() for i in range(50)]
    assert max(means) == 255
    assert min(means) >= 250 * 0.8 - 1


def test_zero_strength_changes_nothing_but_draws_all_the_same(image):
    one, two = np.random.default_rng(1), np.random.default_rng(1)
    assert jitter_color(image, 0.0, one) is image
    jitter_color(image, 0.5, two)
    assert one.random() == two.random()


def test_flipped_boxes_mirror_and_return():
    boxes = np.array([[1.0, 2.0, 4.0, 8.0], [0.0, 0.0, 10.0, 10.0]])
    flipped = flip_boxes(boxes, 10)
    assert flipped.tolist() == [[6, 2, 9, 8], [0, 0, 10, 10]]
    assert flip_boxes(flipped, 10).tolist() == boxes.tolist()
    assert flip_boxes(np.zeros((0, 4)), 10).shape == (0, 4)


@pytest.mark.parametrize("share", [0.0, 1.2])
def test_shares_of_crops_out_of_range(share):
    with pytest.raises(ConfigError, match=r"MIN_SHARE must be in \(0, 1\]"):
        RandomSideCrop(0.5, share)
