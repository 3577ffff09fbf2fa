"""GeoTIFF and JPEG 2000, written by GDAL."""

import pickle

import numpy as np
import pytest
from image_checks import assert_reads, noise, smooth, whole
from PIL import Image

from sparsenet.errors import ImageReadError
from sparsenet.tiling import TileGrid, Window, open_image, stream_tiles

rasterio = pytest.importorskip("rasterio", reason="needs the extra sparsenet[geo]")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

# Half a metre per pixel, north up, UTM zone 33.
PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000)}
TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64}


def write_raster(path, samples: np.ndarray, overviews: tuple[int, ...] = (), **options) -> None:
    """Samples (C, h, w)."""
    count, height, width = samples.shape
    shape = {"count": count, "height": height, "width": width, "dtype": samples.dtype}
    options = {"driver": "GTiff", **PLACE, **shape, **options}
    mask, meanings, colours = (options.pop(k, None) for k in ("mask", "meanings", "colours"))
    with rasterio.open(path, "w", **options) as raster:
        raster.write(samples)
        if mask is not None:
            raster.write_mask(mask)
        if meanings:
            raster.colorinterp = [rasterio.enums.ColorInterp[name] for name in meanings]
        if colours:
            raster.write_colormap(1, colours)
        if overviews:
            raster.build_overviews(overviews, rasterio.enums.Resampling.average)


def bands_first(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("layout", [{}, TILED, {**TILED, "BIGTIFF": "YES", "compress": "lzw"}])
def test_georeferenced_tiff(tmp_path, layout):
    pixels = smooth(201, 300)
    write_raster(tmp_path / "a.tif", bands_first(pixels), **layout)
    assert_reads(tmp_path / "a.tif", pixels, 0)
    georeference = open_image(tmp_path / "a.tif").georeference
    assert georeference.crs == "EPSG:32633"
    assert georeference.transform == (0.5, 0, 500_000, 0, -0.5, 5_200_000)


@pytest.mark.parametrize("driver", ["COG", "JP2OpenJPEG"])
def test_pyramids(tmp_path, driver):
    file = tmp_path / ("a.jp2" if driver == "JP2OpenJPEG" else "a.tif")
    pixels = smooth(1100, 1300)
    options = {
        "COG": {"BLOCKSIZE": 128, "OVERVIEW_RESAMPLING": "AVERAGE"},
        "JP2OpenJPEG": {"QUALITY": 100, "REVERSIBLE": "YES"},
    }
    write_raster(file, bands_first(pixels), driver=driver, **options[driver])
    assert_reads(file, pixels, 0)
    reader = open_image(file)
    assert reader.level_downsamples[:3] == (1, 2, 4)
    part = reader.read(Window(128, 256, 512, 512), 4)
    assert np.abs(part.astype(int) - pixels[256:768:4, 128:640:4]).max() <= 3
    tiles = stream_tiles(reader, [TileGrid(reader.size, 128, 16, d) for d in (1, 4)])
    assert all(np.ptp(tile) > 0 for _, tile in tiles)
    assert reader.georeference.crs == "EPSG:32633"


def test_jpeg_2000_needs_no_map(tmp_path):
    Image.fromarray(smooth(64, 80)).save(tmp_path / "a.jp2", irreversible=False)
    assert_reads(tmp_path / "a.jp2", smooth(64, 80), 0)
    assert open_image(tmp_path / "a.jp2").georeference is None


@pytest.mark.parametrize(("bits", "shift"), [(16, 8), (12, 4)])
def test_16_bits_are_scaled_by_their_range(tmp_path, bits, shift):
    pixels = smooth(40, 50)
    write_raster(tmp_path / "a.tif", bands_first(pixels).astype(np.uint16) << shift, NBITS=bits)
    assert_reads(tmp_path / "a.tif", pixels, 0)


def test_bands_are_found_by_their_meaning(tmp_path):
    pixels = smooth(40, 50)
    samples = np.concatenate([noise(40, 50)[None, :, :, 0], bands_first(pixels)[::-1]])
    meanings = ["undefined", "blue", "green", "red"]
    write_raster(tmp_path / "a.tif", samples, meanings=meanings, photometric="minisblack")
    assert_reads(tmp_path / "a.tif", pixels, 0)


def test_one_band_is_grey_and_a_palette_is_not(tmp_path):
    indices = noise(40, 50)[:, :, 0] % 3
    write_raster(tmp_path / "grey.tif", indices[None])
    assert_reads(tmp_path / "grey.tif", np.repeat(indices[:, :, None], 3, axis=2), 0)
    colours = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 200]], dtype=np.uint8)
    table = {i: (*colour.tolist(), 255) for i, colour in enumerate(colours)}
    write_raster(tmp_path / "map.tif", indices[None], colours=table)
    assert_reads(tmp_path / "map.tif", colours[indices], 0)


@pytest.mark.parametrize("kind", ["nodata", "mask", "alpha"])
def test_pixels_without_data_are_white(tmp_path, kind):
    pixels = smooth(40, 50)  # never 0
    there = np.zeros((40, 50), np.uint8)
    there[10:] = 255
    samples = bands_first(pixels * (there > 0)[:, :, None])
    options = {"nodata": {"nodata": 0}, "mask": {"mask": there}, "alpha": {"ALPHA": "YES"}}
    if kind == "alpha":
        samples = np.concatenate([samples, there[None]])
    write_raster(tmp_path / "a.tif", samples, **options[kind])
    expected = np.where(there[:, :, None] > 0, pixels, 255).astype(np.uint8)
    assert_reads(tmp_path / "a.tif", expected, 0)


def test_samples_of_unknown_range_are_refused(tmp_path):
    write_raster(tmp_path / "heights.tif", np.zeros((1, 8, 8), np.float32))
    with pytest.raises(ImageReadError, match=r"heights\.tif: samples must be 8 or 16 bits"):
        open_image(tmp_path / "heights.tif")


def test_max_pixels_of_a_raster(tmp_path):
    write_raster(tmp_path / "a.tif", bands_first(smooth(40, 50)))
    with pytest.raises(ImageReadError, match="2,000 pixels, more than the limit of 1,999"):
        open_image(tmp_path / "a.tif", max_pixels=1_999)


@pytest.mark.parametrize("name", ["a.tif", "a.jp2"])
def test_truncated_rasters_name_the_place(tmp_path, name):
    driver = "JP2OpenJPEG" if name.endswith("jp2") else "GTiff"
    write_raster(tmp_path / name, bands_first(noise(600, 600)), driver=driver)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageReadError, match=rf"{name}: .*(truncated|damaged)"):
        whole(open_image(tmp_path / name))


def test_other_files_are_no_jpeg_2000(tmp_path):
    (tmp_path / "a.jp2").write_text("no image at all")
    with pytest.raises(ImageReadError, match=r"a\.jp2: this is no GeoTIFF or JPEG 2000 image"):
        open_image(tmp_path / "a.jp2")


def test_rasters_survive_pickling(tmp_path):
    write_raster(tmp_path / "a.tif", bands_first(smooth(100, 120)), overviews=(2,), **TILED)
    reader = open_image(tmp_path / "a.tif")
    before = whole(reader)
    np.testing.assert_array_equal(whole(pickle.loads(pickle.dumps(reader))), before)
