"""The demos through their command lines, with a detector that finds magenta paint."""

import json
import pickle
import re

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from torch import nn

from demo import demo, gigapixel_demo

MAGENTA = (255, 0, 255)
# (x, y, width, height): two alone, one where four tiles meet, one that only a coarse tile holds.
PAINTED = [(20, 30, 40, 50), (700, 500, 30, 60), (175, 170, 52, 60), (300, 300, 250, 200)]


@META_ARCH_REGISTRY.register()
class PaintFinder(nn.Module):
    """Boxes of all connected areas in magenta; its only weight is the score it gives."""

    def __init__(self, cfg):
        super().__init__()
        self.score = nn.Parameter(torch.tensor(0.0))
        self.is_bgr = cfg.INPUT.FORMAT == "BGR"

    def forward(self, batch):
        return [{"instances": self.find(item)} for item in batch]

    def find(self, item):
        image = item["image"].numpy().astype(int)  # (3, H, W); magenta is the same in BGR
        mask = (np.abs(image - np.array(MAGENTA)[:, None, None]) < 60).all(axis=0)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        stats = stats[1:][stats[1:, cv2.CC_STAT_AREA] >= 12]
        x, y, w, h = (stats[:, i].astype(np.float32) for i in range(4))
        scale = np.array([item["width"] / mask.shape[1], item["height"] / mask.shape[0]] * 2)
        boxes = np.stack([x, y, x + w, y + h], axis=1) * scale
        found = Instances((item["height"], item["width"]))
        found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
        found.scores = self.score.detach().expand(len(boxes))
        found.pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
        return found


@pytest.fixture
def files(tmp_path):
    """A configuration, weights and a folder with one painted image."""
    (tmp_path / "paint.yaml").write_text(
        "MODEL:\n  META_ARCHITECTURE: PaintFinder\nINPUT:\n  FORMAT: RGB\n"
        "TEST:\n  TILE:\n    ENABLED: True\n    SIZE: 256\n    OVERLAP: 64\n"
        "    DOWNSAMPLES: (1, 4)\nVERSION: 2\n"
    )
    weights = {"model": {"score": torch.tensor(0.75)}, "class_names": ["paint", "unused"]}
    torch.save(weights, tmp_path / "paint.pth")
    (tmp_path / "images").mkdir()
    image = np.full((720, 1000, 3), 120, dtype=np.uint8)
    for x, y, w, h in PAINTED:
        image[y : y + h, x : x + w] = MAGENTA
    cv2.imwrite(str(tmp_path / "images" / "painted.png"), image)
    return tmp_path


def run_demo(files, *arguments, output="out", opts=()):
    return demo.main(
        [
            "--config-file", str(files / "paint.yaml"), "--output", str(files / output), "--quiet",
            *map(str, arguments),
            "--opts", "MODEL.WEIGHTS", str(files / "paint.pth"), *opts,
        ]
    )  # fmt: skip


def found_boxes(folder):
    results = json.loads((folder / "detections.json").read_text())
    return sorted(tuple(round(v) for v in result["bbox"]) for result in results)


@pytest.mark.parametrize("is_tiled", ["True", "False"])
def test_every_object_is_found_once(files, is_tiled, capsys):
    opts = ("TEST.TILE.ENABLED", is_tiled)
    status = run_demo(files, "--input", files / "images", opts=opts)
    assert status == 0
    folder = files / "out" / "painted"
    np.testing.assert_allclose(found_boxes(folder), sorted(PAINTED), atol=4)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["counts"] == {"paint": 4}
    assert {"decode", "detect", "merge", "write"} <= set(summary["seconds"])
    features = json.loads((folder / "detections.geojson").read_text())["features"]
    assert {f["properties"]["classification"]["name"] for f in features} == {"paint"}
    assert len((folder / "detections.csv").read_text().splitlines()) == 5
    for name in ("overview.jpg", "crops.jpg", "viewer/index.html", "viewer/tiles/10/0_0.jpg"):
        assert (folder / name).stat().st_size > 0
    assert "4 paint" in capsys.readouterr().out


def test_the_threshold_hides_but_coco_results_keep(files):
    run_demo(files, "--input", files / "images", "--confidence-threshold", 0.8, "--no-viewer")
    folder = files / "out" / "painted"
    assert json.loads((folder / "detections.geojson").read_text())["features"] == []
    assert len(found_boxes(folder)) == 4
    assert not (folder / "viewer").exists()


