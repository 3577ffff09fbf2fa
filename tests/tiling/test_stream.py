"""One pass gives the same tiles as random access, in bounded memory."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_checks import noise, smooth

from sparsenet.errors import ConfigError, ImageReadError
from sparsenet.tiling import ArrayReader, TileGrid, Window, open_image, stream_tiles


def assert_stream_equals_reads(reader, grids, tolerance=0) -> None:
    wanted = Counter((id(grid), tile.window) for grid in grids for tile in grid)
    by_downsample = {tile: id(grid) for grid in grids for tile in grid}
    found = Counter()
    for tile, pixels in stream_tiles(reader, grids):
        found[(by_downsample[tile], tile.window)] += 1
        assert pixels.shape == (*tile.size, 3)
        assert pixels.dtype == np.uint8
        difference = np.abs(pixels.astype(int) - reader.read(tile.window, tile.downsample))
        assert difference.max() <= tolerance, tile
    assert found == wanted


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 260),
    width=st.integers(1, 200),
    tile_size=st.integers(4, 70),
    overlap=st.integers(0, 3),
    downsamples=st.lists(st.sampled_from([1, 2, 3, 4, 6, 8, 20]), min_size=1, max_size=3),
)
def test_streamed_tiles_equal_random_access(height, width, tile_size, overlap, downsamples):
    reader = ArrayReader(noise(height, width))
    grids = [TileGrid(reader.size, tile_size, overlap, d) for d in sorted(set(downsamples))]
    assert_stream_equals_reads(reader, grids)


@pytest.mark.parametrize("kept", ["all", "few"])
@pytest.mark.parametrize("downsamples", [(1,), (2, 8), (1, 2, 4), (3, 4)])
@pytest.mark.parametrize("options", ["a.png", "a.tif[tile,pyramid,tile-width=64,tile-height=64]"])
def test_files_stream_as_they_read(tmp_path, options, downsamples, kept):
    pyvips = pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")
    pixels = smooth(304, 400)
    pyvips.Image.new_from_array(pixels).write_to_file(str(tmp_path / options))
    reader = open_image(tmp_path / options.split("[")[0])
    grids = [TileGrid(reader.size, 64, 16, d) for d in downsamples]
    # The stored levels of a pyramid were rounded once each.
    assert_stream_equals_reads(reader, grids, tolerance=2)
    wanted = None if kept == "all" else lambda tile: (tile.row + tile.column) % 4 == 1
    for tile, streamed in stream_tiles(reader, grids, wanted=wanted):
        expected = ArrayReader(pixels).read(tile.window, tile.downsample)
        assert np.abs(streamed.astype(int) - expected).max() <= 2


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 260),
    width=st.integers(1, 200),
    tile_size=st.integers(4, 70),
    downsamples=st.sets(st.sampled_from([1, 2, 3, 4, 8]), min_size=1, max_size=3),
    share=st.sampled_from([0.0, 0.1, 0.5]),
    has_random_access=st.booleans(),
    seed=st.integers(0, 99),
)
def test_wanted_tiles_are_those_of_the_full_stream(
    height, width, tile_size, downsamples, share, has_random_access, seed
):
    reader = CountedRows(noise(height, width), has_random_access)
    grids = [TileGrid(reader.size, tile_size, 3, d) for d in sorted(downsamples)]
    every = {tile: pixels for tile, pixels in stream_tiles(reader, grids)}
    chosen = {tile for tile in every if hash((seed, tile.window.xyxy)) % 100 < share * 100}
    found = list(stream_tiles(reader, grids, wanted=chosen.__contains__))
    for downsample in downsamples:  # the order within a grid is kept
        order = [tile for tile, _ in found if tile.downsample == downsample]
        assert order == [t for t in every if t in chosen and t.downsample == downsample]
    for tile, pixels in found:
        np.testing.assert_array_equal(pixels, every[tile])


def test_every_tile_is_asked_for_once():
    reader = ArrayReader(noise(100, 100))
    grids = [TileGrid(reader.size, 32, 8, d) for d in (1, 4)]
    asked = []
    assert list(stream_tiles(reader, grids, wanted=lambda tile: asked.append(tile))) == []
    assert asked == [tile for grid in grids for tile in grid]


def test_the_pass_ends_after_the_last_wanted_row():
    reader = CountedRows(noise(1000, 64), has_random_access=False)
    grids = [TileGrid(reader.size, 64, 0, d) for d in (1, 2)]
    first, stop = 256, 384  # a shard: rows of the image
    tiles = [t for t, _ in stream_tiles(reader, grids, wanted=lambda t: first <= t.window.y < stop)]
    assert [tile.window.y for tile in tiles] == [256, 320, 256]
    assert reader.rows_read == stop - first


def test_random_access_reads_only_the_wanted_windows():
    reader = CountedRows(noise(1000, 640), has_random_access=True)
    grids = [TileGrid(reader.size, 64, 16, d) for d in (1, 4)]
    assert len(list(stream_tiles(reader, grids, wanted=lambda t: t.row == t.column))) > 10
    assert reader.open_bands == 0


@pytest.mark.parametrize("suffix", ["a.tif", "a.jpg"])
@pytest.mark.parametrize("downsamples", [(1,), (1, 2, 8), (3, 4), (6,)])
def test_a_tile_looks_the_same_whatever_else_is_wanted(tmp_path, suffix, downsamples):
    """Else a sharded or resumed run would find other objects than a run of one piece."""
    pyvips = pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")
    options = "[tile,pyramid,tile-width=64,tile-height=64,compression=jpeg,Q=60]"
    file = tmp_path / suffix
    image = pyvips.Image.new_from_array(noise(501, 702))
    image.write_to_file(str(file) + (options if suffix == "a.tif" else ""))
    reader = open_image(file)
    grids = [TileGrid(reader.size, 48, 8, d) for d in downsamples]
    every = dict(stream_tiles(reader, grids))
    for step in (3, 40):
        wanted = set(list(every)[::step])
        found = dict(stream_tiles(reader, grids, wanted=wanted.__contains__))
        assert found.keys() == wanted
        for tile, pixels in found.items():
            np.testing.assert_array_equal(pixels, every[tile])
    for grid in grids:
        for tile, pixels in stream_tiles(reader, [grid]):
            np.testing.assert_array_equal(pixels, every[tile])


class CountedRows(ArrayReader):
    """Counts how often each row is handed out."""

    def __init__(self, array: np.ndarray, has_random_access: bool = True) -> None:
        super().__init__(array)
        self.is_random_access = has_random_access
        self.rows_read = 0
        self.open_bands = 0

    def _rows(self, level, band_height, first_row):
        self.open_bands += 1
        for band in super()._rows(level, band_height, first_row):
            self.rows_read += len(band)
            yield band


def test_every_row_is_decoded_once_for_all_grids():
    reader = CountedRows(noise(300, 100))
    grids = [TileGrid(reader.size, 32, 8, d) for d in (1, 2, 4)]
    assert sum(1 for _ in stream_tiles(reader, grids)) == sum(len(grid) for grid in grids)
    assert (reader.rows_read, reader.open_bands) == (300, 1)


def test_a_tile_comes_when_its_last_row_is_decoded():
    reader = CountedRows(noise(1000, 64))
    for tile, _ in stream_tiles(reader, [TileGrid(reader.size, 64, 0, 1)]):
        assert reader.rows_read - tile.window.y2 < 64  # at most one band ahead


def test_tiles_belong_to_the_caller():
    reader = ArrayReader(noise(256, 64))
    tiles = list(stream_tiles(reader, [TileGrid(reader.size, 32, 8, 1)]))
    for tile, pixels in tiles:
        np.testing.assert_array_equal(pixels, reader.read(tile.window))


class EndlessRows(ArrayReader):
    """A tall image that exists only row by row."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(np.zeros((1, 1, 3), np.uint8))
        self._level_sizes = [size]

    def _rows(self, level, band_height, first_row):
        height, width = self.size
        for y in range(first_row, height, band_height):
            yield np.zeros((min(band_height, height - y), width, 3), np.uint8)


