import json

import cv2
import numpy as np
import pytest

from sparsenet.errors import AnnotationError
from sparsenet.gigapixel.area_mask import PixelMask, read_area_mask
from sparsenet.tiling import TileGrid

SIZE = (400, 800)
GRID = TileGrid(SIZE, 100, 0, 1)


def square(x, y, side):
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    return {"type": "Polygon", "coordinates": [ring]}


def feature(geometry):
    return {"type": "Feature", "geometry": geometry, "properties": {}}


def write(folder, content):
    path = folder / "area.geojson"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "content",
    [
        square(150, 100, 100),
        feature(square(150, 100, 100)),
        [feature(square(150, 100, 100)), feature(None)],
        {"type": "FeatureCollection", "features": [feature(square(150, 100, 100))]},
        {"type": "MultiPolygon", "coordinates": [square(150, 100, 100)["coordinates"]]},
    ],
)
def test_polygons_pick_the_tiles_that_share_area(tmp_path, content):
    touches = read_area_mask(write(tmp_path, content), SIZE).touches(GRID)
    # x 150 to 250, y 100 to 200: a common edge with row 0 and row 2 is no area.
    assert np.argwhere(touches).tolist() == [[1, 1], [1, 2]]


def test_holes_and_several_polygons(tmp_path):
    ring = square(0, 0, 400)["coordinates"][0]
    hole = square(100, 100, 200)["coordinates"][0]
    content = [feature({"type": "Polygon", "coordinates": [ring, hole]}), square(700, 300, 50)]
    touches = read_area_mask(write(tmp_path, content), SIZE).touches(GRID)
    assert touches[:, :4].sum() == 12 and not touches[1:3, 1:3].any()
    assert touches[:, 4:].sum() == 1 and touches[3, 7]


@pytest.mark.parametrize("scale", [1, 0.1, 0.05, 2])
def test_mask_images_of_any_size(tmp_path, scale):
    pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")
    mask = np.zeros((round(400 * scale), round(800 * scale)), np.uint8)
    mask[round(100 * scale) : round(200 * scale), round(300 * scale) : round(500 * scale)] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    touches = read_area_mask(tmp_path / "mask.png", SIZE).touches(GRID)
    assert np.argwhere(touches).tolist() == [[1, 3], [1, 4]]


def test_one_bright_pixel_is_enough():
    inside = np.zeros((7, 13), dtype=bool)
    inside[3, 6] = True
    touches = PixelMask(inside, (701, 1303)).touches(TileGrid((701, 1303), 50, 0, 1))
    rows, columns = np.nonzero(touches)
    assert (rows.min() * 50, columns.min() * 50) == (300, 600)
    assert rows.max() * 50 <= 4 * 701 / 7 and columns.max() * 50 <= 7 * 1303 / 13


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "must be GeoJSON"),
        ('{"type": "FeatureCollection"}', "must be GeoJSON"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}', "must be GeoJSON"),
        ('{"type": "Point", "coordinates": [3, 4]}', "at least one polygon"),
        ("[]", "at least one polygon"),
        ("3", "must be GeoJSON"),
    ],
)
def test_files_without_polygons_are_refused(tmp_path, text, message):
    path = tmp_path / "area.json"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=rf"area\.json: .*{message}"):
        read_area_mask(path, SIZE)


def test_other_proportions_and_missing_files_are_refused(tmp_path):
    pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")
    cv2.imwrite(str(tmp_path / "mask.png"), np.zeros((100, 100), np.uint8))
    with pytest.raises(AnnotationError, match="proportions of its image, 800 × 400"):
        read_area_mask(tmp_path / "mask.png", SIZE)
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_area_mask(tmp_path / "none.geojson", SIZE)
    with pytest.raises(AnnotationError, match=r"A mask must be .*none\.png: there is no such"):
        read_area_mask(tmp_path / "none.png", SIZE)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(AnnotationError, match=r"A mask must be .*text\.png"):
        read_area_mask(tmp_path / "text.png", SIZE)


@pytest.mark.parametrize("origin", [(800, 100), (900, 100), (100, -100)])
def test_polygons_beside_the_image_are_refused(tmp_path, origin):
    x, y = origin
    message = rf"x 0 to 800 and y 0 to 400; got x {x} to {x + 100} and y {y} to {y + 100}\."
    with pytest.raises(AnnotationError, match=message):
        read_area_mask(write(tmp_path, square(x, y, 100)), SIZE)


def test_dark_mask_images_are_refused(tmp_path):
    pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")
    cv2.imwrite(str(tmp_path / "mask.png"), np.ones((40, 80), np.uint8))
    with pytest.raises(AnnotationError, match=r"got 80 × 40 pixels .* without one of grey level"):
        read_area_mask(tmp_path / "mask.png", SIZE)


def test_a_bow_tie_is_both_of_its_triangles(tmp_path):
    ring = [[110, 110], [290, 190], [290, 110], [110, 190], [110, 110]]
    content = {"type": "Polygon", "coordinates": [ring]}
    touches = read_area_mask(write(tmp_path, content), SIZE).touches(GRID)
    assert np.argwhere(touches).tolist() == [[1, 1], [1, 2]]


def test_lines_left_of_a_polygon_are_no_area(tmp_path):
    spike = [[0, 0], [50, 0], [50, 50], [350, 50], [50, 50], [0, 50], [0, 0]]
    content = {"type": "Polygon", "coordinates": [spike]}
    touches = read_area_mask(write(tmp_path, content), SIZE).touches(GRID)
    assert np.argwhere(touches).tolist() == [[0, 0]]
