import logging
import threading

import numpy as np
import pytest
import torch
from blob_detector import BlobDetector, plant, scattered_boxes
from detectron2.structures import Boxes, Instances
from torch import nn

from sparsenet.errors import CheckpointError, ConfigError, ImageReadError
from sparsenet.gigapixel import GigapixelPredictor, TileOptions
from sparsenet.gigapixel.options import SelectOptions
from sparsenet.gigapixel.tile_batch import reaches_seam
from sparsenet.tiling import ArrayReader, TileGrid

SIZE = (700, 900)
COARSE_TO_FINE = SelectOptions(mode="coarse_to_fine")
TILE = TileOptions(size=128, overlap=48, downsamples=(1,), batch_size=4)


def predictor(model=None, **options) -> GigapixelPredictor:
    tile = TileOptions(**{**TILE.__dict__, **options.pop("tile", {})})
    model = BlobDetector() if model is None else model
    return GigapixelPredictor(model, class_names=("red", "yellow"), tile=tile, **options)


def detect(model, image, **options):
    return predictor(model, **options)(image, progress=False).detections


def assert_found_once(detections, boxes, tolerance=1e-3) -> None:
    """Exactly the planted boxes, each once."""
    assert len(detections) == len(boxes)
    distance = np.abs(detections.boxes_xyxy[:, None] - boxes[None]).max(-1)
    nearest = distance.argmin(1)
    assert sorted(nearest) == list(range(len(boxes)))
    assert distance.min(1).max() <= tolerance


# -------------------------------------------------------------------- planted objects


def test_each_planted_object_is_found_once_across_seams():
    boxes = scattered_boxes(SIZE, 120, (6, 40))
    detections = detect(None, plant(SIZE, boxes))
    assert len(boxes) > 60
    assert_found_once(detections, boxes)
    assert detections.image_size == SIZE
    assert detections.class_names == ("red", "yellow")
    assert not detections.classes.any()


def test_classes_do_not_disturb_each_other():
    boxes = scattered_boxes(SIZE, 120, (6, 40))
    red, yellow = plant(SIZE, boxes[::2]), plant(SIZE, boxes[1::2], colour=(250, 240, 20))
    detections = detect(None, np.maximum(red, yellow))
    assert_found_once(detections[detections.classes == 0], boxes[::2])
    assert_found_once(detections[detections.classes == 1], boxes[1::2])


def test_an_object_on_four_tiles_is_found_once():
    """48 px wide where four tiles meet: whole in one of them, cut in three."""
    boxes = np.array([[84, 84, 124, 124]])
    result = predictor()(plant((208, 208), boxes), progress=False)
    assert result.num_tiles == 4
    assert_found_once(result.detections, boxes)


def test_two_downsamples_find_small_and_large_objects_once():
    """Large ones fit no tile at full resolution; small ones vanish in the coarse level."""
    small = scattered_boxes((700, 450), 40, (8, 30), seed=1)
    large = np.array([[500, 60, 700, 240], [560, 300, 860, 520], [480, 560, 780, 690]])
    boxes = np.concatenate([small, large])
    image = plant(SIZE, boxes)
    model = BlobDetector(smallest=6, largest=110)
    detections = detect(model, image, tile={"downsamples": (1, 4)})
    # An edge that cuts coarse pixels is off by less than one of them.
    assert_found_once(detections, boxes, tolerance=4)


@pytest.mark.parametrize("downsample", [2, 3])
def test_boxes_of_a_coarse_level_are_in_full_image_pixels(downsample):
    boxes = np.array([[30, 60, 90, 120], [360, 300, 420, 372]]) // downsample * downsample
    detections = detect(None, plant((500, 600), boxes), tile={"downsamples": (downsample,)})
    assert_found_once(detections, boxes)


def test_arrays_readers_and_files_give_the_same(tmp_path):
    pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")
    from PIL import Image

    boxes = scattered_boxes((300, 400), 40, (8, 40))
    image = plant((300, 400), boxes)
    Image.fromarray(image).save(tmp_path / "scene.png")
    for source in (image, ArrayReader(image), tmp_path / "scene.png", str(tmp_path / "scene.png")):
        assert_found_once(detect(None, source), boxes)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_change_nothing(batch_size):
    image = plant(SIZE, scattered_boxes(SIZE, 60, (6, 40)))
    one, other = detect(None, image), detect(None, image, tile={"batch_size": batch_size})
    for column in ("boxes_xyxy", "scores", "classes", "tile_ids"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))


