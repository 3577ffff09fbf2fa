"""The recipe of INPUT.AUG on photos and on tiles of gigapixel images."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode, PolygonMasks

from sparsenet.config import load_config
from sparsenet.data import RecipeMapper, build_tile_train_loader, register_coco_files
from sparsenet.data.recipe_mapper import RecipeTileMapper
from sparsenet.engine import Trainer
from sparsenet.errors import ConfigError

GROUND, OBJECT = 30, 220
BOXES = [[40, 30, 90, 70], [100, 60, 150, 110]]
NUM_PHOTOS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Photos with two bright boxes, one of them a crowd in the last photo, and their COCO file."""
    root = tmp_path_factory.mktemp("photos")
    images, annotations = [], []
    for number in range(NUM_PHOTOS):
        height, width = 120 + 10 * number, 160
        pixels = np.full((height, width, 3), GROUND, np.uint8)
        for i, (x, y, x2, y2) in enumerate(BOXES):
            pixels[y:y2, x:x2] = OBJECT
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number + 1, "category_id": 1 + i,
                    "bbox": [x, y, x2 - x, y2 - y], "area": (x2 - x) * (y2 - y),
                    "iscrowd": 0, "segmentation": [[x, y, x2, y, x2, y2, x, y2]],
                }
            )  # fmt: skip
        cv2.imwrite(str(root / f"{number}.png"), pixels)
        images.append(
            {"id": number + 1, "file_name": f"{number}.png", "height": height, "width": width}
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    (root / "boxes.json").write_text(json.dumps(content))
    register_coco_files([["recipe_photos", str(root / "boxes.json"), str(root)]])
    return root


def make_cfg(**changes):
    """INPUT.AUG's keys without the prefix, others as they are."""
    cfg = load_config("configs/coco/Base-SparseRCNN.yaml", ["DATASETS.TRAIN", "('recipe_photos',)"])
    cfg.merge_from_list(["DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 2, "SEED", 5])
    for key, value in changes.items():
        cfg.merge_from_list([key, value])
    return cfg


def make_mapper(**changes) -> tuple[RecipeMapper, list]:
    dicts = DatasetCatalog.get("recipe_photos")
    return RecipeMapper(make_cfg(**changes), dicts), dicts


def assert_boxes_on_their_pixels(example, tolerance=3):
    image = example["image"].amax(0)
    known = torch.cat([example["instances"].gt_boxes.tensor, example["ignore_boxes"].tensor])
    covered = torch.zeros_like(image, dtype=torch.bool)
    for x, y, x2, y2 in known.round().int().tolist():
        high_y, high_x = max(y2 - tolerance, 0), max(x2 - tolerance, 0)
        inside = image[y + tolerance : high_y, x + tolerance : high_x]
        assert inside.ge(OBJECT - 12).all()
        low_y, low_x = max(y - tolerance, 0), max(x - tolerance, 0)
        covered[low_y : y2 + tolerance, low_x : x2 + tolerance] = True
    assert image[~covered].le(140).all()  # ground, or the filling, which is the mean colour


def test_letterboxed_photos_and_what_an_example_holds(folder):
    mapper, dicts = make_mapper(**{"INPUT.LETTERBOX": 96})
    before = json.dumps(dicts[0], default=str)
    example = mapper(dicts[0])
    assert example["image"].shape == (3, 96, 96) and example["image"].dtype == torch.uint8
    assert example["file_name"] == str(folder / "0.png") and example["image_id"] == 1
    assert "annotations" not in example and json.dumps(dicts[0], default=str) == before
    assert sorted(example["instances"].gt_classes.tolist()) == [0, 1]
    assert_boxes_on_their_pixels(example)


@pytest.mark.parametrize("kind", ["MOSAIC", "AFFINE", "CROP"])
def test_boxes_stay_on_their_pixels(folder, kind):
    mapper, dicts = make_mapper(
        **{"INPUT.LETTERBOX": 96, f"INPUT.AUG.{kind}.PROB": 1.0, "INPUT.AUG.AFFINE.DEGREES": 0.0}
    )
    np.random.seed(0)
    examples = [mapper(dicts[i % NUM_PHOTOS]) for i in range(12)]
    for example in examples:
        assert example["image"].shape == (3, 96, 96)
        assert_boxes_on_their_pixels(example)
    assert sum(len(example["instances"]) for example in examples) > 8


def test_without_a_letterbox_the_shorter_side_is_drawn(folder):
    mapper, dicts = make_mapper(
        **{"INPUT.MIN_SIZE_TRAIN": (60, 90), "INPUT.AUG.HSV.PROB": 1.0, "INPUT.AUG.BLUR.PROB": 0.5}
    )
    sides = {min(mapper(dicts[i % NUM_PHOTOS])["image"].shape[1:]) for i in range(12)}
    assert sides == {60, 90}


def test_blends_hold_the_objects_of_two_photos(folder):
    mapper, dicts = make_mapper(**{"INPUT.LETTERBOX": 96, "INPUT.AUG.MIXUP.PROB": 1.0})
    assert len(mapper(dicts[0])["instances"]) == 4


def test_masks_follow_their_boxes(folder):
    cfg = make_cfg(
        **{
            "INPUT.LETTERBOX": 96, "INPUT.AUG.MOSAIC.PROB": 0.5, "INPUT.AUG.AFFINE.PROB": 1.0,
            "MODEL.MASK_ON": True,
        }
    )  # fmt: skip
    dicts = load_coco_json(str(folder / "boxes.json"), str(folder))
    mapper = RecipeMapper(cfg, dicts)
    np.random.seed(1)
    num_masks = 0
    for i in range(8):
        instances = mapper(dicts[i % NUM_PHOTOS])["instances"]
        if len(instances):
            assert isinstance(instances.gt_masks, PolygonMasks)
            boxes = instances.gt_masks.get_bounding_boxes().tensor
            torch.testing.assert_close(boxes, instances.gt_boxes.tensor, atol=1e-3, rtol=0)
            num_masks += len(boxes)
    assert num_masks > 6


def test_crowds_are_ignore_boxes(folder):
    mapper, dicts = make_mapper(**{"INPUT.LETTERBOX": 96})
    crowd = {
        "bbox": [0, 0, 80, 60], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 1,
    }  # fmt: skip
    example = mapper({**dicts[0], "annotations": [*dicts[0]["annotations"], crowd]})
    assert len(example["instances"]) == 2 and len(example["ignore_boxes"]) == 1


def test_flips_can_be_switched_off_and_detectron2s_crop_is_refused(folder):
    mapper, dicts = make_mapper(**{"INPUT.LETTERBOX": 96, "INPUT.RANDOM_FLIP": "none"})
    images = [mapper(dicts[0])["image"] for _ in range(6)]
    assert all(torch.equal(image, images[0]) for image in images)
    for changes in ({"INPUT.CROP.ENABLED": True}, {"INPUT.RANDOM_FLIP": "vertical"}):
        with pytest.raises(ConfigError, match=r"INPUT.CROP.ENABLED must be False"):
            make_mapper(**{"INPUT.LETTERBOX": 96, **changes})


def test_numpys_seed_gives_the_same_example(folder):
    mapper, dicts = make_mapper(
        **{"INPUT.LETTERBOX": 64, "INPUT.AUG.MOSAIC.PROB": 0.7, "INPUT.AUG.NOISE.PROB": 1.0}
    )

    def examples():
        np.random.seed(3)
        return [mapper(item)["image"] for item in dicts]

    assert all(torch.equal(a, b) for a, b in zip(examples(), examples()))


def test_the_trainer_takes_the_recipe_where_it_is_on(folder):
    loader = Trainer.build_train_loader(make_cfg(**{"INPUT.LETTERBOX": 64}))
    batch = next(iter(loader))
    assert [item["image"].shape for item in batch] == [(3, 64, 64)] * 2


TILES = {
    "INPUT.TILE.ENABLED": True, "INPUT.TILE.SIZE": 64, "INPUT.TILE.COLOR_JITTER": 0.0,
    "INPUT.TILE.OBJECT_SIZE_RANGE": (24.0, 48.0), "INPUT.TILE.EMPTY_SHARE": 0.0,
}  # fmt: skip


def tile_examples(count, **changes):
    dataset = build_tile_train_loader(make_cfg(**TILES, **changes)).dataset
    return dataset, [dataset[i] for i in range(count)]


@pytest.mark.parametrize("kind", ["MOSAIC", "CROP", "AFFINE"])
def test_tiles_take_the_recipe_as_well(folder, kind):
    pytest.importorskip("pyvips")
    dataset, examples = tile_examples(
        12, **{f"INPUT.AUG.{kind}.PROB": 1.0, "INPUT.AUG.AFFINE.DEGREES": 0.0}
    )
    assert isinstance(dataset.mapper, RecipeTileMapper)
    for example in examples:
        assert example["image"].shape == (3, 64, 64) and len(example["window"]) == 4
        assert_boxes_on_their_pixels(example)
    assert sum(len(example["instances"]) for example in examples) >= 8


def test_tiles_are_the_same_in_every_process(folder):
    pytest.importorskip("pyvips")
    recipe = {
        "INPUT.AUG.MOSAIC.PROB": 0.5, "INPUT.AUG.MIXUP.PROB": 0.3, "INPUT.AUG.NOISE.PROB": 0.5,
    }  # fmt: skip
    one, two = (tile_examples(6, **recipe)[1] for _ in range(2))
    for a, b in zip(one, two):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
    assert not torch.equal(one[0]["image"], one[1]["image"])


def test_an_unreadable_partner_is_the_file_that_is_named(folder, tmp_path, caplog):
    pytest.importorskip("pyvips")
    content = json.loads((folder / "boxes.json").read_text())
    names = [f"{i}.png" for i in range(12)]
    content["images"] = [
        {"id": i, "file_name": name, "height": 120, "width": 160} for i, name in enumerate(names)
    ]
    content["annotations"] = [
        {**content["annotations"][0], "id": i + 1, "image_id": i} for i in range(12)
    ]
    for name in names:
        (tmp_path / name).write_bytes((folder / "0.png").read_bytes())
    (tmp_path / "7.png").write_bytes(b"no image")
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    register_coco_files([["recipe_broken", str(tmp_path / "boxes.json"), str(tmp_path)]])
    _, examples = tile_examples(
        25, **{"DATASETS.TRAIN": ("recipe_broken",), "INPUT.AUG.MOSAIC.PROB": 1.0}
    )
    assert len(examples) == 25
    assert f"Skipping unreadable image {tmp_path / '7.png'} (1 of 12 files so far)" in caplog.text
    assert "2 of 12" not in caplog.text
