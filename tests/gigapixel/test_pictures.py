"""Pictures, the pass over the pixels that feeds them, and Deep Zoom tiles."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from sparsenet.errors import ConfigError, OutputError
from sparsenet.gigapixel.deep_zoom import TILE_SIZE, DeepZoomWriter
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports import class_color
from sparsenet.gigapixel.masks import encode_mask, mask_windows
from sparsenet.gigapixel.pictures import (
    TRUTH_COLOR,
    crop_groups,
    draw_overview,
    overview_downsample,
    paint_overview,
    read_overview,
    save_crops,
    write_picture,
)
from sparsenet.gigapixel.sweep import OverviewCollector, WindowCollector, sweep
from sparsenet.gigapixel.truth import Truth
from sparsenet.tiling.reader import ArrayReader, open_image
from sparsenet.tiling.window import Window

GREY = 90


def detections(boxes, scores=None, classes=None, image_size=(600, 900)):
    num = len(boxes)
    return Detections(
        boxes_xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        scores=np.full(num, 0.9) if scores is None else np.array(scores),
        classes=np.zeros(num) if classes is None else np.array(classes),
        truncated=np.zeros(num),
        tile_ids=np.zeros(num),
        image_size=image_size,
        class_names=("person", "vehicle"),
    )


def grey_image(height=600, width=900):
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def has_color(picture, color):
    return bool((picture == np.array(color)).all(axis=-1).any())


def read_rgb(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def smooth_image(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("band_height", [7, 64, 1000])
@pytest.mark.parametrize("downsample", [1, 3, 8])
def test_overview_does_not_depend_on_the_bands(band_height, downsample):
    image = smooth_image(203, 310)
    collector = OverviewCollector(image.shape[:2], downsample)
    sweep(ArrayReader(image), [collector], band_height=band_height)
    whole = ArrayReader(image).read(Window(0, 0, 310, 203), downsample)
    np.testing.assert_array_equal(collector.pixels, whole)


@pytest.mark.parametrize("band_height", [5, 64, 1000])
def test_windows_are_cut_out_of_the_bands(band_height):
    image = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    windows = [Window(0, 0, 300, 200), Window(17, 61, 90, 80), Window(250, 190, 50, 10)]
    exact, thinned = WindowCollector(windows), WindowCollector(windows, max_side=40)
    sweep(ArrayReader(image), [exact, thinned], band_height=band_height)
    for w, pixels, few in zip(windows, exact.pixels, thinned.pixels):
        expected = image[w.y : w.y2, w.x : w.x2]
        np.testing.assert_array_equal(pixels, expected)
        step = -(-max(w.size) // 40)
        np.testing.assert_array_equal(few, expected[::step, ::step])


@pytest.mark.parametrize("size", [(1, 1), (512, 512), (1300, 700), (513, 1025)])
def test_deep_zoom_levels_show_the_image(tmp_path, size):
    image = smooth_image(*size)
    with DeepZoomWriter(tmp_path / "tiles", size) as writer:
        sweep(ArrayReader(image), [writer], band_height=200)
    levels = sorted((tmp_path / "tiles").iterdir(), key=lambda folder: int(folder.name))
    assert len(levels) == int(np.ceil(np.log2(max(size)))) + 1
    for number, folder in enumerate(levels):
        downsample = 2 ** (len(levels) - 1 - number)
        shown = read_level(folder)
        assert shown.shape[:2] == tuple(-(-side // downsample) for side in size)
        whole = ArrayReader(image).read(Window(0, 0, size[1], size[0]), downsample)
        if min(shown.shape[:2]) >= 32:  # JPEG's chroma blurs what is smaller
            assert np.abs(shown.astype(int) - whole).mean() < 4


def read_level(folder):
    places = {
        tuple(int(v) for v in file.stem.split("_")): read_rgb(file) for file in folder.iterdir()
    }
    columns = max(x for x, _ in places) + 1
    rows = max(y for _, y in places) + 1
    assert len(places) == columns * rows
    assert all(max(tile.shape[:2]) <= TILE_SIZE for tile in places.values())
    strips = [np.concatenate([places[x, y] for x in range(columns)], axis=1) for y in range(rows)]
    return np.concatenate(strips)


def test_a_tile_that_cannot_be_written_is_reported(tmp_path):
    image = smooth_image(700, 700)
    writer = DeepZoomWriter(tmp_path / "tiles", (700, 700))
    (tmp_path / "tiles" / "10" / "0_0.jpg").mkdir()
    with pytest.raises(OutputError, match="--no-viewer"), writer:
        sweep(ArrayReader(image), [writer])


def test_overview_fits_the_limit():
    assert overview_downsample((100, 2400)) == 1
    assert overview_downsample((100, 2401)) == 2
    pixels, downsample = read_overview(ArrayReader(grey_image()), max_side=400)
    assert (pixels.shape, downsample) == ((200, 300, 3), 3)
    with pytest.raises(ConfigError, match="max_side"):
        overview_downsample((10, 10), 0)


def test_overview_of_a_pyramid_is_the_same(tmp_path):
    pyvips = pytest.importorskip("pyvips")
    image = smooth_image(1200, 1800)
    path = tmp_path / "pyramid.tif"
    pyvips.Image.new_from_array(image).tiffsave(
        str(path), tile=True, pyramid=True, tile_width=256, tile_height=256
    )
    reader = open_image(path)
    assert len(reader.level_downsamples) > 1
    from_levels, downsample = read_overview(reader, 300)
    assert downsample == 6
    collector = OverviewCollector(image.shape[:2], 6)
    sweep(ArrayReader(image), [collector])
    assert np.abs(from_levels.astype(int) - collector.pixels).mean() < 2


def test_boxes_are_drawn_where_they_are_in_the_colour_of_their_class():
    found = detections([[300, 150, 600, 450], [30, 30, 90, 90]], classes=[0, 1])
    picture = paint_overview(grey_image()[::3, ::3], 3, found)
    assert has_color(picture[50, 90:110], class_color(0))  # left side of the large box
    assert has_color(picture[5:35, 8:12], class_color(1))
    assert (picture[100, 150] == GREY).all()  # boxes are not filled
    assert picture.shape[0] > 200  # the legend is below
    assert has_color(picture[200:], class_color(0))


def with_masks(found):
    """Masks that cover the left half of each box."""
    windows = mask_windows(found.boxes_xyxy).tolist()
    sizes = [(y2 - y1, x2 - x1) for x1, y1, x2, y2 in windows]
    halves = [np.arange(width)[None].repeat(height, 0) < width / 2 for height, width in sizes]
    return replace(found, masks=[encode_mask(half) for half in halves])


def is_tinted(pixel, index):
    """Whether a pixel is the grey of the image with two fifths of the colour of a class."""
    return bool(np.allclose(pixel, GREY * 0.6 + np.array(class_color(index)) * 0.4, atol=1))


@pytest.mark.parametrize("downsample", [1, 3])
def test_masks_are_tinted_inside_their_boxes(downsample):
    found = with_masks(detections([[300, 150, 600, 450], [30, 30, 90, 90]], classes=[0, 1]))
    picture = paint_overview(grey_image()[::downsample, ::downsample], downsample, found)
    for x, y, index in ((375, 300, 0), (48, 60, 1)):
        assert is_tinted(picture[y // downsample, x // downsample], index)
    for x, y in ((525, 300), (75, 60), (150, 300)):  # right halves, and beside
        assert (picture[y // downsample, x // downsample] == GREY).all()
    edge = picture[250 // downsample, 444 // downsample : 453 // downsample]
    assert has_color(edge[None], class_color(0))


def test_small_masks_lie_upon_large_ones():
    boxes = [[100, 100, 140, 140], [0, 0, 800, 580]]
    picture = paint_overview(grey_image(), 1, with_masks(detections(boxes, classes=[1, 0])))
    assert is_tinted(picture[200, 110], 0)
    assert has_color(picture[110:130, 119:120], class_color(1))  # the edge of the small one


@pytest.mark.parametrize("downsample", [2, 3, 6, 7])
def test_masks_at_the_ends_of_the_image(downsample):
    boxes = [[898.5, 598.5, 900, 600], [0, 0, 900, 600], [0, 599.9, 0.1, 600]]
    found = with_masks(detections(boxes))
    picture = paint_overview(grey_image()[::downsample, ::downsample], downsample, found)
    assert is_tinted(picture[40, 50], 0)


def test_masks_are_shown_in_crops(tmp_path):
    found = with_masks(detections([[300, 150, 600, 450], [880, 580, 900, 600]], classes=[0, 1]))
    save_crops(ArrayReader(grey_image()), found, tmp_path / "crops.png")
    crops = read_rgb(tmp_path / "crops.png")[30:]
    assert is_tinted(crops[88, 60], 0) and (crops[88, 115] == GREY).all()
    assert is_tinted(crops[130, 176 + 88], 1) and not is_tinted(crops[130, 176 + 40], 1)


def test_the_legend_names_only_what_was_found(tmp_path):
    of_many = replace(detections([[1, 1, 9, 9]]), class_names=tuple(map(str, range(400))))
    one = paint_overview(grey_image(), 1, replace(of_many, class_names=("0",)))
    np.testing.assert_array_equal(paint_overview(grey_image(), 1, of_many), one)


def test_tiny_boxes_stay_visible():
    picture = paint_overview(grey_image()[::3, ::3], 3, detections([[300, 300, 301, 301]]))
    assert has_color(picture[:200], class_color(0))


def test_truth_is_drawn_in_its_own_colour():
    truth = Truth(
        np.array([[300.0, 150, 600, 450], [0, 0, 60, 60]]),
        np.zeros(2, int),
        np.array([False, True]),
    )
    with_truth = paint_overview(grey_image(), 1, detections([]), truth)
    assert has_color(with_truth[:600], TRUTH_COLOR)
    assert (with_truth[30, 59:62] != GREY).any()  # the ignore region


def test_overview_file(tmp_path):
    path = tmp_path / "overview.png"
    draw_overview(ArrayReader(grey_image()), detections([[100, 100, 300, 300]]), path, max_side=450)
    picture = read_rgb(path)
    assert picture.shape[1] == 450
    assert has_color(picture, class_color(0))


def test_crops_show_the_most_certain_and_the_least_certain(tmp_path):
    scores = np.linspace(0.41, 0.99, 90)
    boxes = [[5 * i, 100, 5 * i + 40, 200] for i in range(90)]
    found = detections(boxes, scores)
    (_, certain), (title, uncertain) = crop_groups(found, 0.4)
    assert certain.tolist() == list(range(89, 53, -1))
    assert uncertain.tolist() == list(range(36))
    assert "0.4" in title
    save_crops(ArrayReader(grey_image()), found, tmp_path / "crops.png", threshold=0.4)
    assert has_color(read_rgb(tmp_path / "crops.png"), class_color(0))


def test_crops_of_nothing_and_of_objects_larger_than_the_image(tmp_path):
    reader = ArrayReader(grey_image(40, 60))
    save_crops(reader, detections([], image_size=(40, 60)), tmp_path / "none.png")
    assert read_rgb(tmp_path / "none.png").shape[0] > 0
    whole = detections([[0, 0, 60, 40]], image_size=(40, 60))
    save_crops(reader, whole, tmp_path / "one.png")
    assert has_color(read_rgb(tmp_path / "one.png"), class_color(0))


def test_a_picture_needs_a_known_format(tmp_path):
    with pytest.raises(OutputError, match=r"\.jpg or \.png"):
        write_picture(tmp_path / "a.gif", grey_image())
    with pytest.raises(OutputError, match="must be written"):
        write_picture(tmp_path / "nowhere" / "a.jpg", grey_image())
