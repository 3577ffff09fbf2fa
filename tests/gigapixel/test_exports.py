"""Exports are read back with the formats' own libraries."""

import csv
import io
import json
import os
import uuid
from dataclasses import replace
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import shapely.geometry
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sparsenet.errors import ConfigError
from sparsenet.files import write_json
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports import (
    CSV_COLUMNS,
    FORMATS,
    ImageInfo,
    to_coco,
    to_csv,
    to_cvat,
    to_fiftyone,
    to_geojson,
    to_labelme,
    to_panda,
    to_yolo,
    write_exports,
)
from sparsenet.gigapixel.masks import encode_mask, mask_windows
from sparsenet.tiling import Georeference


@pytest.fixture
def found():
    return Detections(
        boxes_xyxy=np.array([[10.25, 20, 110.5, 220], [5000, 3000, 5040.5, 3090.9], [0, 0, 7, 9]]),
        scores=np.array([0.9, 0.51239, 0.05]),
        classes=np.array([0, 1, 0]),
        truncated=np.array([False, True, False]),
        tile_ids=np.array([0, 4, 2]),
        image_size=(4000, 6000),
        class_names=("person", "vehicle"),
    )


def drawn_masks(detections):
    """Bitmaps of ellipses in the windows of the boxes; the second in two pieces."""
    bitmaps = []
    for x1, y1, x2, y2 in mask_windows(detections.boxes_xyxy):
        pixels = np.zeros((y2 - y1, x2 - x1), dtype=np.uint8)
        centre, axes = ((x2 - x1) // 2, (y2 - y1) // 2), ((x2 - x1) // 2, (y2 - y1) // 2)
        cv2.ellipse(pixels, centre, axes, 0, 0, 360, 1, -1)
        bitmaps.append(pixels.astype(bool))
    bitmaps[1][40:50] = False
    return bitmaps


@pytest.fixture
def masked(found):
    return replace(found, masks=[encode_mask(pixels) for pixels in drawn_masks(found)])


def test_coco_results_are_loaded_by_pycocotools(found, tmp_path):
    truth = {
        "info": {},
        "images": [{"id": 7, "height": 4000, "width": 6000, "file_name": "a.jpg"}],
        "categories": [{"id": 3, "name": "person"}, {"id": 11, "name": "vehicle"}],
        "annotations": [],
    }
    write_json(tmp_path / "truth.json", truth)
    write_json(tmp_path / "results.json", to_coco(found, 7, [3, 11]))
    results = COCO(str(tmp_path / "truth.json")).loadRes(str(tmp_path / "results.json"))
    loaded = results.loadAnns(results.getAnnIds(imgIds=[7]))
    assert [a["category_id"] for a in loaded] == [3, 11, 3]
    boxes = np.array([a["bbox"] for a in loaded])
    boxes[:, 2:] += boxes[:, :2]
    np.testing.assert_allclose(boxes, found.boxes_xyxy, atol=0.11)
    np.testing.assert_allclose([a["score"] for a in loaded], found.scores, atol=1e-4)


def test_coco_segmentations_are_the_masks_in_the_image(masked):
    results = json.loads(json.dumps(masked.to_coco(3)))
    assert [r["category_id"] for r in results] == [1, 2, 1]
    for result, pixels, window in zip(
        results, drawn_masks(masked), mask_windows(masked.boxes_xyxy).tolist()
    ):
        x1, y1, x2, y2 = window
        image = coco_mask.decode(result["segmentation"])
        assert image.shape == masked.image_size
        assert image.sum() == pixels.sum()
        np.testing.assert_array_equal(image[y1:y2, x1:x2], pixels)


def test_a_mask_at_the_ends_of_the_image_and_an_empty_one():
    corners = Detections(
        np.array([[0, 0, 3, 4], [7, 2, 10, 6], [1, 1, 2, 2]]), [0.5] * 3, [0] * 3, [0] * 3, [0] * 3,
        (6, 10), masks=[encode_mask(np.ones((4, 3), bool)), encode_mask(np.ones((4, 3), bool)),
                        encode_mask(np.zeros((1, 1), bool))],
    )  # fmt: skip
    first, last, nothing = (coco_mask.decode(r["segmentation"]) for r in corners.to_coco())
    assert first[:4, :3].all()
    assert last[2:, 7:].all()
    assert [m.sum() for m in (first, last, nothing)] == [12, 12, 0]


def test_masks_of_images_beyond_run_lengths_are_polygons():
    """COCO counts pixels in 32 bits."""
    pixels = np.ones((4, 6), dtype=bool)
    pixels[:2, 3:] = False
    box = np.array([[69_994.0, 69_996, 70_000, 70_000]])
    for side, is_polygon in ((65_536, True), (65_535, False)):
        size, shift = (side, side), side - 70_000
        found = Detections(
            box + shift, [0.5], [0], [0], [0], size, masks=[encode_mask(pixels)]
        )  # fmt: skip
        (result,) = json.loads(json.dumps(found.to_coco()))
        assert isinstance(result["segmentation"], list) == is_polygon
        if is_polygon:
            (ring,) = (np.reshape(part, (-1, 2)) for part in result["segmentation"])
            assert shapely.Polygon(ring).area == pixels.sum()
            assert ring.max(axis=0).tolist() == [side, side]
        else:
            assert coco_mask.area(result["segmentation"]) == pixels.sum()


def test_panda_results_are_whole_pixels_and_the_best_500(found, masked):
    many = Detections.cat([found] * 200)
    results = to_panda(many, 7, [2, 4])
    assert len(results) == 500
    assert results[0] == {
        "image_id": 7, "category_id": 2, "bbox": [10, 20, 100, 200], "score": 0.9,
    }  # fmt: skip
    assert min(r["score"] for r in results) == 0.05
    assert sum(r["category_id"] == 4 for r in results) == 200
    assert "segmentation" not in to_panda(masked)[0]


def test_coco_categories_may_be_a_mapping(found):
    assert [r["category_id"] for r in to_coco(found, "a.jpg", {0: 8, 1: 9})] == [8, 9, 8]


def test_a_class_without_category_is_refused(found):
    with pytest.raises(ConfigError, match=r"none came for \[1\]"):
        to_coco(found, 1, [3])
    with pytest.raises(ConfigError, match="category_ids must name"):
        to_coco(found, 1, {0: 3})


@pytest.mark.parametrize("object_type", ["annotation", "detection"])
def test_geojson_polygons_are_the_boxes(found, object_type):
    collection = json.loads(json.dumps(to_geojson(found, object_type=object_type)))
    assert collection["type"] == "FeatureCollection"
    for feature, box in zip(collection["features"], found.boxes_xyxy):
        ring = feature["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1]
        polygon = shapely.geometry.shape(feature["geometry"])
        assert polygon.is_valid
        assert polygon.exterior.is_ccw  # RFC 7946
        np.testing.assert_allclose(polygon.bounds, box, atol=0.051)


def test_geojson_carries_what_qupath_reads(found):
    features = to_geojson(found)["features"]
    properties = features[1]["properties"]
    assert properties["objectType"] == "annotation"
    assert properties["classification"]["name"] == "vehicle"
    assert all(0 <= v <= 255 for v in properties["classification"]["color"])
    assert properties["measurements"] == {"score": 0.5124}
    ids = [uuid.UUID(feature["id"]) for feature in features]
    assert len(set(ids)) == 3
    assert [f["id"] for f in to_geojson(found)["features"]] == [str(i) for i in ids]


def test_geojson_is_valid_for_the_geojson_library(found, masked):
    geojson = pytest.importorskip("geojson", reason="needs geojson")
    for detections in (found, masked):
        loaded = geojson.loads(json.dumps(to_geojson(detections)))
        assert loaded.is_valid, loaded.errors()


def test_geojson_outlines_have_the_area_of_the_masks(masked):
    features = to_geojson(masked)["features"]
    assert [f["geometry"]["type"] for f in features] == ["Polygon", "MultiPolygon", "Polygon"]
    for feature, pixels, window in zip(
        features, drawn_masks(masked), mask_windows(masked.boxes_xyxy)
    ):
        outline = shapely.geometry.shape(feature["geometry"])
        assert outline.is_valid
        assert outline.area == pixels.sum()
        rows, columns = np.nonzero(pixels)
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_array_equal(outline.bounds, np.array(corners) + np.tile(window[:2], 2))


# 0.5 m per pixel, north up, in UTM zone 33.
ON_MAP = Georeference("EPSG:32633", (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_200_000.0))


def test_geojson_on_a_map(found):
    collection = to_geojson(found, georeference=ON_MAP)
    assert collection["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    for feature, (x1, y1, x2, y2) in zip(collection["features"], found.boxes_xyxy):
        outline = shapely.geometry.shape(feature["geometry"])
        assert outline.exterior.is_ccw  # although the map's y points the other way
        expected = np.array([x1 / 2, -y2 / 2, x2 / 2, -y1 / 2]) + np.tile([500_000, 5_200_000], 2)
        np.testing.assert_allclose(outline.bounds, expected, atol=0.03)


def test_geojson_in_longitude_and_latitude(found):
    pytest.importorskip("rasterio", reason="needs sparsenet[geo]")
    collection = found.to_geojson(georeference=ON_MAP, is_lonlat=True)
    assert "crs" not in collection  # RFC 7946
    longitude, latitude = collection["features"][0]["geometry"]["coordinates"][0][0]
    assert longitude == pytest.approx(15.0, abs=1e-3)  # zone 33's central meridian
    assert latitude == pytest.approx(46.95, abs=0.02)


def test_impossible_geojson_is_refused(found):
    with pytest.raises(ConfigError, match="object_type must be"):
        to_geojson(found, object_type="cell")
    with pytest.raises(ConfigError, match="is_lonlat needs the georeference"):
        to_geojson(found, is_lonlat=True)


def test_csv_is_read_back(found):
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["class"] for row in rows] == ["person", "vehicle", "person"]
    assert [row["truncated"] for row in rows] == ["0", "1", "0"]
    np.testing.assert_allclose([float(r["height"]) for r in rows], [200, 90.9, 9], atol=0.06)


def test_cvat_boxes_are_read_back(found):
    root = ElementTree.fromstring(to_cvat(found, ImageInfo("folder/a & b.jpg")))
    assert [e.text for e in root.findall("meta/task/labels/label/name")] == ["person", "vehicle"]
    image = root.find("image")
    assert image.attrib == {"id": "0", "name": "a & b.jpg", "width": "6000", "height": "4000"}
    boxes = image.findall("box")
    assert [b.attrib["label"] for b in boxes] == ["person", "vehicle", "person"]
    sides = [[float(b.attrib[k]) for k in ("xtl", "ytl", "xbr", "ybr")] for b in boxes]
    np.testing.assert_allclose(sides, found.boxes_xyxy, atol=0.051)
    assert [b.find("attribute[@name='score']").text for b in boxes] == ["0.9", "0.5124", "0.05"]


def test_cvat_masks_are_read_back(masked):
    root = ElementTree.fromstring(to_cvat(masked, ImageInfo("a.jpg")))
    for mask, pixels in zip(root.findall("image/mask"), drawn_masks(masked)):
        runs = [int(run) for run in mask.attrib["rle"].split(",")]
        values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        shape = int(mask.attrib["height"]), int(mask.attrib["width"])
        np.testing.assert_array_equal(values.reshape(shape), pixels)
    full = replace(masked[:1], masks=[encode_mask(np.ones((200, 101), bool))])
    mask = ElementTree.fromstring(to_cvat(full, ImageInfo("a.jpg"))).find("image/mask")
    assert mask.attrib["rle"] == "0, 20200"


def test_labelme_shapes(found, masked, tmp_path):
    content = to_labelme(found, ImageInfo(tmp_path / "photos" / "a.jpg"), tmp_path / "results")
    assert content["imagePath"] == os.path.join("..", "photos", "a.jpg")
    assert (content["imageHeight"], content["imageWidth"]) == found.image_size
    assert content["shapes"][1]["points"] == [[5000.0, 3000.0], [5040.5, 3090.9]]
    assert {shape["shape_type"] for shape in content["shapes"]} == {"rectangle"}
    shapes = to_labelme(masked, ImageInfo("a.jpg"))["shapes"]
    assert [shape["group_id"] for shape in shapes] == [None, 1, 1, None]
    assert {shape["shape_type"] for shape in shapes} == {"polygon"}


def test_labelme_opens_the_file(found, tmp_path):
    labelme = pytest.importorskip("labelme", reason="needs labelme, which needs Qt")
    small = replace(found, image_size=(40, 60))
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((40, 60, 3), np.uint8))
    write_exports(small, ImageInfo(tmp_path / "a.jpg"), tmp_path, ["labelme"])
    loaded = labelme.LabelFile(str(tmp_path / "labelme" / "a.json"))
    assert [shape["label"] for shape in loaded.shapes] == ["person", "vehicle", "person"]


@pytest.mark.parametrize("with_masks", [False, True])
def test_yolo_labels_are_loaded_by_supervision(found, masked, with_masks, tmp_path):
    supervision = pytest.importorskip("supervision", reason="needs supervision")
    detections = masked if with_masks else found
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((*found.image_size, 3), np.uint8))
    write_exports(detections, ImageInfo("a.png"), tmp_path, ["yolo"])
    dataset = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "images"), str(tmp_path / "yolo" / "labels"),
        str(tmp_path / "yolo" / "data.yaml"), force_masks=with_masks,
    )  # fmt: skip
    assert dataset.classes == ["person", "vehicle"]
    _, _, loaded = dataset[0]
    assert loaded.class_id.tolist() == [0, 1, 0]
    if not with_masks:
        np.testing.assert_allclose(loaded.xyxy, found.boxes_xyxy, atol=0.06)
    else:
        areas = [pixels.sum() for pixels in drawn_masks(found)]
        assert loaded.mask[0].sum() == pytest.approx(areas[0], rel=0.05)


