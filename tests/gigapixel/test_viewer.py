"""The viewer's files, and the page in a real browser, opened from disk."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import cv2
import numpy as np
import pytest

from sparsenet.errors import OutputError
from sparsenet.evaluation.detection_errors import count_errors
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.masks import encode_mask, mask_windows
from sparsenet.gigapixel.selection import LevelSelection, Reason, TileSelection
from sparsenet.gigapixel.truth import Truth
from sparsenet.gigapixel.viewer import ASSETS, save_viewer, viewer_data
from sparsenet.tiling import TileGrid
from sparsenet.tiling.reader import ArrayReader

SIZE = (1500, 2000)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
MAGENTA = (255, 0, 255)


def crowd(num=400, seed=0):
    """Detections of known objects: some missed, some invented, some in ignore regions."""
    rng = np.random.default_rng(seed)
    tall = rng.uniform(20, 120, num)
    corner = rng.uniform(0, 1, (num, 2)) * (np.array([2000, 1500]) - 130)
    boxes = np.concatenate([corner, corner + np.stack([0.4 * tall, tall], 1)], axis=1)
    classes = (rng.uniform(size=num) < 0.2).astype(int)
    truth = Truth(boxes, classes, rng.uniform(size=num) < 0.05)
    seen = rng.uniform(size=num) < 0.9
    moved = boxes[seen] + rng.normal(0, 2, (seen.sum(), 4))
    invented = boxes[:30] + np.array([0, 60, 10, 60])
    found = Detections(
        boxes_xyxy=np.concatenate([moved, invented]).round(1),
        scores=rng.uniform(0.05, 1, seen.sum() + 30).round(3),
        classes=np.concatenate([classes[seen], classes[:30]]),
        truncated=rng.uniform(size=seen.sum() + 30) < 0.1,
        tile_ids=np.zeros(seen.sum() + 30),
        image_size=SIZE,
        class_names=("person", "vehicle", "bicycle"),
    )
    return found, truth


def selection():
    """A coarse grid that ran everywhere and a fine one, half of it skipped for two reasons."""
    coarse, fine = (TileGrid(SIZE, 512, 64, downsample) for downsample in (4, 1))
    reasons = np.full(fine.shape, Reason.OBJECT, np.uint8)
    reasons[0], reasons[1, 0] = Reason.EMPTY, Reason.BUDGET
    worth = np.linspace(0, 0.9, reasons.size, dtype=np.float32).reshape(reasons.shape)
    return TileSelection((LevelSelection.every(coarse), LevelSelection(fine, reasons, worth)))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A viewer of an image whose pixels are all magenta, with truth."""
    found, truth = crowd()
    image = np.full((*SIZE, 3), MAGENTA, dtype=np.uint8)
    folder = tmp_path_factory.mktemp("with space & ümlaut") / "viewer"
    reader = ArrayReader(image, path="folder/</script><b>name.jpg")
    return save_viewer(
        found, reader, folder, truth=truth, skipped=selection().skipped(), threshold=0.4
    )


def test_the_folder_is_complete_and_needs_no_network(page):
    names = {file.name for file in page.parent.iterdir()}
    assert {"index.html", "viewer.js", "boxes.js", "drawing.js", "skipped.js"} < names
    assert "detections.js" in names
    assert {"openseadragon.min.js", "openseadragon.LICENSE.txt", "tiles"} < names
    text = page.read_text()
    for reference in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert (page.parent / reference).is_file()
    for file in ("viewer.js", "boxes.js", "drawing.js", "skipped.js", "viewer.css"):
        content = (page.parent / file).read_text()
        assert "fetch(" not in content
        assert "XMLHttpRequest" not in content
        assert "https://" not in content


def test_vendored_files_are_small_and_licensed():
    library = ASSETS / "openseadragon.min.js"
    assert library.stat().st_size < 500_000
    assert "sourceMappingURL" not in library.read_text()
    assert "Redistribution and use" in (ASSETS / "openseadragon.LICENSE.txt").read_text()


def test_data_is_what_was_given(page):
    found, truth = crowd()
    text = (page.parent / "detections.js").read_text()
    data = json.loads(text.removeprefix("window.SPARSENET=").rstrip().removesuffix(";"))
    order = np.argsort(-found.scores, kind="stable")
    assert data["image"]["width"], data["image"]["height"] == SIZE[::-1]
    boxes = np.array(data["detections"]["boxes"]).reshape(-1, 4)
    np.testing.assert_allclose(boxes, found.boxes_xyxy[order], atol=0.06)
    assert data["detections"]["scores"] == sorted(data["detections"]["scores"], reverse=True)
    assert data["detections"]["truncated"] == np.flatnonzero(found.truncated[order]).tolist()
    assert data["truth"]["ignore"] == truth.is_ignore.astype(int).tolist()
    assert [c["name"] for c in data["classes"]] == ["person", "vehicle", "bicycle"]


def test_skipped_tiles_are_told_with_their_reasons():
    found, _ = crowd(60)
    data = viewer_data(found, title="a", skipped=selection().skipped())["skipped"]
    columns = selection().levels[1].grid.shape[1]
    assert data["reasons"] == ["nothing expected"] * columns + ["over the budget"]
    assert data["boxes"][:4] == [0, 0, 512, 512]
    assert set(data["downsamples"]) == {1}
    assert viewer_data(found, title="a")["skipped"] is None


