"""Readers against pixels that are known exactly."""

import io
import multiprocessing
import os
import pickle
import sys

import numpy as np
import pytest
from image_checks import all_rows, assert_reads, noise, smooth, whole
from PIL import Image

from sparsenet.errors import ConfigError, ImageReadError, MissingDependencyError
from sparsenet.tiling import ArrayReader, Window, open_image
from sparsenet.tiling.level_reader import LevelReader
from sparsenet.tiling.vips_reader import upright

pyvips = pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")


def vips(pixels: np.ndarray):
    return pyvips.Image.new_from_array(pixels)


# -------------------------------------------------------------------- formats and colours


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("a.png", 0),
        ("a.tif", 0),
        ("a.jpg[Q=95]", 6),
        ("a.webp[Q=95]", 8),
        ("a.tif[tile,tile-width=64,tile-height=64,compression=deflate]", 0),
        ("a.tif[tile,pyramid,tile-width=64,tile-height=64]", 0),
        ("a.tif[tile,pyramid,subifd,bigtiff,tile-width=64,tile-height=64,compression=lzw]", 0),
    ],
)
def test_formats(tmp_path, name, tolerance):
    pixels = smooth(150, 203)
    vips(pixels).write_to_file(str(tmp_path / name))
    assert_reads(tmp_path / name.split("[")[0], pixels, tolerance)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_to_8(tmp_path, suffix):
    pixels = smooth(40, 50)
    file = tmp_path / f"deep.{suffix}"
    wide = vips((pixels.astype(np.uint16) << 8) | 0x7F).copy(interpretation="rgb16")
    wide.write_to_file(str(file))
    assert_reads(file, pixels, 1)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_grey_becomes_three_equal_channels(tmp_path, suffix):
    grey = smooth(40, 50)[:, :, :1]
    Image.fromarray(grey[:, :, 0]).save(tmp_path / f"grey.{suffix}")
    assert_reads(tmp_path / f"grey.{suffix}", np.repeat(grey, 3, axis=2), 4)


def test_16_bit_grey(tmp_path):
    grey = smooth(40, 50)[:, :, 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    assert_reads(tmp_path / "grey16.png", np.repeat(grey[:, :, None], 3, axis=2), 1)


def test_grey_with_alpha(tmp_path):
    grey, alpha = smooth(40, 50)[:, :, 0], np.zeros((40, 50), np.uint8)
    alpha[:20] = 255
    Image.fromarray(np.stack([grey, alpha], axis=-1), mode="LA").save(tmp_path / "la.png")
    expected = np.where(alpha > 0, grey, 255).astype(np.uint8)
    assert_reads(tmp_path / "la.png", np.repeat(expected[:, :, None], 3, axis=2), 1)


def test_one_bit(tmp_path):
    bits = noise(40, 50)[:, :, 0] > 127
    Image.fromarray(bits).save(tmp_path / "bits.tif", compression="group4")
    assert_reads(tmp_path / "bits.tif", np.repeat(bits[:, :, None] * np.uint8(255), 3, axis=2), 0)


def test_transparent_palette_colour(tmp_path):
    indices = (np.arange(40 * 50) % 3).reshape(40, 50).astype(np.uint8)
    colours = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 200]], dtype=np.uint8)
    image = Image.fromarray(indices, mode="P")
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "palette.png", transparency=1)
    colours[1] = 255
    assert_reads(tmp_path / "palette.png", colours[indices], 0)


def test_palette(tmp_path):
    indices = (np.arange(40 * 50) % 3).reshape(40, 50).astype(np.uint8)
    colours = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 200]], dtype=np.uint8)
    image = Image.fromarray(indices, mode="P")
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "palette.png")
    assert_reads(tmp_path / "palette.png", colours[indices], 0)


def test_cmyk_without_profile(tmp_path):
    inks = np.zeros((32, 32, 4), dtype=np.uint8)
    inks[:16, :, 0] = 255  # cyan above
    inks[16:, :, 3] = 255  # black below
    Image.fromarray(inks, mode="CMYK").save(tmp_path / "inks.jpg", quality=98)
    pixels = whole(open_image(tmp_path / "inks.jpg")).astype(int)
    cyan, black = pixels[4, 16], pixels[28, 16]
    assert cyan[0] < 90 and cyan[1] > 120 and cyan[2] > 180
    assert black.max() < 60


def test_cmyk_tiff_with_profile(tmp_path):
    """Ink on paper is duller than sRGB, so colours in the middle of both are compared."""
    pixels = np.full((32, 32, 3), (150, 120, 100), dtype=np.uint8)
    inks = vips(pixels).copy(interpretation="srgb").icc_transform("cmyk", input_profile="srgb")
    inks.write_to_file(str(tmp_path / "inks.tif"))
    assert pyvips.Image.new_from_file(str(tmp_path / "inks.tif")).interpretation == "cmyk"
    assert_reads(tmp_path / "inks.tif", pixels, 3)