def test_an_empty_image_has_no_detections():
    result = predictor()(plant((300, 300), []), progress=False)
    assert len(result.detections) == 0
    assert result.num_tiles == 16


def test_max_detections_keeps_the_best():
    image = plant(SIZE, scattered_boxes(SIZE, 60, (6, 40)))
    every, best = detect(None, image), detect(None, image, tile={"max_detections": 5})
    np.testing.assert_array_equal(best.scores, every.scores[:5])


def test_score_threshold_drops():
    assert (
        len(detect(None, plant((128, 128), [[5, 5, 30, 30]]), tile={"score_threshold": 0.95})) == 0
    )


# -------------------------------------------------------------------- what the model is given


def test_the_model_gets_uniform_uint8_tiles_and_their_size():
    model = BlobDetector()
    result = predictor(model)(plant((130, 300), []), progress=False)
    assert [len(images) for images in model.inputs] == [4, 4]
    for images in model.inputs:
        assert all(image.shape == (3, 128, 128) and image.dtype == torch.uint8 for image in images)
    assert result.num_tiles == 8
    assert result.num_tile_pixels == 8 * 128 * 128


def test_padding_has_the_pad_value_and_pixels_keep_their_place():
    model = BlobDetector()
    image = plant((50, 70), [])
    predictor(model, pad_value=(10.4, 20, 30))(image, progress=False)
    given = model.inputs[0][0].numpy()
    np.testing.assert_array_equal(given[:, :50, :70], image.transpose(2, 0, 1))
    assert (given[:, 50:, :] == np.array([10, 20, 30])[:, None, None]).all()
    assert (given[:, :, 70:] == np.array([10, 20, 30])[:, None, None]).all()


def test_bgr_models_get_their_channel_order():
    boxes = np.array([[20, 20, 60, 50]])
    image = plant((128, 128), boxes, colour=(250, 0, 0))  # red
    assert_found_once(detect(BlobDetector(channel=2), image, image_format="BGR"), boxes)
    assert len(detect(BlobDetector(channel=0), image, image_format="BGR")) == 0
    with pytest.raises(ConfigError, match="must be RGB or BGR"):
        predictor(image_format="GRB")


def test_the_model_is_put_into_evaluation_and_inference_mode():
    class Spy(BlobDetector):
        def forward(self, inputs):
            self.modes = (self.training, torch.is_inference_mode_enabled())
            return super().forward(inputs)

    spy = Spy().train()
    detect(spy, plant((64, 64), []))
    assert spy.modes == (False, True)


@pytest.mark.parametrize("use_bf16", [False, True])
def test_bf16_and_channels_last_reach_the_model(use_bf16):
    class Convolution(BlobDetector):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, inputs):
            self.dtype = self.layer(inputs[0]["image"][None].float()).dtype
            return super().forward(inputs)

    model = Convolution()
    detect(model, plant((64, 64), []), use_bf16=use_bf16, channels_last=True)
    assert model.dtype == (torch.bfloat16 if use_bf16 else torch.float32)
    assert model.layer.weight.is_contiguous(memory_format=torch.channels_last)


# -------------------------------------------------------------------- boxes, seams, saturation


class WholeTile(nn.Module):
    """Answers with fixed boxes, in every tile."""

    def __init__(self, *boxes):
        super().__init__()
        self.boxes = torch.tensor(boxes, dtype=torch.float32)

    def forward(self, inputs):
        num = len(self.boxes)
        return [
            {
                "instances": Instances(
                    item["image"].shape[-2:],
                    pred_boxes=Boxes(self.boxes.clone()),
                    scores=torch.full((num,), 0.9),
                    pred_classes=torch.arange(num),
                )
            }
            for item in inputs
        ]


def test_boxes_are_clipped_to_the_image_and_padding_holds_none():
    model = WholeTile([-5, -5, 128, 128], [80, 10, 120, 40], [60, 40, 90, 60])
    detections = detect(model, plant((50, 70), []))
    found = dict(zip(detections.classes.tolist(), detections.boxes_xyxy.tolist()))
    assert found == {0: [0, 0, 70, 50], 2: [60, 40, 70, 50]}
    assert not detections.truncated.any()


