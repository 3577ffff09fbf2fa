import json
import logging
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from sparsenet.config import add_sparsenet_config
from sparsenet.data import (
    TileLoader,
    TileMapper,
    TileRequest,
    TileSampler,
    build_tile_train_loader,
    register_coco_files,
)
from sparsenet.data.image_record import ImageRecord
from sparsenet.errors import ConfigError, DatasetError, ImageReadError
from sparsenet.tiling.window import Window

pyvips = pytest.importorskip("pyvips")

GROUND, OBJECT = 20, 220
BOXES = [
    [100, 80, 140, 160],
    [300, 100, 420, 180],
    [520, 300, 560, 380],
    [60, 330, 120, 350],
    [250, 250, 330, 370],
]


def draw_image(boxes, size=(400, 600)):
    """Bright boxes, red for the first and then green, on dark ground."""
    pixels = np.full((*size, 3), GROUND, np.uint8)
    for i, (x, y, x2, y2) in enumerate(boxes):
        pixels[y:y2, x:x2, min(i, 1)] = OBJECT
    return pixels


def write_tiff(path, pixels):
    pyvips.Image.new_from_array(pixels).tiffsave(
        str(path), tile=True, tile_width=128, tile_height=128, pyramid=True, compression="deflate"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images with the same boxes, and their COCO file."""
    root = tmp_path_factory.mktemp("tiles")
    for name in ("a.tif", "b.tif"):
        write_tiff(root / name, draw_image(BOXES))
    annotations = [
        {
            "id": image * 10 + i,
            "image_id": image,
            "category_id": 1 + i % 2,
            "bbox": [x, y, x2 - x, y2 - y],
        }
        for image in (1, 2)
        for i, (x, y, x2, y2) in enumerate(BOXES)
    ]
    content = {
        "images": [
            {"id": i, "file_name": name, "height": 400, "width": 600}
            for i, name in enumerate(("a.tif", "b.tif"), start=1)
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "vehicle"}],
        "annotations": annotations,
    }
    (root / "boxes.json").write_text(json.dumps(content))
    return root


def make_record(path, boxes=BOXES, *, ignore=(), size=(400, 600)):
    return ImageRecord(
        file_name=str(path),
        image_id=1,
        image_size=size,
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        classes=np.arange(len(boxes), dtype=np.int64),
        is_ignore=np.array([i in ignore for i in range(len(boxes))], dtype=bool),
    )


def make_mapper(**changes):
    values = {"size": 100, "color_jitter": 0.0, "flip": 0.0, "min_size": 4.0}
    return TileMapper(**{**values, **changes})


def request_of(record, window, downsample, index=0):
    return TileRequest(index, 0, record, Window(*window), downsample)


def make_cfg(folder, name, **changes):
    register_coco_files([[name, str(folder / "boxes.json"), str(folder)]])
    cfg = get_cfg()
    add_sparsenet_config(cfg)
    cfg.DATASETS.TRAIN = (name,)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.TILE.SIZE = 64
    cfg.INPUT.TILE.OBJECT_SIZE_RANGE = (16.0, 48.0)
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 11
    cfg.merge_from_list([item for pair in changes.items() for item in pair])
    return cfg


def test_boxes_follow_the_pixels(folder):
    record = make_record(folder / "a.tif")
    out = make_mapper()(request_of(record, (90, 70, 200, 200), 2.0))
    assert out["image"].shape == (3, 100, 100) and out["image"].dtype == torch.uint8
    np.testing.assert_array_equal(out["instances"].gt_boxes.tensor[0], [5, 5, 25, 45])
    assert out["image"][0, 5:45, 5:25].eq(OBJECT).all()
    assert out["image"][1, 5:45, 5:25].eq(GROUND).all()
    assert out["image"][0, :, 26:].eq(GROUND).all()
    assert (out["height"], out["width"]) == (100, 100)
    assert out["window"] == (90, 70, 200, 200)
    assert out["image_id"] == 1 and out["file_name"] == str(folder / "a.tif")
    assert out["instances"].image_size == (100, 100)


def test_bgr_swaps_the_channels(folder):
    record = make_record(folder / "a.tif")
    out = make_mapper(image_format="BGR")(request_of(record, (90, 70, 200, 200), 2.0))
    assert out["image"][2, 5:45, 5:25].eq(OBJECT).all()
    assert out["image"][0, 5:45, 5:25].eq(GROUND).all()


def test_flip_mirrors_image_boxes_and_ignore_boxes(folder):
    record = make_record(folder / "a.tif", ignore=(1,), boxes=BOXES[:2])
    window = (90, 0, 400, 400)
    plain = make_mapper()(request_of(record, window, 4.0))
    flipped = make_mapper(flip=1.0)(request_of(record, window, 4.0))
    assert torch.equal(flipped["image"], plain["image"].flip(2))
    for boxes, mirrored in (
        (plain["instances"].gt_boxes, flipped["instances"].gt_boxes),
        (plain["ignore_boxes"], flipped["ignore_boxes"]),
    ):
        x, y, x2, y2 = boxes.tensor[0].tolist()
        assert mirrored.tensor.tolist() == [[100 - x2, y, 100 - x, y2]]


def test_little_seen_small_huge_and_crowd_boxes_become_ignore(folder):
    boxes = [
        [10, 10, 60, 60],  # whole
        [-40, 70, 10, 80],  # 20 % visible
        [80, 80, 83, 83],  # 3 pixels
        [-100, 50, 90, 60],  # longer than 1.6 tiles
        [20, 65, 60, 95],  # crowd
        [200, 200, 250, 250],  # outside
    ]
    shifted = (np.array(boxes) + 150).tolist()
    record = make_record(folder / "a.tif", shifted, ignore=(4,))
    out = make_mapper()(request_of(record, (150, 150, 100, 100), 1.0))
    assert out["instances"].gt_boxes.tensor.tolist() == [boxes[0]]
    assert out["instances"].gt_classes.tolist() == [0]
    assert out["ignore_boxes"].tensor.tolist() == [
        [0, 70, 10, 80],
        [80, 80, 83, 83],
        [0, 50, 90, 60],
        [20, 65, 60, 95],
    ]


def test_tiles_without_objects_have_empty_boxes(folder):
    record = make_record(folder / "a.tif", boxes=[])
    out = make_mapper()(request_of(record, (450, 0, 100, 100), 1.0))
    assert out["instances"].gt_boxes.tensor.shape == (0, 4)
    assert out["instances"].gt_classes.dtype == torch.int64
    assert out["ignore_boxes"].tensor.shape == (0, 4)


def test_small_images_are_padded_at_the_right_and_bottom(tmp_path):
    write_tiff(tmp_path / "small.tif", draw_image([[10, 10, 30, 30]], size=(60, 80)))
    record = make_record(tmp_path / "small.tif", [[10, 10, 30, 30]], size=(60, 80))
    mapper = make_mapper(pad_value=(103.5, 116.3, 123.7), image_format="BGR")
    out = mapper(request_of(record, (0, 0, 80, 60), 1.0))
    assert out["image"][:, 60:, :].amax(dim=(1, 2)).tolist() == [104, 116, 124]
    assert out["image"][:, :, 80:].amin(dim=(1, 2)).tolist() == [104, 116, 124]
    assert out["image"][2, 10:30, 10:30].eq(OBJECT).all()
    assert out["instances"].gt_boxes.tensor.tolist() == [[10, 10, 30, 30]]


@pytest.mark.parametrize("downsample", [0.5, 1.37, 2.9, 3.99])
def test_every_downsample_gives_the_exact_size(folder, downsample):
    side = round(100 * downsample)
    record = make_record(folder / "a.tif")
    out = make_mapper()(request_of(record, (50, 0, side, side), side / 100))
    assert out["image"].shape == (3, 100, 100)


def test_color_jitter_is_drawn_from_the_request(folder):
    record = make_record(folder / "a.tif")
    mapper = make_mapper(color_jitter=0.5, seed=3)

    def image(index, mapper=mapper):
        return mapper(request_of(record, (0, 0, 200, 200), 2.0, index))["image"]

    np.random.seed(0)
    torch.manual_seed(0)
    first = image(7)
    assert torch.equal(first, image(7))
    assert not torch.equal(first, image(8))
    assert not torch.equal(first, image(7, make_mapper(color_jitter=0.5, seed=4)))
    assert not torch.equal(first, image(7, make_mapper(color_jitter=0.0)))


def test_stated_size_must_be_the_images(folder):
    record = make_record(folder / "a.tif", size=(600, 400))
    with pytest.raises(ImageReadError, match="must have the 400 × 600 pixels"):
        make_mapper()(request_of(record, (0, 0, 100, 100), 1.0))


def test_other_formats_are_refused():
    with pytest.raises(ConfigError, match="RGB or BGR"):
        make_mapper(image_format="L")


def examples_of(loader, count):
    return [
        (e["image_id"], e["window"], e["image"], e["instances"].gt_boxes.tensor)
        for batch in islice(iter(loader), count)
        for e in batch
    ]


def assert_same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two):
        assert a[:2] == b[:2]
        assert torch.equal(a[2], b[2]) and torch.equal(a[3], b[3])


def test_workers_do_not_change_the_batches(folder):
    cfg = make_cfg(folder, "tiles_workers")
    alone = examples_of(build_tile_train_loader(cfg), 6)  # reads in this process, then forks
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_same(alone, examples_of(build_tile_train_loader(cfg), 6))
    assert len({(a[0], a[1]) for a in alone}) == 24


def test_ranks_share_out_what_one_process_would_see(folder):
    loader = build_tile_train_loader(make_cfg(folder, "tiles_ranks"))
    together = examples_of(loader, 4)
    parts = [
        examples_of(TileLoader(loader.dataset, TileSampler(rank, 2), 2), 4) for rank in range(2)
    ]
    for rank, part in enumerate(parts):
        assert_same(together[rank::2], part)


def test_resumed_training_continues_with_the_next_batch(folder):
    cfg = make_cfg(folder, "tiles_resumed")
    everything = examples_of(build_tile_train_loader(cfg), 5)
    resumed = build_tile_train_loader(cfg)
    resumed.skip(3)
    assert_same(everything[12:], examples_of(resumed, 2))


def test_pixels_show_the_boxes_in_every_training_tile(folder):
    cfg = make_cfg(folder, "tiles_pixels", **{"INPUT.TILE.COLOR_JITTER": 0.0})
    mean = torch.tensor(cfg.MODEL.PIXEL_MEAN).round().amax()
    num_objects = 0
    for batch in islice(iter(build_tile_train_loader(cfg)), 10):
        for example in batch:
            image = example["image"].amax(dim=0)
            covered = torch.zeros_like(image, dtype=torch.bool)
            known = torch.cat(
                [example["instances"].gt_boxes.tensor, example["ignore_boxes"].tensor]
            )
            num_objects += len(example["instances"])
            for x, y, x2, y2 in known.tolist():
                inside = image[round(y) + 2 : round(y2) - 2, round(x) + 2 : round(x2) - 2]
                assert inside.ge(OBJECT - 10).all()
                top, left = max(round(y) - 2, 0), max(round(x) - 2, 0)
                covered[top : round(y2) + 2, left : round(x2) + 2] = True
            assert image[~covered].le(mean).all()
    assert num_objects > 20


def copy_dataset(folder, target, names, missing):
    """A dataset with one copy of the image per name."""
    for name in names:
        if name not in missing:
            (target / name).write_bytes((folder / "a.tif").read_bytes())
    value = json.loads((folder / "boxes.json").read_text())
    value["images"] = [
        {"id": i, "file_name": name, "height": 400, "width": 600} for i, name in enumerate(names)
    ]
    boxes = [a for a in value["annotations"] if a["image_id"] == 1]
    value["annotations"] = [
        {**a, "id": i * 100 + a["id"], "image_id": i} for i in range(len(names)) for a in boxes
    ]
    (target / "boxes.json").write_text(json.dumps(value))


def test_unreadable_files_are_passed_over_and_reported_once(folder, tmp_path, caplog):
    names = [f"{i}.tif" for i in range(12)]
    copy_dataset(folder, tmp_path, names, missing=("4.tif",))
    cfg = make_cfg(tmp_path, "tiles_broken")
    dataset = build_tile_train_loader(cfg).dataset
    assert 4 in {dataset.requests[i].record.image_id for i in range(60)}
    with caplog.at_level(logging.WARNING):
        seen = [dataset[i]["image_id"] for i in range(60)]
    assert 4 not in seen and len(set(seen)) == 11
    path = tmp_path / "4.tif"
    assert caplog.text.count(f"Skipping unreadable image {path} (1 of 12 files so far)") == 1
    again = build_tile_train_loader(cfg).dataset
    assert [again[i]["image_id"] for i in reversed(range(60))] == seen[::-1]


def test_too_many_unreadable_files_stop_training(folder, tmp_path):
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).write_bytes(b"not an image")
    (tmp_path / "boxes.json").write_text((folder / "boxes.json").read_text())
    loader = build_tile_train_loader(make_cfg(tmp_path, "tiles_all_broken"))
    with pytest.raises(DatasetError, match=r"At most 10% of the 2 image files .*, 1 were"):
        next(iter(loader))


def test_large_files_without_a_pyramid_are_mentioned(tmp_path, caplog):
    content = {
        "images": [{"id": 1, "file_name": "large.jpg", "height": 10_000, "width": 10_000}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        build_tile_train_loader(make_cfg(tmp_path, "tiles_large"))
    assert "large.jpg, are not tiled TIFF pyramids" in caplog.text


def test_a_negative_seed_is_drawn(folder):
    loaders = [
        build_tile_train_loader(make_cfg(folder, "tiles_unseeded", SEED=-1)) for _ in range(2)
    ]
    seeds = [loader.dataset.requests.seed for loader in loaders]
    assert seeds[0] != seeds[1] and min(seeds) >= 0
    assert loaders[0].dataset.mapper.seed == seeds[0]
