"""From pixels to the map and back."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sparsenet.errors import ConfigError, MissingDependencyError
from sparsenet.tiling import Georeference, open_image
from sparsenet.tiling.georeference import is_geotiff

NORTH_UP = (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_200_000.0)


def test_the_upper_left_corner_is_the_origin():
    points = np.array([[0, 0], [10, 0], [0, 20.5]])
    expected = [[500_000, 5_200_000], [500_005, 5_200_000], [500_000, 5_199_989.75]]
    np.testing.assert_array_equal(
        Georeference("EPSG:32633", NORTH_UP).pixel_to_map(points), expected
    )


@given(
    st.tuples(*[st.floats(-10, 10)] * 6).filter(lambda t: abs(t[0] * t[4] - t[1] * t[3]) > 1e-2),
    st.lists(st.tuples(*[st.floats(0, 1e5)] * 2), max_size=5),
)
def test_there_and_back(transform, points):
    points_xy = np.array(points, dtype=np.float64).reshape(-1, 2)
    georeference = Georeference("EPSG:3857", transform)
    back = georeference.map_to_pixel(georeference.pixel_to_map(points_xy))
    np.testing.assert_allclose(back, points_xy, atol=1e-4)


def test_longitude_and_latitude():
    pytest.importorskip("rasterio", reason="needs the extra sparsenet[geo]")
    found = Georeference("EPSG:32633", NORTH_UP).pixel_to_lonlat(np.array([[0, 0], [20_000, 0]]))
    # Zone 33's central meridian, 15° east, has easting 500,000; a degree of longitude is 76 km.
    np.testing.assert_allclose(found, [[15, 46.9535], [15.1314, 46.9535]], atol=2e-4)


def test_a_transform_onto_a_line_is_refused():
    with pytest.raises(ConfigError, match="must be invertible"):
        Georeference("EPSG:4326", (1, 2, 0, 2, 4, 0))


def test_missing_rasterio_names_the_extra(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.jp2")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'sparsenet\[geo\]'"):
        open_image(tmp_path / "a.jp2")
    with pytest.raises(MissingDependencyError, match="map coordinates need rasterio"):
        Georeference("EPSG:32633", NORTH_UP).pixel_to_lonlat(np.zeros((1, 2)))


@pytest.mark.parametrize(
    "head", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff" + bytes(8), b"\xff\xd8" * 9]
)
def test_files_without_a_directory_are_no_geotiff(tmp_path, head):
    (tmp_path / "x.tif").write_bytes(head)
    assert not is_geotiff(tmp_path / "x.tif")