@pytest.mark.parametrize("is_tiled", ["True", "False"])
def test_a_low_threshold_reaches_below_that_of_the_tiles(files, is_tiled):
    weights = torch.load(files / "paint.pth")
    torch.save(weights | {"model": {"score": torch.tensor(0.02)}}, files / "paint.pth")
    arguments = ("--input", files / "images", "--confidence-threshold", 0.01, "--no-viewer")
    assert run_demo(files, *arguments, opts=("TEST.TILE.ENABLED", is_tiled)) == 0
    assert len(found_boxes(files / "out" / "painted")) == 4


def test_selection_merging_formats_and_log(files):
    status = run_demo(
        files, "--input", files / "images", "--select", "coarse_to_fine", "--merge", "seam",
        "--export", "coco", "cvat", "--log-json", files / "log" / "steps.jsonl",
        opts=("TEST.TILE.OBJECT_SIZE_RANGE", "(12, 200)"),
    )  # fmt: skip
    assert status == 0
    folder = files / "out" / "painted"
    np.testing.assert_allclose(found_boxes(folder), sorted(PAINTED), atol=4)
    assert (folder / "detections.cvat.xml").stat().st_size > 0
    assert not (folder / "detections.csv").exists()
    coarse, fine = json.loads((folder / "summary.json").read_text())["selection"]["levels"]
    assert (coarse["downsample"], coarse["num_kept"]) == (4, coarse["num_tiles"])
    assert fine["num_tiles"] == 20
    assert fine["reasons"]["object"] == 2  # two objects lie in one tile
    assert fine["reasons"]["empty"] == 20 - fine["num_kept"]
    page = (folder / "viewer" / "detections.js").read_text()
    skipped = json.loads(page.removeprefix("window.SPARSENET=").rstrip().rstrip(";"))["skipped"]
    assert skipped["reasons"] == ["nothing expected"] * fine["reasons"]["empty"]
    steps = [json.loads(line) for line in (files / "log" / "steps.jsonl").open()]
    assert {step["kind"] for step in steps} == {"start", "selected", "tiles", "end"}
    assert steps[-1]["num_done"] == coarse["num_kept"] + fine["num_kept"]


def test_a_mask_limits_where_is_looked(files):
    mask = np.zeros((72, 100), np.uint8)
    mask[:12, :12] = 255
    cv2.imwrite(str(files / "mask.png"), mask)
    arguments = ("--input", files / "images", "--mask", files / "mask.png", "--no-viewer")
    assert run_demo(files, *arguments, opts=("TEST.TILE.DOWNSAMPLES", "(1,)")) == 0
    summary = json.loads((files / "out" / "painted" / "summary.json").read_text())
    assert summary["selection"]["levels"][0]["reasons"] == {"every": 1, "masked": 19}
    assert (20, 30, 40, 50) in found_boxes(files / "out" / "painted")


def test_resume_leaves_what_is_finished(files):
    arguments = ("--input", files / "images", "--no-viewer", "--resume")
    results = files / "out" / "painted" / "detections.json"
    assert run_demo(files, *arguments) == 0
    written = results.stat().st_mtime_ns
    assert run_demo(files, *arguments) == 0
    assert results.stat().st_mtime_ns == written
    assert run_demo(files, *arguments, "--merge", "nms") == 0
    assert results.stat().st_mtime_ns > written


