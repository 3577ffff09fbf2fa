import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet.tiling import Window, clip_boxes, visible_share

WINDOW = Window(10, 20, 100, 50)  # x 10..110, y 20..70


def test_visible_share_by_hand():
    boxes = np.array(
        [
            [20, 30, 40, 50],  # inside
            [0, 30, 20, 40],  # left half outside
            [100, 60, 120, 80],  # a quarter inside
            [200, 200, 300, 300],  # outside
            [10, 20, 110, 70],  # the window itself
            [50, 50, 50, 60],  # no area
        ],
        dtype=np.float32,
    )
    np.testing.assert_allclose(visible_share(boxes, WINDOW), [1, 0.5, 0.25, 0, 1, 0])


def test_clip_boxes_keeps_dtype_and_input():
    boxes = np.array([[0, 0, 60, 60], [200, 0, 300, 30]], dtype=np.float32)
    clipped = clip_boxes(boxes, WINDOW)
    assert clipped.tolist() == [[10, 20, 60, 60], [110, 20, 110, 30]]
    assert clipped.dtype == np.float32
    assert boxes[0, 0] == 0


def test_no_boxes():
    none = np.zeros((0, 4), dtype=np.float32)
    assert visible_share(none, WINDOW).shape == (0,)
    assert clip_boxes(none, WINDOW).shape == (0, 4)


@settings(deadline=None)
@given(st.lists(st.floats(-200, 200, width=32), min_size=4, max_size=4))
def test_share_is_within_zero_and_one(values):
    x, x2 = sorted(values[:2])
    y, y2 = sorted(values[2:])
    (share,) = visible_share(np.array([[x, y, x2, y2]]), WINDOW)
    assert 0 <= share <= 1 + 1e-9