def test_partial_last_pixels_end_at_the_image_border():
    detections = detect(
        WholeTile([0, 0, 128, 128]), plant((99, 101), []), tile={"downsamples": (4,)}
    )
    assert detections.boxes_xyxy.tolist() == [[0, 0, 101, 99]]


def test_only_boxes_near_seams_are_truncated():
    grid = TileGrid((1000, 1000), tile_size=256, overlap=0, downsample=2)
    tile = grid.row(0)[0]  # 0..512, seams on the right and below
    boxes = np.array(
        [
            [0, 0, 100, 100],  # at the image border
            [400, 100, 497, 200],  # 15 from the seam, limit 16
            [400, 100, 495, 200],  # 17 from the seam
            [100, 400, 200, 512],  # on the seam
            [10, 100, 490, 150],  # 22 from the seam, 5 % of its width are 24
            [400, 10, 450, 480],  # 32 from the seam, 5 % of its height are 23.5
        ],
        dtype=np.float32,
    )
    assert reaches_seam(boxes, tile).tolist() == [False, True, False, True, True, False]
    assert reaches_seam(boxes, tile, margin=0.5, margin_share=0).tolist() == [
        *[False] * 3,
        True,
        *[False] * 2,
    ]
    assert reaches_seam(boxes[:0], tile).shape == (0,)


def test_a_saturated_tile_is_warned_of_once(caplog):
    image = plant((300, 300), scattered_boxes((300, 300), 200, (6, 12)))
    with caplog.at_level(logging.WARNING):
        result = predictor(num_proposals=10)(image, progress=False)
    assert 1 < result.num_saturated_tiles <= result.num_tiles
    warnings = [record.getMessage() for record in caplog.records if "saturated" in record.message]
    assert len(warnings) == 1
    assert "of 10 that the model can return" in warnings[0] and "TEST.TILE.SIZE" in warnings[0]


def test_no_warning_where_proposals_are_left(caplog):
    image = plant((300, 300), scattered_boxes((300, 300), 30, (6, 12)))
    with caplog.at_level(logging.WARNING):
        detect(None, image, num_proposals=100)
    assert not caplog.records


# -------------------------------------------------------------------- trouble


