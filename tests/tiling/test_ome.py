"""OME-TIFF, written by tifffile."""

import numpy as np
import pytest
from image_checks import assert_reads, smooth

from sparsenet.errors import ImageReadError
from sparsenet.tiling import Window, open_image
from sparsenet.tiling.ome import count_ome_planes

pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")
tifffile = pytest.importorskip("tifffile", reason="needs the extra sparsenet[test]")


def write_ome(path, planes: np.ndarray, axes: str, photometric: str) -> None:
    """With a second level in sub-directories, as OME-TIFF 6 has it."""
    half = planes[::2, ::2] if axes == "YXS" else planes[..., ::2, ::2]
    layout = {"tile": (64, 64), "photometric": photometric}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(planes, subifds=1, metadata={"axes": axes}, **layout)
        file.write(half, subfiletype=1, **layout)


@pytest.mark.parametrize(("axes", "photometric"), [("YXS", "rgb"), ("CYX", "minisblack")])
def test_colours_in_one_page_or_three(tmp_path, axes, photometric):
    pixels = smooth(150, 202)
    planes = pixels if axes == "YXS" else pixels.transpose(2, 0, 1)
    write_ome(tmp_path / "a.ome.tif", planes, axes, photometric)
    assert_reads(tmp_path / "a.ome.tif", pixels, 0)
    reader = open_image(tmp_path / "a.ome.tif")
    assert reader.level_downsamples == (1, 2)
    half = reader.read(Window(0, 0, 202, 150), 2)
    np.testing.assert_array_equal(half, pixels[::2, ::2])


def test_one_grey_plane(tmp_path):
    grey = smooth(150, 202)[:, :, 0]
    write_ome(tmp_path / "a.ome.tif", grey, "YX", "minisblack")
    assert_reads(tmp_path / "a.ome.tif", np.repeat(grey[:, :, None], 3, axis=2), 0)


@pytest.mark.parametrize(("axes", "count"), [("CYX", 4), ("ZYX", 3), ("TYX", 2)])
def test_stacks_are_refused(tmp_path, axes, count):
    write_ome(tmp_path / "a.ome.tif", np.zeros((count, 64, 64), np.uint8), axes, "minisblack")
    with pytest.raises(ImageReadError, match=r"a\.ome\.tif: an OME-TIFF must hold one grey or RGB"):
        open_image(tmp_path / "a.ome.tif")


def test_broken_metadata():
    with pytest.raises(ImageReadError, match="its OME-XML cannot be read"):
        count_ome_planes("a.tif", "<?xml version='1.0'?><OME><Image>")