def test_yolo_scores_and_names_without_any_object(found):
    assert to_yolo(found, has_scores=True).splitlines()[0].split()[-1] == "0.9"
    assert all(len(line.split()) == 5 for line in to_yolo(found).splitlines())


def test_yolo_lines_are_all_of_one_kind(masked):
    """An empty mask becomes the corners of its box."""
    masks = [*masked.masks[:2], encode_mask(np.zeros((9, 7), bool))]
    lines = to_yolo(replace(masked, masks=masks), has_scores=True).splitlines()
    assert all(len(line.split()) >= 7 and len(line.split()) % 2 for line in lines)
    corners = np.array(lines[2].split()[1:], float).reshape(-1, 2) * (6000, 4000)
    np.testing.assert_allclose(corners, [[0, 0], [7, 0], [7, 9], [0, 9]], atol=1e-3)


def test_fiftyone_reads_boxes_as_shares(found):
    content = to_fiftyone(found, ImageInfo("photos/a.jpg"))
    assert content["classes"] == ["person", "vehicle"]
    (labels,) = content["labels"].values()
    boxes = np.array([label["bounding_box"] for label in labels]) * ([6000, 4000] * 2)
    boxes[:, 2:] += boxes[:, :2]
    np.testing.assert_allclose(boxes, found.boxes_xyxy, atol=0.06)
    assert labels[1] | {"bounding_box": None} == {
        "label": 1, "bounding_box": None, "confidence": 0.5124, "attributes": {"truncated": True},
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["some", "none", "masked"])
def test_every_format_is_written(kind, found, masked, tmp_path):
    detections = {"some": found, "none": found[[]], "masked": masked}[kind]
    write_exports(detections, ImageInfo("photos/a.jpg", georeference=ON_MAP), tmp_path, FORMATS)
    names = {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()}
    assert names == {
        "detections.json", "detections.panda.json", "detections.geojson",
        "detections.map.geojson", "detections.csv", "detections.cvat.xml", "labelme/a.json",
        "yolo/labels/a.txt", "yolo/data.yaml", "fiftyone/labels.json", "fiftyone/data.json",
    }  # fmt: skip


def test_an_unknown_format_is_refused(found, tmp_path):
    with pytest.raises(ConfigError, match=r"some of coco, panda, .*got \['xlsx'\]"):
        write_exports(found, ImageInfo("a.jpg"), tmp_path, ["coco", "xlsx"])
    assert not list(tmp_path.iterdir())


def test_nothing_found_gives_valid_files(found):
    nothing = found[np.zeros(3, dtype=bool)]
    assert to_coco(nothing, 1, []) == []
    assert to_geojson(nothing) == {"type": "FeatureCollection", "features": []}
    assert to_csv(nothing).splitlines() == [",".join(CSV_COLUMNS)]


def test_a_class_without_a_name_is_numbered(found):
    nameless = Detections(*[getattr(found, n) for n in (
        "boxes_xyxy", "scores", "classes", "truncated", "tile_ids", "image_size")])  # fmt: skip
    assert to_csv(nameless).splitlines()[2].startswith("class 1,")
