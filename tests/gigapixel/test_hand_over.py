import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsenet.errors import ConfigError
from sparsenet.gigapixel import Detections, TileOptions
from sparsenet.gigapixel.hand_over import hand_over, octaves_outside
from sparsenet.gigapixel.selection import LevelSelection, Reason
from sparsenet.tiling import TileGrid

SIZE = (2048, 2048)


def options(hand_over=1.0, size_range=(16.0, 128.0)) -> TileOptions:
    return TileOptions(
        downsamples=(1, 2, 8), object_size_range=size_range, hand_over=hand_over,
        score_threshold=0.0,
    )  # fmt: skip


def levels(*downsamples) -> list[LevelSelection]:
    return [LevelSelection.every(TileGrid(SIZE, 256, 64, d)) for d in downsamples]


def squares(sides, downsample, score=0.8) -> Detections:
    """Detections of the given sides in the middle of the image."""
    sides = np.asarray(sides, dtype=np.float64)
    boxes = np.stack([-sides, -sides, sides, sides], axis=1) / 2 + 1000
    num = len(sides)
    return Detections(
        boxes, np.full(num, score), np.zeros(num), np.zeros(num), np.zeros(num), SIZE,
        downsamples=np.full(num, downsample),
    )  # fmt: skip


def test_octaves_count_from_the_range_in_tile_pixels():
    sides = np.array([8.0, 32, 64, 256, 512, 1024, 0])
    found = octaves_outside(sides, 2, (16, 128))
    np.testing.assert_allclose(found[:6], [2, 0, 0, 0, 1, 2])
    assert np.isfinite(found).all()
    assert not octaves_outside(sides[:6], 2, (0.0, 1e9)).any()


def test_scores_fall_with_the_distance_from_the_better_level():
    # At downsample 8 the range begins at 128 px; downsample 1 is good from 16 to 128.
    kept = hand_over(squares([128, 128 / 2**0.5, 65, 64, 20], 8), levels(8, 1), options())
    np.testing.assert_allclose(kept.scores, [0.8, 0.4, 0.8 * (1 - np.log2(128 / 65))], atol=1e-5)


def test_the_finest_keeps_the_smallest_and_the_coarsest_the_largest():
    for downsample, side in ((1, 3), (8, 1900)):
        found = squares([side], downsample)
        assert hand_over(found, levels(8, 2, 1), options()).scores == pytest.approx([0.8])


def test_no_width_is_a_hard_limit():
    kept = hand_over(squares([200, 128, 127.9, 20], 8), levels(8, 1), options(hand_over=0))
    np.testing.assert_allclose(kept.scores, [0.8, 0.8])


def test_where_no_better_level_looked_the_score_stays():
    fine = TileGrid(SIZE, 256, 64, 1)
    reasons = np.full(fine.shape, Reason.EMPTY, np.uint8)
    skipped = LevelSelection(fine, reasons, np.zeros(fine.shape, np.float32))
    found = squares([20], 8)
    assert len(hand_over(found, [*levels(8), skipped], options())) == 1
    assert len(hand_over(found, levels(8, 1), options())) == 0


def test_scores_below_the_threshold_are_dropped():
    found = squares([128 / 2**0.5], 8)
    limited = TileOptions(downsamples=(1, 8), object_size_range=(16.0, 128.0), score_threshold=0.5)
    assert len(hand_over(found, levels(8, 1), limited)) == 0


@given(
    st.lists(st.floats(1, 2000), min_size=1, max_size=20),
    st.floats(0, 4),
    st.sampled_from([(0.0, 1e9), (16.0, 128.0), (40.0, 50.0)]),
)
def test_of_every_object_the_best_level_keeps_the_full_score(sides, width, size_range):
    """So that hand-over alone never loses an object that all levels see."""
    every = levels(8, 2, 1)
    setting = options(width, size_range)
    best = np.zeros(len(sides))
    for level in every:
        found = squares(sides, level.grid.downsample)
        kept = hand_over(found, every, setting)
        assert (kept.scores <= np.float32(0.8)).all()
        for side, score in zip(kept.boxes_xyxy[:, 2] - kept.boxes_xyxy[:, 0], kept.scores):
            index = np.abs(np.array(sides) - side).argmin()
            best[index] = max(best[index], score)
    for side, score in zip(sides, best):
        near = [s for s in sides if abs(s - side) < 1e-2]  # float32 boxes cannot tell these apart
        assert score == pytest.approx(0.8, abs=1e-3) or len(near) > 1


def test_negative_widths_are_refused():
    with pytest.raises(ConfigError, match=r"HAND_OVER must be at least 0, got -1"):
        TileOptions(hand_over=-1)
