"""Looking only where something is: loses nothing that looking everywhere finds."""

import json
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from blob_detector import BlobDetector, plant, scattered_boxes
from golden_data import shared_path
from oracle_detector import count_matches, detect_tiles, without_near_twins

from sparsenet.gigapixel import Detections, GigapixelPredictor, TileOptions, merge_detections
from sparsenet.gigapixel.evidence import Evidence
from sparsenet.gigapixel.hand_over import hand_over
from sparsenet.gigapixel.options import SelectOptions
from sparsenet.gigapixel.selection import Reason, TileSelection
from sparsenet.gigapixel.selector import select_tiles
from sparsenet.gigapixel.tile_batch import number_tiles
from sparsenet.tiling import Tile

SIZE = (1200, 1600)


def predictor(mode="coarse_to_fine", *, downsamples=(1, 4), smallest=3, **select):
    """Blobs of 16 to 100 tile pixels are this detector's trade; from 3 on it sees something."""
    tile = TileOptions(
        size=128, overlap=48, downsamples=downsamples, batch_size=4,
        object_size_range=(16.0, 100.0),
        select=SelectOptions(mode=mode, **{"probe_share": 0.0, **select}),
    )  # fmt: skip
    return GigapixelPredictor(BlobDetector(smallest=smallest), ("red", "yellow"), tile)


def clusters() -> np.ndarray:
    """Small objects in two corners, and large ones elsewhere."""
    small = scattered_boxes((300, 400), 30, (16, 40), seed=1)
    others = scattered_boxes((200, 300), 20, (16, 40), seed=2) + np.array([1250, 950] * 2)
    # Whole in some coarse tile: no larger than their overlap.
    large = np.array([[600, 100, 740, 280], [900, 500, 1080, 620], [200, 700, 384, 880]])
    return np.concatenate([small, others, large])


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return plant(SIZE, clusters())


def assert_same_boxes(one: Detections, other: Detections) -> None:
    assert len(one) == len(other)
    order, orders = (np.lexsort(d.boxes_xyxy.T) for d in (one, other))
    np.testing.assert_array_equal(one.boxes_xyxy[order], other.boxes_xyxy[orders])
    np.testing.assert_array_equal(one.scores[order], other.scores[orders])


def test_no_planted_object_is_lost_and_most_tiles_are_skipped(image):
    result = predictor()(image, progress=False)
    boxes = clusters()
    distance = np.abs(result.detections.boxes_xyxy[:, None] - boxes[None]).max(-1)
    assert sorted(distance.argmin(1)) == list(range(len(boxes)))
    assert distance.min(1).max() <= 4
    every = predictor("all")(image, progress=False)
    assert_same_boxes(result.detections, every.detections)
    assert result.num_tile_pixels < 0.4 * every.num_tile_pixels
    assert result.num_tiles == result.selection.num_kept < every.num_tiles
    assert every.selection.num_pixels == every.num_tile_pixels == result.selection.num_pixels


def test_skipping_empty_tiles_changes_no_detection(image):
    """The tiles that the selection skips hold nothing that the others do not bring in."""
    chosen = predictor()(image, progress=False)
    with_probes = predictor(probe_share=1.0)(image, progress=False)
    assert with_probes.num_tiles == predictor("all")(image, progress=False).num_tiles
    assert_same_boxes(chosen.detections, with_probes.detections)


def test_probes_tell_what_the_selection_misses(image):
    """Objects below 12 px are not seen at the coarse level: only probes find them."""
    blind = predictor(smallest=11, probe_share=1.0)(image, progress=False)
    assert blind.selection.num_probes_hit > 3
    assert predictor(probe_share=1.0)(image, progress=False).selection.num_probes_hit == 0


def test_three_levels_go_down_step_by_step():
    boxes = np.array([[100, 100, 120, 118], [1000, 800, 1080, 900], [300, 500, 480, 680]])
    result = predictor(downsamples=(1, 2, 4))(plant(SIZE, boxes), progress=False)
    assert [level.grid.downsample for level in result.selection.levels] == [4, 2, 1]
    kept = [int(level.kept.sum()) for level in result.selection.levels]
    assert kept[0] == result.selection.levels[0].kept.size
    assert kept[1:] == [2, 1]  # both small objects, then only the smaller
    found = result.detections
    order = np.argsort(found.boxes_xyxy[:, 2] - found.boxes_xyxy[:, 0])
    assert len(found) == 3
    assert found.downsamples[order[0]] == 1  # the smallest, and only there in the good sizes
    assert found.downsamples[order[2]] == 4  # where nothing finer looked


def test_the_budget_bounds_the_tiles(image):
    coarse = len(predictor().tile.grids(SIZE)[0])
    result = predictor(max_tiles=coarse + 5)(image, progress=False)
    assert result.num_tiles == coarse + 5
    assert (result.selection.levels[1].reasons == Reason.BUDGET).any()