def peak_bytes(height: int) -> int:
    reader = EndlessRows((height, 1000))
    grids = [TileGrid(reader.size, 128, 32, d) for d in (1, 4)]
    tracemalloc.start()
    try:
        for _ in stream_tiles(reader, grids):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_height():
    low, high = peak_bytes(2_000), peak_bytes(20_000)
    assert high - low < 0.02 * 18_000 * 1000 * 3  # 2 % of the added pixels: the list of tiles
    assert high < 6 * 1000 * 128 * 3  # a few tile rows; the image has 156 of them


def test_grids_of_another_image_are_refused():
    with pytest.raises(ConfigError, match="A grid must be made for its image"):
        next(stream_tiles(ArrayReader(noise(50, 50)), [TileGrid((50, 51), 8, 0)]))


def test_no_grid_gives_no_tile():
    assert list(stream_tiles(ArrayReader(noise(5, 5)), [])) == []


def test_truncated_file_raises_in_the_middle(tmp_path):
    pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")
    from PIL import Image

    Image.fromarray(noise(512, 64)).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    reader = open_image(tmp_path / "cut.jpg")
    windows = []
    with pytest.raises(ImageReadError, match="truncated"):
        for tile, _ in stream_tiles(reader, [TileGrid(reader.size, 64, 0)]):
            windows.append(tile.window)
    assert windows[0] == Window(0, 0, 64, 64)
    assert len(windows) < 8
