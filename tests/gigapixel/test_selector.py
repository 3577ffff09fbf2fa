import numpy as np
import pytest

from sparsenet.errors import ConfigError
from sparsenet.gigapixel import TileOptions
from sparsenet.gigapixel.area_mask import PixelMask
from sparsenet.gigapixel.evidence import Evidence
from sparsenet.gigapixel.options import SelectOptions
from sparsenet.gigapixel.selection import LevelSelection, Reason
from sparsenet.gigapixel.selector import select_tiles, selection_stages
from sparsenet.tiling import TileGrid

SIZE = (2048, 2048)
COARSE = TileGrid(SIZE, 256, 64, 8)
FINE = TileGrid(SIZE, 256, 64, 1)


def options(**select) -> TileOptions:
    select = {"mode": "coarse_to_fine", "probe_share": 0.0, **select}
    return TileOptions(
        downsamples=(1, 8), object_size_range=(16.0, 200.0), select=SelectOptions(**select)
    )


def objects(*rows) -> Evidence:
    """From (x, y, side, score)."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return Evidence(table[:, :2], table[:, 2], table[:, 3])


def choose(evidence, mask=None, **select) -> LevelSelection:
    first = select_tiles(COARSE, [], Evidence.empty(), options(**select), mask)
    return select_tiles(FINE, [first], evidence, options(**select), mask)


def chosen(level, reason=Reason.OBJECT) -> list[tuple[int, int]]:
    return [tuple(index) for index in np.argwhere(level.reasons == reason).tolist()]


def test_stages_are_one_pass_or_one_per_downsample():
    grids = options().grids(SIZE)
    assert [grid.downsample for grid in grids] == [8, 1]
    assert selection_stages(grids, options()) == [[grids[0]], [grids[1]]]
    assert selection_stages(grids, TileOptions(downsamples=(1, 8))) == [grids]


def test_the_first_stage_runs_everywhere():
    first = select_tiles(COARSE, [], Evidence.empty(), options())
    assert (first.reasons == Reason.EVERY).all()


def test_small_objects_choose_the_tile_that_holds_them_best():
    # Tile middles lie at 128 + 192 i: 320 is a middle, 250 is nearest to it, 200 to the first.
    level = choose(objects((320, 320, 20, 0.9), (250, 200, 20, 0.5), (2047, 0, 20, 0.4)))
    assert chosen(level) == [(0, 1), (0, FINE.shape[1] - 1), (1, 1)]
    assert level.worth[1, 1] == pytest.approx(0.9)
    assert level.worth[0, 1] == pytest.approx(0.5)
    assert (level.reasons == Reason.EMPTY).sum() == len(FINE) - 3


def test_every_small_object_is_whole_in_a_chosen_tile():
    rng = np.random.default_rng(0)
    sides = rng.uniform(5, 64, 300)  # up to the overlap
    centres = rng.uniform(sides[:, None] / 2, 2048 - sides[:, None] / 2)[:, :1]
    centres = np.concatenate([centres, rng.permutation(centres)], axis=1)
    centres = centres.clip(sides[:, None] / 2, 2048 - sides[:, None] / 2)
    for centre, side in zip(centres, sides):
        (place,) = chosen(choose(objects((*centre, side, 1.0))))
        window = FINE.row(place[0])[place[1]].window
        low, high = centre - side / 2, centre + side / 2
        assert (low >= window.xyxy[:2]).all() and (high <= window.xyxy[2:]).all()


def test_large_and_unlikely_objects_need_no_finer_look():
    # Good sizes begin at 128 px for the coarse level; the margin of an octave makes it 256.
    level = choose(objects((320, 320, 257, 0.9), (900, 900, 20, 0.29)))
    assert not level.kept.any()
    assert choose(objects((320, 320, 255, 0.9))).kept.sum() == 1
    assert choose(objects((320, 320, 255, 0.9)), margin=0.5).kept.sum() == 0


def test_neighbours_guard_recall():
    level = choose(objects((320, 320, 20, 0.9)), neighbours=1)
    assert chosen(level) == [(1, 1)]
    assert len(chosen(level, Reason.NEIGHBOUR)) == 8
    assert level.worth[0, 2] == pytest.approx(0.9)


def test_probes_are_a_share_of_the_rest_and_always_the_same():
    one, two = (choose(objects((320, 320, 20, 0.9)), probe_share=0.1) for _ in range(2))
    assert len(chosen(one, Reason.PROBE)) == np.ceil(0.1 * (len(FINE) - 1))
    np.testing.assert_array_equal(one.reasons, two.reasons)


def test_the_budget_keeps_the_best():
    seen = objects((320, 320, 20, 0.9), (900, 900, 20, 0.5), (1500, 300, 20, 0.7))
    level = choose(seen, max_tiles=len(COARSE) + 2, neighbours=1, probe_share=0.05)
    assert sorted(level.worth[level.reasons == Reason.OBJECT]) == pytest.approx([0.7, 0.9])
    assert level.kept.sum() == 2
    assert (level.reasons == Reason.BUDGET).sum() > 8
    assert not choose(seen, max_tiles=1).kept.any()


def test_a_mask_limits_every_level():
    inside = np.zeros((8, 8), dtype=bool)
    inside[:, :2] = True  # the left quarter: 0 to 512
    mask = PixelMask(inside, SIZE)
    seen = objects((320, 320, 20, 0.9), (1500, 1500, 20, 0.9))
    level = choose(seen, mask, probe_share=1.0)
    assert chosen(level) == [(1, 1)]
    assert not level.kept[:, 3:].any() and level.kept[:, :3].all()
    assert (level.reasons[:, 3:] == Reason.MASKED).all()


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"mode": "some"}, "SELECT must be one of"),
        ({"mode": "mask"}, "needs a file"),
        ({"mode": "all", "mask": "a.png"}, "takes none"),
        ({"mode": "all", "max_tiles": 5}, "MAX_TILES"),
        ({"threshold": 1.5}, r"THRESHOLD must be in \[0, 1\]"),
        ({"probe_share": -0.1}, "PROBE_SHARE"),
        ({"neighbours": -1}, "NEIGHBOURS must be at least 0"),
        ({"margin": -1.0}, "MARGIN"),
    ],
)
def test_options_that_cannot_work(select, message):
    with pytest.raises(ConfigError, match=message):
        SelectOptions(**select)