def test_an_image_of_one_tile_and_an_empty_one():
    tiny = predictor()(plant((100, 90), [[10, 10, 30, 30]]), progress=False)
    assert len(tiny.detections) == 1
    empty = predictor()(plant(SIZE, []), progress=False)
    assert len(empty.detections) == 0
    assert empty.num_tiles == empty.selection.levels[0].kept.size


@pytest.mark.parametrize("mode", ["mask", "coarse_to_fine"])
def test_masks_limit_where_is_looked(image, tmp_path, mode):
    pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")
    mask = np.zeros((12, 16), np.uint8)
    mask[:4, :5] = 255  # the first cluster
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    result = predictor(mode, mask=str(tmp_path / "mask.png"))(image, progress=False)
    boxes = clusters()
    inside = boxes[(boxes[:, 2] <= 500) & (boxes[:, 3] <= 400)]
    distance = np.abs(result.detections.boxes_xyxy[:, None] - inside[None]).max(-1)
    assert distance.min(0).max() == 0
    assert all(level.reasons[-1, -1] == Reason.MASKED for level in result.selection.levels)


# -------------------------------------------------------------------- real layouts


@dataclass(frozen=True)
class SomeTiles:
    """Stands for a grid in :func:`detect_tiles`."""

    image_size: tuple[int, int]
    tiles: list[Tile]

    def __iter__(self):
        return iter(self.tiles)


def run_oracle(truth, image_size, options) -> tuple[Detections, TileSelection]:
    """What the predictor does, with a detector that needs no pixels."""
    grids = options.grids(image_size)
    number = number_tiles(grids)
    levels, evidence, parts = [], [Evidence.empty()], [Detections.empty(image_size, ("person",))]
    for grid in grids:
        earlier = levels if options.select.mode == "coarse_to_fine" else []
        level = select_tiles(grid, earlier, Evidence.cat(evidence), options)
        levels.append(level)
        rng = np.random.default_rng(grid.downsample)
        tiles = [tile for tile in grid if level.kept[tile.row, tile.column]]
        if not tiles:
            continue
        found = detect_tiles(truth, [SomeTiles(image_size, tiles)], rng)
        numbers = np.array([number(tile) for tile in tiles])
        found = replace(
            found,
            tile_ids=numbers[found.tile_ids],
            downsamples=np.full(len(found), grid.downsample),
        )
        parts.append(found)
        boxes = found.boxes_xyxy[~found.truncated].astype(np.float64)
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
        evidence.append(
            Evidence((boxes[:, :2] + boxes[:, 2:]) / 2, sides, found.scores[~found.truncated])
        )
    merged = merge_detections(hand_over(Detections.cat(parts), levels, options))
    return merged, TileSelection(tuple(levels))


def panda_layouts() -> list[tuple[tuple[int, int], np.ndarray]]:
    """``(h, w)`` and (N, 4) person boxes of real frames, no two of them nearly the same."""
    content = json.loads(shared_path("data/panda_annotations/panda_frames29.json").read_text())
    layouts = []
    for image in content["images"]:
        boxes = np.array(
            [
                a["bbox"]
                for a in content["annotations"]
                if a["image_id"] == image["id"] and a["category_id"] == 1 and not a.get("iscrowd")
            ]
        )
        boxes[:, 2:] += boxes[:, :2]
        size = (image["height"], image["width"])
        boxes = boxes.clip(0, [size[1], size[0]] * 2)
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= 8]
        layouts.append((size, without_near_twins(boxes)))
    return layouts


def test_panda_layouts_need_a_tenth_of_the_pixels():
    """Full resolution alone, all downsamples, and coarse to fine, on the boxes of real frames."""
    levels = (1, 2, 4, 8, 16)
    every = TileOptions(
        size=512, overlap=128, downsamples=levels, object_size_range=(16.0, 256.0),
        score_threshold=0.0,
    )  # fmt: skip
    chosen = replace(every, select=SelectOptions(mode="coarse_to_fine"))
    num_objects = num_found = num_found_everywhere = pixels = dense_pixels = 0
    for size, truth in panda_layouts()[::4]:
        found, selection = run_oracle(truth, size, chosen)
        everywhere, _ = run_oracle(truth, size, every)
        num_objects += len(truth)
        num_found += count_matches(truth, found.boxes_xyxy)
        num_found_everywhere += count_matches(truth, everywhere.boxes_xyxy)
        pixels += selection.num_kept_pixels
        dense_pixels += selection.levels[-1].kept.size * 512**2
    assert num_found >= 0.995 * num_found_everywhere
    assert num_found >= 0.99 * num_objects
    assert pixels * 10 <= dense_pixels
