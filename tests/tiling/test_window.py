import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet.errors import ConfigError
from sparsenet.tiling import Window, boxes_to_image, boxes_to_tile

windows = st.builds(
    Window, st.integers(-50, 50), st.integers(-50, 50), st.integers(0, 40), st.integers(0, 40)
)


def pixels(window: Window) -> set[tuple[int, int]]:
    return {(x, y) for x in range(window.x, window.x2) for y in range(window.y, window.y2)}


@settings(deadline=None)
@given(windows, windows)
def test_intersection_is_the_common_pixels(a, b):
    assert pixels(a.intersection(b)) == pixels(a) & pixels(b)
    assert a.intersection(b).area == b.intersection(a).area


@settings(deadline=None)
@given(windows, windows)
def test_union_is_the_smallest_window_around_both(a, b):
    union = a.union(b)
    assert union.contains(a) and union.contains(b)
    assert union.xyxy == (min(a.x, b.x), min(a.y, b.y), max(a.x2, b.x2), max(a.y2, b.y2))


@settings(deadline=None)
@given(windows, windows)
def test_contains_means_all_pixels_and_sides(a, b):
    if b.area:
        assert a.contains(b) == (pixels(b) <= pixels(a))


@settings(deadline=None)
@given(windows, st.integers(1, 60), st.integers(1, 60))
def test_clip_stays_inside_the_image(window, height, width):
    image = Window(0, 0, width, height)
    assert pixels(window.clip((height, width))) == pixels(window) & pixels(image)


@settings(deadline=None)
@given(windows, st.integers(-9, 9), st.integers(-9, 9))
def test_shift_there_and_back(window, dx, dy):
    moved = window.shift(dx, dy)
    assert moved.size == window.size
    assert moved.shift(-dx, -dy) == window


@settings(deadline=None)
@given(windows, st.sampled_from([1, 2, 4, 8, 1.5]))
def test_boxes_go_to_the_tile_and_back(window, downsample):
    boxes = np.array([[3.0, 4.0, 10.5, 20.0], [-7.0, 0.0, 1.0, 2.0]])
    there = boxes_to_tile(boxes, window, downsample)
    np.testing.assert_allclose(boxes_to_image(there, window, downsample), boxes, atol=1e-9)


def test_boxes_to_tile_by_hand():
    boxes = np.array([[110.0, 220.0, 150.0, 260.0]], dtype=np.float32)
    moved = boxes_to_tile(boxes, Window(100, 200, 64, 64), 2)
    assert moved.tolist() == [[5.0, 10.0, 25.0, 30.0]]
    assert moved.dtype == np.float32


def test_numpy_integers_are_accepted_and_stored_as_int():
    window = Window(np.int64(1), np.int32(2), np.uint8(3), 4)
    assert window == Window(1, 2, 3, 4)
    assert type(window.x) is int


@pytest.mark.parametrize("bad", [1.5, 2.0, "3", None])
def test_fields_that_are_no_integers_are_refused(bad):
    with pytest.raises(ConfigError, match=r"Window\.width must be an integer"):
        Window(0, 0, bad, 1)


def test_negative_sides_are_refused():
    with pytest.raises(ConfigError, match="sides must be at least 0"):
        Window(0, 0, 1, -1)