class SmallMemory(BlobDetector):
    """Runs out of memory above ``limit`` tiles."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit
        self.tried = []

    def forward(self, inputs):
        self.tried.append(len(inputs))
        if len(inputs) > self.limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return super().forward(inputs)


def test_out_of_memory_halves_the_batch_and_loses_nothing(caplog):
    image = plant(SIZE, scattered_boxes(SIZE, 60, (6, 40)))
    model = SmallMemory(limit=3)
    expected = detect(None, image)
    with caplog.at_level(logging.WARNING):
        found = detect(model, image, tile={"batch_size": 16})
    np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
    np.testing.assert_array_equal(found.tile_ids, expected.tile_ids)
    assert model.tried[:3] == [16, 8, 4]
    assert max(model.tried[3:]) == 2  # remembered
    assert "Out of GPU memory with 16 tiles" in caplog.text


def test_out_of_memory_with_one_tile_is_told():
    with pytest.raises(ConfigError, match="128 × 128 pixels do not fit"):
        detect(SmallMemory(limit=0), plant((300, 300), []))


def test_errors_of_the_reading_thread_are_raised_and_the_thread_ends(tmp_path):
    pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    before = threading.active_count()
    with pytest.raises(ImageReadError, match=r"cut\.jpg: the image is truncated"):
        detect(BlobDetector(threshold=255), tmp_path / "cut.jpg")
    assert threading.active_count() == before


def test_errors_of_the_model_are_raised_and_the_thread_ends():
    class Broken(nn.Module):
        def forward(self, inputs):
            raise RuntimeError("broken layer")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="broken layer"):
        detect(Broken(), plant((2000, 2000), []))  # far more tiles than the queue holds
    assert threading.active_count() == before


def test_max_pixels_reaches_the_reader(tmp_path):
    pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")
    from PIL import Image

    Image.fromarray(plant((100, 100), [])).save(tmp_path / "a.png")
    with pytest.raises(ImageReadError, match="more than the limit of 9,999"):
        detect(None, tmp_path / "a.png", tile={"max_pixels": 9_999})


# -------------------------------------------------------------------- timings and options


def test_timings_are_told_apart():
    result = predictor()(plant(SIZE, []), progress=False)
    assert set(result.timings) == {"decode", "detect", "merge", "total"}
    assert all(seconds > 0 for seconds in result.timings.values())
    assert result.timings["detect"] + result.timings["merge"] <= result.timings["total"]


def test_progress_can_be_switched_off(capfd):
    predictor()(plant((200, 200), []), progress=False)
    assert capfd.readouterr().err == ""
    predictor()(plant((200, 200), []), progress=True)
    assert "tile" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"downsamples": (1.5,)}, "must be whole numbers"),
        ({"downsamples": (0,)}, "must be whole numbers"),
        ({"downsamples": ()}, "must name at least one"),
        ({"batch_size": 0}, "BATCH_SIZE must be at least 1"),
        ({"overlap": 256}, "overlap must be in"),
        ({"merge": "wbf"}, "MERGE must be one of"),
        ({"select": COARSE_TO_FINE, "downsamples": (2, 2)}, "at least two TEST.TILE.DOWNSAMPLES"),
        ({"select": COARSE_TO_FINE, "downsamples": (1, 4)}, "got .* and 0"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        TileOptions(**options)


def test_repeated_downsamples_run_once():
    assert len(TileOptions(downsamples=(2, 2, 1)).grids((10, 10))) == 2


# -------------------------------------------------------------------- configurations


def config(**keys):
    from small_sparse_rcnn import small_cfg

    cfg = small_cfg(**keys)
    cfg.TEST.TILE.SIZE, cfg.TEST.TILE.OVERLAP = 64, 16
    cfg.TEST.TILE.DOWNSAMPLES = (1, 2)
    cfg.TEST.TILE.SCORE_THRESHOLD = 0.0
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN = ()
    return cfg


def test_from_cfg_with_a_model_reads_all_keys():
    from small_sparse_rcnn import small_model

    cfg = config()
    cfg.INPUT.FORMAT = "BGR"
    made = GigapixelPredictor.from_cfg(cfg, small_model(), class_names=("a", "b", "c"))
    assert made.tile.downsamples == (1, 2)
    assert (made.tile.size, made.tile.overlap) == (64, 16)
    assert (made.image_format, made.num_proposals) == ("BGR", 12)
    assert made.pad_value == (120.0, 120.0, 120.0)
    result = made(plant((100, 100), []), progress=False)
    assert result.num_tiles == 5
    assert result.detections.class_names == ("a", "b", "c")


def test_models_without_proposals_are_limited_by_their_detections():
    cfg = config()
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    for limit, expected in ((100, 100), (-1, None)):
        cfg.TEST.DETECTIONS_PER_IMAGE = limit
        assert GigapixelPredictor.from_cfg(cfg, BlobDetector()).num_proposals == expected


def test_from_config_file_loads_weights_and_class_names(tmp_path):
    from detectron2.modeling import build_model

    cfg = config()
    (tmp_path / "small.yaml").write_text(cfg.dump())
    torch.manual_seed(3)
    model = build_model(cfg).eval()
    weights = {"model": model.state_dict(), "class_names": ["a", "b", "c"]}
    torch.save(weights, tmp_path / "weights.pth")
    image = plant((70, 90), [])
    loaded = GigapixelPredictor.from_config_file(
        tmp_path / "small.yaml",
        weights=tmp_path / "weights.pth",
        opts=["TEST.TILE.BATCH_SIZE", "2"],
    )
    assert loaded.tile.batch_size == 2
    assert loaded.class_names == ("a", "b", "c")
    found = loaded(image, progress=False).detections
    expected = GigapixelPredictor.from_cfg(cfg, model)(image, progress=False).detections
    assert len(found) > 0
    np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)


def test_detection_without_weights_is_refused(tmp_path):
    cfg = config()
    cfg.MODEL.WEIGHTS = ""
    with pytest.raises(ConfigError, match=r"MODEL\.WEIGHTS is empty"):
        GigapixelPredictor.from_cfg(cfg)
    cfg.MODEL.WEIGHTS = str(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match="does not exist"):
        GigapixelPredictor.from_cfg(cfg)