def test_outlines_of_masks():
    found, _ = crowd(60)
    assert viewer_data(found, title="a")["detections"]["outlines"] is None
    windows = mask_windows(found.boxes_xyxy)
    masks = [encode_mask(np.ones((y2 - y1, x2 - x1), bool)) for x1, y1, x2, y2 in windows]
    outlined = viewer_data(replace(found, masks=masks), title="a")["detections"]
    for (ring,), box in zip(outlined["outlines"], np.reshape(outlined["boxes"], (-1, 4))):
        assert min(ring[::2]) == np.floor(box[0])
        assert max(ring[1::2]) == np.ceil(box[3])


def test_classes_of_the_truth_alone_are_listed():
    nothing = Detections.empty(SIZE)
    truth = Truth(np.array([[0.0, 0, 5, 5]]), np.array([2]), np.array([False]))
    data = viewer_data(nothing, title="a", truth=truth, threshold=0.4)
    assert [c["name"] for c in data["classes"]] == ["class 0", "class 1", "class 2"]


def test_an_older_viewer_is_replaced(tmp_path):
    found, _ = crowd(50)
    save_viewer(found, ArrayReader(np.zeros((1500, 2000, 3), np.uint8)), tmp_path)
    small = Detections.empty((100, 100), ("person",))
    save_viewer(small, ArrayReader(np.zeros((100, 100, 3), np.uint8)), tmp_path)
    assert len(list((tmp_path / "tiles").iterdir())) == 8
    assert '"width":100' in (tmp_path / "detections.js").read_text()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    reader = ArrayReader(np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(OutputError, match="cannot"):
        save_viewer(Detections.empty((10, 10)), reader, tmp_path / "file")


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browse(page, tmp_path_factory):
    """Opens the page at an address with further options of Chromium; returns its output."""
    if CHROMIUM is None:
        pytest.skip("needs chromium on the PATH")
    profile = tmp_path_factory.mktemp("profile")  # one for all runs: a fresh one starts slowly
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--force-device-scale-factor=1", f"--user-data-dir={profile}", "--window-size=1200,800",
        "--virtual-time-budget=2500", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
    ]  # fmt: skip

    def run(address, *options):
        started = [*command, *options, f"{page.as_uri()}#{address}"]
        return subprocess.run(
            started, capture_output=True, text=True, timeout=300, check=True
        ).stdout

    return run


def open_page(browse, address):
    """Texts of the page's elements by id, after its scripts have run."""
    dom = browse(address, "--dump-dom")
    assert 'data-ready="1"' in dom, "no tile of the image was drawn"
    texts = re.findall(r'<(\w+)[^>]*\bid="([\w-]+)"[^>]*>([^<]*)</\1>', dom)
    return {identity: html.unescape(text) for _, identity, text in texts}, dom


def test_a_linked_box_is_shown_among_those_that_reach_the_score(browse):
    found, _ = crowd()
    ranked = found[np.argsort(-found.scores, kind="stable")]
    box = int(np.flatnonzero(ranked.classes == 0)[3])
    texts, dom = open_page(browse, f"score=0.70&hide=1&box={box}&theme=dark")
    shown = found.above(0.7)
    assert texts["count"] == str(int((shown.classes == 0).sum()))
    assert texts["count-of"] == f"shown of {len(found)} detections"
    assert texts["title"] == "script><b>name.jpg"
    assert texts["facts"] == "2,000 × 1,500 px · 3 MP"
    assert 'data-theme="dark"' in dom
    rows = re.findall(r"<label( hidden)?[^>]*><input[^>]*><span[^>]*></span><span>(\w+)<", dom)
    assert rows == [("", "person"), ("", "vehicle"), (" hidden", "bicycle")]
    cells = dict(re.findall(r"<th>([^<]*)</th><td>([^<]*)</td>", dom))
    assert cells["score"] == f"{ranked.scores[box]:.3f}"
    assert cells["class"] == "person"


def test_comparison_equals_the_evaluation(browse):
    found, truth = crowd()
    texts, dom = open_page(browse, "score=0.40&truth=1")
    per_class = count_errors(
        found.boxes_xyxy, found.scores, found.classes,
        truth.boxes_xyxy.round(1), truth.classes, truth.is_ignore, threshold=0.4,
    )  # fmt: skip
    right = sum(c.num_true_positives for c in per_class.values())
    wrong = sum(c.num_false_positives for c in per_class.values())
    missed = sum(c.num_objects for c in per_class.values()) - right
    assert (texts["num-right"], texts["num-wrong"], texts["num-missed"]) == (
        str(right), str(wrong), str(missed),
    )  # fmt: skip
    assert f"precision {100 * right / (right + wrong):.1f} %" in texts["rates"]
    assert re.search(r'id="details" hidden', dom)


def test_skipped_tiles_are_counted_by_reason(browse):
    _, dom = open_page(browse, "skipped=1")
    rows = re.findall(r"<li[^>]*>([^<]*)</li>", dom)
    columns = selection().levels[1].grid.shape[1]
    assert rows == [f"{columns} nothing expected", "1 over the budget"]
    _, dom = open_page(browse, "skipped=4")  # nothing was skipped there
    assert re.search(r'id="skipped" hidden', dom)


def share_of(picture, color, tolerance=24):
    return float((np.abs(picture - np.array(color)) <= tolerance).all(axis=-1).mean())


def test_image_and_boxes_are_on_the_screen(browse, tmp_path):
    path = tmp_path / "page.png"
    browse("score=0.00&truth=1&theme=light", f"--screenshot={path}")
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(int)
    assert share_of(picture, MAGENTA) > 0.3
    right, missed = (76, 201, 240), (255, 210, 63)
    assert share_of(picture, right) > 0.004
    assert share_of(picture, missed) > 0.0003
