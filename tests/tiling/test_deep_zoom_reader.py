"""Deep Zoom folders, written by libvips."""

import pytest
from image_checks import assert_reads, smooth, whole

from sparsenet.errors import ImageReadError
from sparsenet.tiling import Window, open_image

pyvips = pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")


def write_deep_zoom(folder, pixels, **options):
    image = pyvips.Image.new_from_array(pixels)
    image.dzsave(str(folder / "a"), **{"suffix": ".png", "tile_size": 64, "overlap": 1, **options})
    return folder / "a.dzi"


@pytest.mark.parametrize(("tile_size", "overlap"), [(64, 0), (62, 1), (100, 7), (500, 1)])
def test_deep_zoom_reads_like_its_pixels(tmp_path, tile_size, overlap):
    pixels = smooth(203, 333)
    file = write_deep_zoom(tmp_path, pixels, tile_size=tile_size, overlap=overlap)
    assert_reads(file, pixels, 0)
    reader = open_image(file)
    assert reader.level_downsamples == tuple(2**i for i in range(10))
    quarter = reader.read(Window(8, 16, 320, 160), 4).astype(int)
    assert abs(quarter - pixels[16:176:4, 8:328:4]).max() <= 4


def test_coarse_levels_may_be_missing(tmp_path):
    file = write_deep_zoom(tmp_path, smooth(203, 333))
    for level in range(8):  # 0 to 7 of 0 to 9
        for tile in (tmp_path / "a_files" / str(level)).iterdir():
            tile.unlink()
        (tmp_path / "a_files" / str(level)).rmdir()
    assert open_image(file).level_downsamples == (1, 2)


def test_missing_tiles_are_named(tmp_path):
    file = write_deep_zoom(tmp_path, smooth(203, 333))
    (tmp_path / "a_files" / "9" / "2_1.png").unlink()
    reader = open_image(file)
    reader.read(Window(0, 0, 64, 64))
    with pytest.raises(ImageReadError, match=r"a\.dzi: the tile .*2_1\.png is missing"):
        whole(reader)


def test_tiles_of_another_size_are_refused(tmp_path):
    file = write_deep_zoom(tmp_path, smooth(203, 333))
    file.write_text(file.read_text().replace('Width="333"', 'Width="340"'))
    with pytest.raises(ImageReadError, match=r"5_0\.png: a tile of \(65, 21\) .* was expected"):
        whole(open_image(file))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('Height="203"', 'Height="many"', "must be XML with an Image of TileSize"),
        ('TileSize="64"', "", "must be XML with an Image of TileSize"),
        ('TileSize="64"', 'TileSize="0"', "TileSize must be at least 1"),
        ('Format="png"', 'Format="../png"', "Format letters"),
        ("<Image", "", "must be XML"),
        ('Height="203"', 'Height="203000000000"', "more than the limit"),
        ('Height="203"', 'Height="2030"', "tiles of its full resolution must lie in"),
    ],
)
def test_bad_descriptions(tmp_path, old, new, message):
    file = write_deep_zoom(tmp_path, smooth(203, 333))
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ImageReadError, match=message):
        open_image(file)


def test_the_folder_of_tiles_is_no_image(tmp_path):
    write_deep_zoom(tmp_path, smooth(20, 30))
    with pytest.raises(ImageReadError, match=r"this is a folder\. Of a Deep Zoom image, name the"):
        open_image(tmp_path / "a_files")
