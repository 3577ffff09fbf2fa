"""Tile rows of one image: which are kept, for which model and options, and who runs them."""

from dataclasses import replace

import numpy as np
import pytest
from blob_detector import BlobDetector, plant, scattered_boxes
from detectron2.utils import comm
from PIL import Image

from sparsenet.errors import AnnotationError, ConfigError
from sparsenet.gigapixel import GigapixelPredictor, TileOptions
from sparsenet.gigapixel.adapters import CallableDetector
from sparsenet.gigapixel.image_run import ImageRun, TileModel
from sparsenet.gigapixel.options import SelectOptions
from sparsenet.gigapixel.progress import ProgressTracker
from sparsenet.gigapixel.tile_rows import RowStore
from sparsenet.gigapixel.tile_runner import RunOptions, TileRunner
from sparsenet.tiling import ArrayReader

SIZE = (400, 500)
TILE = TileOptions(size=128, overlap=48, batch_size=2)
COARSE_TO_FINE = replace(
    TILE,
    downsamples=(1, 2),
    object_size_range=(16.0, 100.0),
    select=SelectOptions(mode="coarse_to_fine"),
)


class Masking(BlobDetector):
    """Gives masks as well; counts the pictures."""

    def forward(self, inputs):
        outputs = super().forward(inputs)
        for item, output in zip(inputs, outputs):
            found = output["instances"]
            found.pred_masks = (item["image"][:1] > 128).expand(len(found), -1, -1)
        return outputs

    @property
    def num_seen(self):
        return sum(map(len, self.inputs))


def image() -> np.ndarray:
    return plant(SIZE, scattered_boxes(SIZE, 40, (8, 40)))


@pytest.fixture
def image_file(tmp_path):
    pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")
    Image.fromarray(image()).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def run_of(tile, *, store=None, shares_rows=False, listeners=()) -> ImageRun:
    model = TileModel(
        TileRunner(BlobDetector(), RunOptions(), tile.batch_size),
        "RGB",
        (0.0, 0.0, 0.0),
        expects_objects=tile.select.mode == "coarse_to_fine",
    )
    tracker = ProgressTracker("a.png", listeners)
    reader = ArrayReader(image())
    return ImageRun(reader, model, tile, tracker, store=store, shares_rows=shares_rows)


# -------------------------------------------------------------------- rows of which model, options


def test_rows_of_a_model_without_weights_need_its_name(image_file, tmp_path):
    unnamed = GigapixelPredictor(CallableDetector(len), tile=TILE)
    with pytest.raises(ConfigError, match=r"without weights\. Say what it is, .*settings="):
        unnamed(image_file, progress=False, rows_folder=tmp_path / "rows")
    for score in (0.5, 0.9):
        answer = ([[9, 9, 40, 40]], [score], [0])
        detector = CallableDetector(lambda pictures, answer=answer: [answer] * len(pictures))
        named = GigapixelPredictor(detector, tile=TILE, settings=f"always {score}")
        found = named(image_file, progress=False, rows_folder=tmp_path / "rows").detections
        np.testing.assert_allclose(found.scores, score, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "runs_again"),
    [
        ({"merge": "nms"}, False),
        ({"merge_iou": 0.4, "merge_containment": 0.9}, False),
        ({"max_detections": 3, "hand_over": 0.0, "max_pixels": 1e6, "batch_size": 5}, False),
        ({"score_threshold": 0.6}, True),
        ({"seam_margin": 4.0}, True),
    ],
)
def test_options_of_merging_keep_the_rows(image_file, tmp_path, change, runs_again):
    model = Masking()
    first = GigapixelPredictor(model, tile=TILE, settings="blobs")
    first(image_file, progress=False, rows_folder=tmp_path / "rows")
    model.inputs.clear()
    other = GigapixelPredictor(model, tile=replace(TILE, **change), settings="blobs")
    found = other(image_file, progress=False, rows_folder=tmp_path / "rows").detections
    assert bool(model.num_seen) == runs_again
    expected = other(image_file, progress=False).detections
    np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
    reader = other._open(image_file)
    is_free = set(change) <= {"batch_size"}
    assert (first.manifest(reader) == other.manifest(reader)) == is_free  # of a finished image


def test_a_merge_method_without_a_rule_for_masks_fails_at_the_first_tile():
    model = Masking()
    predictor = GigapixelPredictor(model, tile=replace(TILE, merge="nmm"))
    with pytest.raises(ConfigError, match=r"'nmm' .* has no rule for masks"):
        predictor(image(), progress=False)
    assert model.num_seen == TILE.batch_size


# -------------------------------------------------------------------- evidence and masks


def test_only_what_decides_on_finer_tiles_is_evidence():
    run = run_of(COARSE_TO_FINE)
    run.detect()
    by_downsample = {2: 0, 1: 0}
    for row in run.rows:
        by_downsample[row.downsample] += len(row.evidence)
    assert {row.downsample for row in run.rows if len(row.detections)} == {1, 2}
    assert by_downsample[2] > 0 and by_downsample[1] == 0


def test_a_mask_of_another_image_is_told(tmp_path):
    pytest.importorskip("shapely", reason="needs the extra sparsenet[gigapixel]")
    ring = "[[600, 0], [700, 0], [700, 90], [600, 0]]"
    path = tmp_path / "area.geojson"
    path.write_text(f'{{"type": "Polygon", "coordinates": [{ring}]}}')
    tile = replace(TILE, select=SelectOptions(mode="mask", mask=str(path)))
    with pytest.raises(AnnotationError, match="x 0 to 500 and y 0 to 400; got x 600 to 700"):
        GigapixelPredictor(BlobDetector(), tile=tile)(image(), progress=False)


# -------------------------------------------------------------------- shares


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_share_what_an_earlier_run_has_left(tmp_path, monkeypatch, rank):
    """One of two processes, without the other: what it runs is half of the missing rows."""
    whole = run_of(TILE)
    whole.detect()
    store = RowStore(tmp_path / "rows", {"image": "a.png"})
    finished = whole.rows[: len(whole.rows) // 2]
    for row in finished:
        store.save(row)

    gathered = []

    def gather(own):
        gathered.append(own)
        return [(finished, None)] if len(gathered) == 1 else [own]  # first, what the main one says

    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "is_main_process", lambda: rank == 0)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for module in ("image_run", "row_shares"):
        monkeypatch.setattr(f"sparsenet.gigapixel.{module}.all_gather", gather)
    events = []
    run = run_of(TILE, store=store, shares_rows=True, listeners=[events.append])
    run.detect()
    (loaded, _), (ran, _) = gathered[:2]
    assert [row.key for row in loaded] == ([] if rank else [row.key for row in finished])
    missing = whole.rows[len(finished) :]
    assert 0 < len(ran) < len(missing)
    assert {row.key for row in ran} < {row.key for row in missing}
    assert events[-1].num_done == events[-1].num_tiles
    assert events[-1].num_resumed == sum(len(row.columns) for row in loaded)
