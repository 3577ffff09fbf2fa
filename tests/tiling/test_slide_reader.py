"""Slides, written as Aperio writes them."""

import pickle
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from image_checks import assert_reads, smooth, whole

from sparsenet.errors import ImageReadError, MissingDependencyError
from sparsenet.tiling import Window, open_image

pyvips = pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")
needs_openslide = pytest.mark.skipif(
    find_spec("openslide") is None, reason="needs the extra sparsenet[wsi]"
)


def write_svs(path, image) -> None:
    description = f"Aperio Image Library v12.0\n{image.width}x{image.height} JPEG/RGB|AppMag = 20"
    image = image.copy(interpretation="srgb")
    image.set_type(pyvips.GValue.gstr_type, "image-description", description)
    layout = {"tile": True, "pyramid": True, "tile_width": 64, "tile_height": 64}
    image.tiffsave(str(path), **layout, compression="jpeg", Q=95)


def vips(pixels: np.ndarray):
    return pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")


@needs_openslide
def test_slides_read_like_their_pixels(tmp_path):
    pixels = smooth(301, 517)
    write_svs(tmp_path / "a.svs", vips(pixels))
    assert_reads(tmp_path / "a.svs", pixels, 6)
    reader = open_image(tmp_path / "a.svs")
    assert reader.level_downsamples == (1, 2, 4, 8)
    assert reader.is_random_access
    half = reader.read(Window(64, 32, 256, 128), 2)
    assert np.abs(half.astype(int) - pixels[32:160:2, 64:320:2]).max() <= 6


@needs_openslide
def test_the_profile_of_a_slide_is_applied(tmp_path):
    seen = np.full((128, 128, 3), (180, 90, 60), dtype=np.uint8)
    stored = vips(seen).icc_transform("p3", input_profile="srgb")
    assert np.abs(np.asarray(stored).astype(int) - seen).max() > 5  # the profile matters
    write_svs(tmp_path / "p3.svs", stored)
    assert np.abs(whole(open_image(tmp_path / "p3.svs")).astype(int) - seen).max() <= 4


@needs_openslide
def test_slides_survive_pickling(tmp_path):
    write_svs(tmp_path / "a.svs", vips(smooth(100, 120)))
    reader = open_image(tmp_path / "a.svs")
    before = whole(reader)
    np.testing.assert_array_equal(whole(pickle.loads(pickle.dumps(reader))), before)


@needs_openslide
def test_max_pixels_of_a_slide(tmp_path):
    write_svs(tmp_path / "a.svs", vips(smooth(128, 200)))
    with pytest.raises(ImageReadError, match="25,600 pixels, more than the limit of 25,000"):
        open_image(tmp_path / "a.svs", max_pixels=25_000)


@needs_openslide
def test_damaged_slides_name_the_place(tmp_path):
    file = tmp_path / "a.svs"
    write_svs(file, vips(smooth(512, 512)))
    data = bytearray(file.read_bytes())
    data[200 : len(data) // 2] = bytes(len(data) // 2 - 200)
    file.write_bytes(bytes(data))
    with pytest.raises(ImageReadError, match=r"a\.svs: .*(damaged)"):
        whole(open_image(file))


@needs_openslide
def test_other_files_are_no_slides(tmp_path):
    (tmp_path / "a.svs").write_text("no slide")
    with pytest.raises(ImageReadError, match=r"a\.svs: this is no slide that OpenSlide can read"):
        open_image(tmp_path / "a.svs")


def test_missing_openslide_names_the_extra(tmp_path, monkeypatch):
    write_svs(tmp_path / "a.svs", vips(smooth(64, 64)))
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'sparsenet\[wsi\]'"):
        open_image(tmp_path / "a.svs")
