import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sparsenet.gigapixel.selection import LevelSelection, Reason, TileSelection
from sparsenet.tiling import TileGrid


def level(reasons, tile_size=256, overlap=64, downsample=1) -> LevelSelection:
    reasons = np.array(reasons, dtype=np.uint8)
    stride = (tile_size - overlap) * downsample
    height, width = (overlap * downsample + stride * n for n in reasons.shape)
    grid = TileGrid((height, width), tile_size, overlap, downsample)
    assert grid.shape == reasons.shape
    return LevelSelection(grid, reasons, np.zeros(reasons.shape, np.float32))


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    overlap=st.integers(0, 200),
    downsample=st.sampled_from([1, 2, 5]),
    data=st.data(),
)
def test_a_point_is_covered_where_a_kept_tile_holds_it(shape, overlap, downsample, data):
    num = shape[0] * shape[1]
    kept = data.draw(st.lists(st.booleans(), min_size=num, max_size=num))
    reasons = np.where(kept, Reason.OBJECT, Reason.EMPTY).reshape(shape)
    one = level(reasons, overlap=overlap, downsample=downsample)
    rng = np.random.default_rng(0)
    height, width = one.grid.image_size
    points = rng.uniform(0, [width, height], (40, 2))
    points[:8] = np.floor(points[:8])
    points[0] = 0
    expected = [
        any(
            one.kept[t.row, t.column]
            and t.window.x <= x < t.window.x2
            and t.window.y <= y < t.window.y2
            for t in one.grid
        )
        for x, y in points
    ]
    assert one.covers(points).tolist() == expected


def test_an_image_smaller_than_a_tile_is_covered():
    one = LevelSelection.every(TileGrid((100, 90), 256, 64, 1))
    assert one.covers(np.array([[0.0, 0.0], [89.9, 99.9]])).all()


def test_counts_pixels_and_skipped_tiles():
    coarse = level([[Reason.EVERY]], downsample=8)
    fine = level([[Reason.OBJECT, Reason.EMPTY], [Reason.PROBE, Reason.BUDGET]])
    selection = TileSelection((coarse, fine), num_probes_hit=1)
    assert selection.num_kept == 3
    assert selection.num_kept_pixels == 3 * 256**2
    assert selection.num_pixels == 5 * 256**2
    skipped = [(t.downsample, t.row, t.column, reason) for t, reason, _ in selection.skipped()]
    assert skipped == [(1, 0, 1, Reason.EMPTY), (1, 1, 1, Reason.BUDGET)]
    content = json.loads(json.dumps(selection.to_dict()))
    assert content["levels"][1] == {
        "downsample": 1, "num_tiles": 4, "num_kept": 2,
        "reasons": {"object": 1, "probe": 1, "empty": 1, "budget": 1},
    }  # fmt: skip
    assert (content["num_tiles"], content["num_kept"], content["num_probes_hit"]) == (5, 3, 1)
