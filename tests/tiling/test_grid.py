from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet.errors import ConfigError
from sparsenet.tiling import TileGrid, Window, tile_starts


@st.composite
def grids(draw) -> TileGrid:
    tile_size = draw(st.integers(3, 40))
    return TileGrid(
        image_size=(draw(st.integers(1, 150)), draw(st.integers(1, 150))),
        tile_size=tile_size,
        overlap=draw(st.integers(0, tile_size - 1)),
        downsample=draw(st.sampled_from([1, 2, 3, 4, 8])),
    )


@settings(deadline=None)
@given(grids())
def test_every_pixel_is_covered(grid):
    seen = [np.zeros(length, dtype=bool) for length in grid.image_size]
    side = grid.tile_size * grid.downsample
    for starts, axis in zip((grid.ys, grid.xs), seen):
        for start in starts:
            axis[start : start + side] = True
    assert all(axis.all() for axis in seen)


@settings(deadline=None)
@given(grids())
def test_tiles_lie_inside_and_the_last_ends_at_the_border(grid):
    image = Window(0, 0, *grid.image_size[::-1])
    tiles = list(grid)
    assert len(tiles) == len(grid) == grid.shape[0] * grid.shape[1]
    assert all(image.contains(tile.window) and tile.window.area for tile in tiles)
    assert (tiles[-1].window.x2, tiles[-1].window.y2) == (image.x2, image.y2)


@settings(deadline=None)
@given(grids())
def test_neighbours_share_at_least_the_overlap(grid):
    side = grid.tile_size * grid.downsample
    for starts in (grid.xs, grid.ys):
        shared = [a + side - b for a, b in pairwise(starts)]
        assert all(pixels >= grid.overlap * grid.downsample for pixels in shared)
        assert starts == sorted(set(starts))


@settings(deadline=None)
@given(grids(), st.data())
def test_objects_up_to_the_overlap_are_whole_in_some_tile(grid, data):
    largest = max(1, grid.overlap * grid.downsample)
    height, width = grid.image_size
    w = data.draw(st.integers(1, min(largest, width)))
    h = data.draw(st.integers(1, min(largest, height)))
    x, y = data.draw(st.integers(0, width - w)), data.draw(st.integers(0, height - h))
    assert any(tile.window.contains(Window(x, y, w, h)) for tile in grid)


@settings(deadline=None)
@given(grids())
def test_all_tiles_share_one_pixel_grid_and_one_size(grid):
    size = tuple(min(grid.tile_size, -(-side // grid.downsample)) for side in grid.image_size)
    for tile in grid:
        assert tile.window.x % grid.downsample == tile.window.y % grid.downsample == 0
        assert tile.size == size


@settings(deadline=None)
@given(grids())
def test_seams_are_the_sides_inside_the_image(grid):
    height, width = grid.image_size
    for tile in grid:
        x, y, x2, y2 = tile.window.xyxy
        assert tile.seams == (x > 0, y > 0, x2 < width, y2 < height)


@settings(deadline=None)
@given(grids())
def test_rows_and_columns_number_the_tiles_in_order(grid):
    rows, columns = grid.shape
    numbers = [(tile.row, tile.column) for tile in grid]
    assert numbers == [(row, column) for row in range(rows) for column in range(columns)]


def test_starts_by_hand():
    assert tile_starts(4, 4, 3) == [0]
    assert tile_starts(10, 4, 3) == [0, 3, 6]
    assert tile_starts(11, 4, 3) == [0, 3, 6, 7]
    assert tile_starts(11, 4, 2, step=2) == [0, 2, 4, 6, 8]


def test_a_small_image_is_one_tile_without_seams():
    (tile,) = TileGrid((200, 150), tile_size=256, overlap=64, downsample=4)
    assert tile.window == Window(0, 0, 150, 200)
    assert tile.size == (50, 38)
    assert tile.seams == (False,) * 4


@pytest.mark.parametrize("overlap", [-1, 8, 9])
def test_overlap_must_leave_a_stride(overlap):
    with pytest.raises(ConfigError, match="overlap must be in"):
        TileGrid((100, 100), tile_size=8, overlap=overlap)


@pytest.mark.parametrize("sizes", [((0, 5), 8, 1), ((5, 5), 0, 1), ((5, 5), 8, 0)])
def test_sizes_must_be_positive(sizes):
    image_size, tile_size, downsample = sizes
    with pytest.raises(ConfigError, match="must be at least 1"):
        TileGrid(image_size, tile_size, 0, downsample)
