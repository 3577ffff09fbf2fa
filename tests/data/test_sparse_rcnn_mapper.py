import copy

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import BoxMode
from golden_data import load_golden
from PIL import Image

from sparsenet.config import add_sparsenet_config
from sparsenet.data import SparseRCNNDatasetMapper


@pytest.fixture(scope="module")
def item(tmp_path_factory):
    path = tmp_path_factory.mktemp("mapper") / "noise.png"
    pixels = np.random.RandomState(5).randint(0, 256, (240, 320, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    boxes = [([10, 20, 100, 60], 3, 0), ([200, 100, 80, 90], 7, 0), ([0, 0, 50, 50], 9, 1)]
    return {
        "file_name": str(path),
        "height": 240,
        "width": 320,
        "image_id": 1,
        "annotations": [
            {
                "bbox": list(map(float, box)),
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": category,
                "iscrowd": crowd,
                "segmentation": [],
            }
            for box, category, crowd in boxes
        ],
    }


def make_mapper(crop, is_train=True):
    cfg = get_cfg()
    add_sparsenet_config(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN = tuple(range(480, 801, 32))
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.CROP.ENABLED = crop
    cfg.INPUT.CROP.TYPE = "absolute_range"
    cfg.INPUT.CROP.SIZE = [384, 600]
    return SparseRCNNDatasetMapper(cfg, is_train)


@pytest.mark.golden
@pytest.mark.parametrize("crop", [0, 1])
def test_twelve_seeded_decisions(item, crop):
    golden = load_golden("sparsercnn_units.npz")
    mapper = make_mapper(bool(crop))
    shapes, counts, boxes, classes, means = [], [], [], [], []
    for seed in range(12):
        np.random.seed(seed)
        out = mapper(item)
        shapes.append(tuple(out["image"].shape))
        counts.append(len(out["instances"]))
        boxes.append(out["instances"].gt_boxes.tensor.numpy())
        classes.append(out["instances"].gt_classes.numpy())
        means.append(out["image"].double().mean().item())
    np.testing.assert_array_equal(shapes, golden[f"mapper_crop{crop}_shapes"])
    np.testing.assert_array_equal(counts, golden[f"mapper_crop{crop}_nboxes"])
    np.testing.assert_array_equal(np.concatenate(classes), golden[f"mapper_crop{crop}_classes"])
    np.testing.assert_allclose(np.concatenate(boxes), golden[f"mapper_crop{crop}_boxes"], atol=1e-3)
    np.testing.assert_allclose(means, golden[f"mapper_crop{crop}_image_mean"], atol=0.02)


def test_output_keys_and_types_and_untouched_input(item):
    before = copy.deepcopy(item)
    out = make_mapper(False)(item)
    assert item == before
    assert sorted(out) == ["file_name", "height", "image", "image_id", "instances", "width"]
    assert out["image"].dtype == torch.uint8 and out["image"].is_contiguous()
    assert (out["height"], out["width"]) == (240, 320)
    assert out["instances"].image_size == tuple(out["image"].shape[1:])


def test_flip_mirrors_boxes_with_the_pixels(item):
    mapper = make_mapper(False)
    sides = set()
    for seed in range(8):
        np.random.seed(seed)
        out = mapper(item)
        scale = out["image"].shape[2] / 320
        left = out["instances"].gt_boxes.tensor[0, 0].item() / scale
        sides.add(round(left))
    assert sides == {10, 210}


def test_evaluation_resizes_only(item):
    out = make_mapper(True, is_train=False)(item)
    assert "instances" not in out and "annotations" not in out
    assert out["image"].shape == (3, 800, 1067)


def test_images_without_boxes_stay_in(item):
    out = make_mapper(False)({**item, "annotations": []})
    assert len(out["instances"]) == 0
    assert out["instances"].gt_boxes.tensor.shape == (0, 4)


def test_wrong_size_is_an_error(item):
    with pytest.raises(Exception, match="320"):
        make_mapper(False)({**item, "height": 100})


def test_flips_can_be_turned_off(item):
    cfg = get_cfg()
    add_sparsenet_config(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (240,), "none"
    mapper = SparseRCNNDatasetMapper(cfg, True)
    assert all(torch.equal(mapper(item)["image"], mapper(item)["image"]) for _ in range(6))