@pytest.mark.parametrize("space", ["lab", "xyz"])
def test_other_colour_spaces(tmp_path, space):
    pixels = smooth(40, 50)
    vips(pixels).colourspace(space).write_to_file(str(tmp_path / "a.v"))
    assert_reads(tmp_path / "a.v", pixels, 2)


@pytest.mark.parametrize("deep", [False, True])
def test_transparent_pixels_lie_on_white(tmp_path, deep):
    pixels = smooth(40, 50)
    alpha = np.zeros((40, 50, 1), dtype=np.uint8)
    alpha[:20] = 255
    image = vips(np.concatenate([pixels, alpha], axis=2)).copy(interpretation="srgb")
    if deep:
        image = image.colourspace("rgb16")
    image.write_to_file(str(tmp_path / "alpha.png"))
    expected = pixels.copy()
    expected[20:] = 255
    assert_reads(tmp_path / "alpha.png", expected, 1)


def test_embedded_profile_is_applied(tmp_path):
    """The same colour, stored under another profile, reads as nearly the same sRGB numbers."""
    colour = vips(np.full((16, 16, 3), (200, 80, 40), dtype=np.uint8)).copy(interpretation="srgb")
    stored = colour.icc_transform("p3", input_profile="srgb")
    stored.write_to_file(str(tmp_path / "p3.png"))
    as_stored = np.asarray(Image.open(tmp_path / "p3.png"))[8, 8].astype(int)
    read = whole(open_image(tmp_path / "p3.png"))[8, 8].astype(int)
    assert np.abs(as_stored - [200, 80, 40]).max() > 5  # the profile matters
    assert np.abs(read - [200, 80, 40]).max() <= 2


def test_srgb_profile_changes_nothing(tmp_path):
    from PIL import ImageCms

    pixels = noise(16, 16)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "srgb.png", icc_profile=profile)
    assert_reads(tmp_path / "srgb.png", pixels, 0)


def test_samples_of_unknown_range_are_refused(tmp_path):
    values = np.linspace(-3, 9000, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "heights.tif")
    with pytest.raises(ImageReadError, match=r"heights\.tif: samples must be 8 or 16 bits"):
        whole(open_image(tmp_path / "heights.tif"))


# -------------------------------------------------------------------- EXIF rotation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, orientation):
    from PIL import ImageOps

    image = Image.fromarray(smooth(40, 64))
    exif = Image.Exif()
    exif[274] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    turned.load()
    assert_reads(tmp_path / "turned.png", np.asarray(ImageOps.exif_transpose(turned)), 0)


def test_upright_is_a_view():
    pixels = noise(4, 6)
    assert all(np.shares_memory(upright(pixels, turn), pixels) for turn in range(1, 9))


# -------------------------------------------------------------------- bad files


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(256, 256)).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


@pytest.mark.parametrize("share", [0.4, 0.9])
@pytest.mark.parametrize("access", [all_rows, whole])
def test_truncated_jpeg_raises(tmp_path, access, share):
    data = jpeg_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageReadError, match=r"cut\.jpg: the image is truncated or damaged"):
        access(open_image(tmp_path / "cut.jpg"))


def test_truncated_png_raises(tmp_path):
    Image.fromarray(noise(256, 256)).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageReadError, match=r"cut\.png: the image is truncated or damaged"):
        all_rows(open_image(tmp_path / "cut.png"))


def test_damaged_tile_raises(tmp_path):
    file = tmp_path / "tiled.tif"
    vips(noise(256, 256)).write_to_file(
        f"{file}[tile,tile-width=64,tile-height=64,compression=deflate]"
    )
    data = bytearray(file.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    file.write_bytes(bytes(data))
    with pytest.raises(ImageReadError, match=r"tiled\.tif: the image is truncated or damaged"):
        all_rows(open_image(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"x\.jpg: the file is empty \(0 bytes\)"),
        (b"this is a text file", r"x\.jpg: this is no image"),
        (jpeg_bytes()[:100], r"x\.jpg: this is no image that can be read, or its beginning"),
    ],
)
def test_unreadable_files_raise_on_opening(tmp_path, content, message):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(ImageReadError, match=message):
        open_image(tmp_path / "x.jpg")


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(ImageReadError, match=r"nowhere\.jpg: there is no such image file"):
        open_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageReadError, match="this is a folder"):
        open_image(tmp_path)