def test_a_pattern_and_files_of_one_stem(files):
    image = cv2.imread(str(files / "images" / "painted.png"))
    cv2.imwrite(str(files / "images" / "painted.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    status = run_demo(files, "--input", files / "images" / "p*", "--no-viewer")
    assert status == 0
    assert {f.name for f in (files / "out").iterdir()} == {"painted_png", "painted_jpg"}
    for folder in (files / "out").iterdir():
        np.testing.assert_allclose(found_boxes(folder), sorted(PAINTED), atol=4)


def test_bad_images_are_reported_and_the_others_done(files, capsys):
    (files / "images" / "empty.jpg").write_bytes(b"")
    (files / "images" / "text.png").write_text("no image")
    whole = cv2.imencode(".jpg", cv2.imread(str(files / "images" / "painted.png")))[1].tobytes()
    (files / "images" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    status = run_demo(files, "--input", files / "images", files / "missing.jpg", "--no-viewer")
    assert status == 1
    assert len(found_boxes(files / "out" / "painted")) == 4
    message = capsys.readouterr().err
    assert "4 of 5 images could not be read" in message
    for name in ("empty.jpg", "text.png", "cut.jpg", "missing.jpg"):
        assert name in message
        assert not (files / "out" / name.split(".")[0] / "summary.json").exists()


def test_images_above_max_pixels_are_refused(files, capsys):
    status = run_demo(files, "--input", files / "images", "--max-pixels", 500_000)
    assert status == 1
    assert "720,000 pixels" in capsys.readouterr().err


def test_pickled_weights_need_trust(files, capsys):
    with (files / "paint.pkl").open("wb") as stream:
        pickle.dump({"model": {"score": np.float32(0.75).reshape(())}}, stream)
    opts = ("MODEL.WEIGHTS", str(files / "paint.pkl"))
    assert run_demo(files, "--input", files / "images", "--no-viewer", opts=opts) == 2
    assert "--trust-checkpoint" in capsys.readouterr().err
    arguments = ("--input", files / "images", "--no-viewer", "--trust-checkpoint")
    assert run_demo(files, *arguments, opts=opts) == 0
    assert len(found_boxes(files / "out" / "painted")) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ("--select", "coarse_to_fine"), ("--mask", "area.geojson"), ("--max-tiles", 9),
        ("--merge", "nms"), ("--bf16",), ("--channels-last",), ("--compile",),
    ],
)  # fmt: skip
def test_flags_of_tiles_are_refused_for_whole_photos(files, arguments, capsys):
    opts = ("TEST.TILE.ENABLED", "False")
    assert run_demo(files, "--input", files / "images", *arguments, opts=opts) == 2
    assert f"error: {arguments[0]} must go with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "opts", "message"),
    [
        ((), ("MODEL.WEIGHTS", ""), "MODEL.WEIGHTS is empty"),
        ((), ("MODEL.WEIGHTS", "nowhere.pth"), "nowhere.pth"),
        ((), ("TEST.TILE.OVERLAPP", "3"), "TEST.TILE.OVERLAP"),
        (("--max-tiles", 9), (), "'coarse_to_fine', which ranks the tiles"),
        (("--select", "mask"), (), "needs a file in TEST.TILE.SELECTION.MASK"),
        (("--confidence-threshold", 3), (), r"must be in \[0, 1\]"),
        (("--input", "no/such/*.jpg"), (), "--input must name at least one image"),
        (("--config-file", "nowhere.yaml"), (), "nowhere.yaml"),
    ],
)
def test_errors_are_printed_once_and_end_with_status_2(files, arguments, opts, message, capsys):
    status = run_demo(files, "--input", files / "images", *arguments, opts=opts)
    assert status == 2
    captured = capsys.readouterr().err
    assert captured.count("error:") == 1
    assert re.search(message, captured)


def test_an_output_that_cannot_be_written(files, capsys):
    (files / "file").write_text("in the way")
    assert run_demo(files, "--input", files / "images", output="file") == 2
    assert "Results must go to a folder" in capsys.readouterr().err


def run_gigapixel_demo(files, *arguments):
    return gigapixel_demo.main(
        [
            "--config-file", str(files / "paint.yaml"), "--weights", str(files / "paint.pth"),
            "--output", str(files / "demo"), "--size", "1024", "1536", "--quiet",
            *map(str, arguments),
        ]
    )  # fmt: skip


def test_the_gigapixel_demo_tells_what_it_found(files, capsys):
    assert run_gigapixel_demo(files) == 0
    printed = capsys.readouterr().out
    for word in ("AP50, %", "precision, %", "recall, %", "duplicate rate, %", "count error, %"):
        assert word in printed
    for word in ("decode, s", "detect, s", "merge, s", "write, s", "peak memory, GB"):
        assert word in printed
    folder = files / "demo"
    assert (folder / "viewer" / "index.html").is_file()
    assert '"truth":{' in (folder / "viewer" / "detections.js").read_text()
    annotations = folder / "scene" / "annotations.json"
    truth = COCO(str(annotations))
    num_objects = sum(not a["iscrowd"] for a in truth.dataset["annotations"])
    assert f"{num_objects:,}" in printed
    if json.loads((folder / "detections.json").read_text()):
        truth.loadRes(str(folder / "detections.json"))

    composed = annotations.stat().st_mtime_ns
    assert run_gigapixel_demo(files) == 0
    assert annotations.stat().st_mtime_ns == composed  # the scene is used again
    assert run_gigapixel_demo(files, "--density", 0.5) == 0
    assert annotations.stat().st_mtime_ns > composed  # other options, other scene


def test_missing_weights_are_told_before_anything_is_composed(files, capsys):
    assert run_gigapixel_demo(files, "--weights", files / "nowhere.pth") == 2
    assert "nowhere.pth" in capsys.readouterr().err
    assert not (files / "demo").exists()