def test_max_pixels_is_checked_from_the_header(tmp_path):
    data = jpeg_bytes()
    (tmp_path / "large.jpg").write_bytes(data[:1000])  # nothing to decode: only the header is read
    with pytest.raises(
        ImageReadError, match="65,536 pixels, more than the limit of 65,000"
    ) as info:
        open_image(tmp_path / "large.jpg", max_pixels=65_000)
    assert "--max-pixels" in str(info.value)
    assert open_image(tmp_path / "large.jpg", max_pixels=65_536).size == (256, 256)


def test_large_progressive_jpegs_are_warned_of(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("sparsenet.tiling.vips_reader._PROGRESSIVE_LIMIT", 50 * 60 - 1)
    for is_progressive in (False, True):
        assert not caplog.records
        Image.fromarray(smooth(50, 60)).save(tmp_path / "p.jpg", progressive=is_progressive)
        assert_reads(tmp_path / "p.jpg", smooth(50, 60), 8)
    assert "is a progressive JPEG" in caplog.text


def test_missing_pyvips_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes())
    monkeypatch.setitem(sys.modules, "pyvips", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'sparsenet\[gigapixel\]'"):
        open_image(tmp_path / "a.jpg")


# -------------------------------------------------------------------- windows and downsamples


def box_filter(pixels: np.ndarray, factor: int) -> np.ndarray:
    padding = [(0, -pixels.shape[0] % factor), (0, -pixels.shape[1] % factor), (0, 0)]
    padded = np.pad(pixels, padding, mode="edge").astype(float)
    height, width = padded.shape[0] // factor, padded.shape[1] // factor
    return padded.reshape(height, factor, width, factor, 3).mean((1, 3))


@pytest.mark.parametrize("factor", [1, 2, 3, 7, 8, 300])
def test_whole_factors_average_blocks(factor):
    pixels = noise(101, 130)
    read = ArrayReader(pixels).read(Window(0, 0, 130, 101), factor)
    assert read.shape[:2] == (-(-101 // factor), -(-130 // factor))
    # An even factor halves first, which rounds twice.
    tolerance = 1 if factor % 2 == 0 and factor > 2 else 0.5 + 1e-6
    assert np.abs(read - box_filter(pixels, factor)).max() <= tolerance


def test_a_partial_last_pixel_of_an_inner_window_shows_what_is_there():
    pixels = noise(64, 64)
    read = ArrayReader(pixels).read(Window(8, 8, 9, 9), 4)
    assert read.shape == (3, 3, 3)
    np.testing.assert_allclose(read, box_filter(pixels[8:20, 8:20], 4), atol=1)


@pytest.mark.parametrize("downsample", [1.3, 1.7, 2.5, 3.9, 0.5])
def test_fractional_downsamples_keep_positions(downsample):
    """On a ramp the value tells the place: no shift, whatever the factor and window.

    The difference of a rising and a falling ramp cancels what rounding adds to both.
    """
    rising = np.repeat(np.arange(250, dtype=np.uint8)[None, :, None], 120, 0).repeat(3, 2)
    window = Window(31, 17, 101, 80)
    up, down = (
        ArrayReader(ramp).read(window, downsample).astype(float) for ramp in (rising, 249 - rising)
    )
    assert up.shape[:2] == (round(80 / downsample), round(101 / downsample))
    centres = 31 + (np.arange(up.shape[1]) + 0.5) * downsample - 0.5
    places = (up - down + 249)[10, :, 0] / 2
    np.testing.assert_allclose(places, centres, atol=0.6)
    assert abs((places - centres).mean()) < 0.1


class GreyLevels(LevelReader):
    """Each stored level has one grey level, so that a read tells where it came from."""

    def _fetch(self, level: int, window: Window) -> np.ndarray:
        assert Window(0, 0, *self._level_sizes[level][::-1]).contains(window)
        return np.full((*window.size, 3), 50 * level, dtype=np.uint8)

    def _rows(self, level: int, band_height: int, first_row: int):
        yield self._fetch(level, Window(0, 0, *self._level_sizes[level][::-1]))


def test_levels_of_a_pyramid_serve_the_closest_downsample():
    sizes = [(513, 771), (256, 385), (128, 192), (64, 96), (32, 48)]  # rounded down, as libvips
    reader = GreyLevels("levels", sizes)
    assert reader.level_downsamples == (1, 2, 4, 8, 16)
    window = Window(200, 200, 571, 313)  # to the image border, where rounded levels lack a pixel
    levels = {d: np.unique(reader.read(window, d)) for d in (0.7, 1, 2, 3, 5, 8, 15.99, 16, 64)}
    found = {downsample: value.tolist() for downsample, value in levels.items()}
    assert found == {
        0.7: [0], 1: [0], 2: [50], 3: [50], 5: [100], 8: [150], 15.99: [200], 16: [200], 64: [200]
    }  # fmt: skip


@pytest.mark.parametrize("downsample", [1, 2, 3, 4, 5.3, 8])
@pytest.mark.parametrize("options", ["pyramid", "pyramid,subifd"])
def test_pyramid_windows_equal_the_array(tmp_path, options, downsample):
    pixels = smooth(333, 517)
    file = tmp_path / "p.tif"
    vips(pixels).write_to_file(f"{file}[tile,{options},tile-width=64,tile-height=64]")
    reader, array = open_image(file), ArrayReader(pixels)
    assert reader.level_downsamples[:3] == (1, 2, 4)
    for window in (Window(64, 32, 256, 256), Window(77, 41, 201, 190), Window(317, 133, 200, 200)):
        expected = array.read(window, downsample).astype(int)
        read = reader.read(window, downsample)
        assert read.shape == expected.shape
        assert np.abs(read - expected).max() <= 2


def test_bands_go_through_a_stored_level(tmp_path):
    file = tmp_path / "p.tif"
    pixels = smooth(256, 320)
    vips(pixels).write_to_file(f"{file}[tile,pyramid,tile-width=64,tile-height=64]")
    reader = open_image(file)
    rows = np.concatenate([band.copy() for band in reader.bands(50, 2)])
    assert np.abs(rows - box_filter(pixels, 2)).max() <= 1
    with pytest.raises(ConfigError, match="a stored level"):
        reader.bands(50, 3)


@pytest.mark.parametrize("name", ["a.png", "p.tif[tile,pyramid,tile-width=64,tile-height=64]"])
@pytest.mark.parametrize("first_row", [1, 63, 64, 100, 255])
def test_bands_from_a_row_on(tmp_path, name, first_row):
    pixels = smooth(256, 320)
    vips(pixels).write_to_file(str(tmp_path / name))
    reader = open_image(tmp_path / name.split("[")[0])
    rows = np.concatenate([band.copy() for band in reader.bands(50, first_row=first_row)])
    np.testing.assert_array_equal(rows, pixels[first_row:])
    with pytest.raises(ConfigError, match="first_row must be one of the 256 rows"):
        reader.bands(50, first_row=256)


@pytest.mark.parametrize("window", [Window(-1, 0, 5, 5), Window(60, 0, 5, 5), Window(0, 0, 0, 5)])
def test_windows_must_lie_inside(window):
    with pytest.raises(ConfigError, match="lie inside the image"):
        ArrayReader(noise(64, 64)).read(window)


# -------------------------------------------------------------------- arrays


def test_array_reader_repeats_grey():
    grey = noise(20, 30)[:, :, 0]
    reader = ArrayReader(grey)
    assert reader.size == (20, 30)
    np.testing.assert_array_equal(all_rows(reader, 7), np.repeat(grey[:, :, None], 3, 2))


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((4,), np.uint8)]
)
def test_array_reader_refuses_other_arrays(array):
    with pytest.raises(ImageReadError, match="must be uint8 of shape"):
        ArrayReader(array)


# -------------------------------------------------------------------- processes


def read_in_child(reader, windows, connection):
    connection.send([reader.read(window, 2) for window in windows])


TILED = "p.tif[tile,pyramid,tile-width=64,tile-height=64]"


@pytest.mark.parametrize("name", [TILED, "a.png"])
def test_readers_survive_pickling(tmp_path, name):
    """As sending one to a spawned worker does."""
    vips(noise(512, 512)).write_to_file(str(tmp_path / name))
    reader = open_image(tmp_path / name.split("[")[0])
    window = Window(40, 0, 128, 128)
    before = reader.read(window, 2)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read(window, 2), before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("name", [TILED, "a.png"])
def test_readers_survive_a_fork(tmp_path, name):
    """Two children read other windows of an inherited reader after libvips used threads."""
    vips(noise(512, 512)).write_to_file(str(tmp_path / name))
    reader = open_image(tmp_path / name.split("[")[0])
    windows = [Window(x, y, 128, 128) for x in (0, 130, 384) for y in (0, 200, 384)]
    expected = [reader.read(window, 2) for window in windows]
    context = multiprocessing.get_context("fork")
    orders = (slice(None), slice(None, None, -1))
    pipes = [context.Pipe(duplex=False) for _ in orders]
    workers = [
        context.Process(target=read_in_child, args=(reader, windows[order], sender))
        for (_, sender), order in zip(pipes, orders)
    ]
    for worker in workers:
        worker.start()
    for (receiver, _), order in zip(pipes, orders):
        assert receiver.poll(60), "a forked worker hangs"
        for read, wanted in zip(receiver.recv(), expected[order]):
            np.testing.assert_array_equal(read, wanted)
    for worker in workers:
        worker.join()
