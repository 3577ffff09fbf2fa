"""Masks and semantic labels on their way from files to the model."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, PolygonMasks
from PIL import Image
from pycocotools import mask as mask_util

from sparsenet.config import load_config
from sparsenet.data import (
    build_image_mapper,
    build_image_train_loader,
    load_coco_json,
    require_builtin_files,
)
from sparsenet.data.builtin import register_datasets
from sparsenet.data.semantic_folders import renumber_labels
from sparsenet.errors import ConfigError, DatasetError, DatasetNotFoundError, ImageReadError

HEIGHT, WIDTH = 40, 60
COCO_NAME, SEMANTIC_NAME = "image_mapper_coco", "image_mapper_semantic"
SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]


def coco(folder: Path, segmentations: list) -> Path:
    """A file of one image, with an object per segmentation."""
    pixels = np.random.RandomState(0).randint(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "segmentation": s}
        for i, s in enumerate(segmentations)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    return path


def config(*opts: str):
    return load_config(None, ["INPUT.MIN_SIZE_TRAIN", "(80,)", "INPUT.RANDOM_FLIP", "none", *opts])


def test_coco_files_keep_usable_segmentations(tmp_path: Path) -> None:
    runs = {"size": [HEIGHT, WIDTH], "counts": [5, 10, HEIGHT * WIDTH - 15]}
    path = coco(tmp_path, [SQUARE, runs, [], None, [[1, 2, 3]], [SQUARE[0], [1, 2, 3, 4]]])
    annotations = load_coco_json(path, tmp_path)[0]["annotations"]
    assert [a.get("segmentation") for a in annotations[2:]] == [None, None, None, SQUARE]
    assert annotations[0]["segmentation"] == SQUARE
    decoded = mask_util.decode(annotations[1]["segmentation"])
    assert decoded.shape == (HEIGHT, WIDTH) and decoded.sum() == 10


@pytest.mark.parametrize(
    ("mask_format", "kind"), [("polygon", PolygonMasks), ("bitmask", BitMasks)]
)
def test_masks_are_resized_with_the_image(tmp_path: Path, mask_format, kind) -> None:
    item = load_coco_json(coco(tmp_path, [SQUARE]), tmp_path)[0]
    cfg = config("MODEL.MASK_ON", "True", "INPUT.MASK_FORMAT", mask_format)
    example = build_image_mapper(cfg)(item)
    instances = example["instances"]
    assert example["image"].shape == (3, 80, 120) and isinstance(instances.gt_masks, kind)
    assert instances.gt_boxes.tensor.tolist() == [[20, 20, 60, 60]]
    assert instances.gt_masks.get_bounding_boxes().tensor.tolist() == [[20, 20, 60, 60]]
    assert "gt_masks" not in build_image_mapper(config())(item)["instances"].get_fields()


def test_half_of_the_images_are_cropped_before_they_are_resized(tmp_path: Path) -> None:
    item = load_coco_json(coco(tmp_path, [SQUARE]), tmp_path)[0]
    cfg = config("MODEL.MASK_ON", "True", "INPUT.CROP.ENABLED", "True",
                 "INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", "(384, 600)")  # fmt: skip
    mapper = build_image_mapper(cfg)
    np.random.seed(0)
    shapes = [tuple(mapper(item)["image"].shape[1:]) for _ in range(40)]
    assert all(min(shape) == 80 for shape in shapes)
    assert 10 <= sum(shape == (80, 120) for shape in shapes) <= 30


def test_an_object_without_mask_is_named(tmp_path: Path) -> None:
    files = f"[['{COCO_NAME}', '{coco(tmp_path, [SQUARE, []])}', '{tmp_path}']]"
    cfg = config("DATASETS.COCO_FILES", files, "DATASETS.TRAIN", f"('{COCO_NAME}',)",
                 "MODEL.MASK_ON", "True")  # fmt: skip
    register_datasets(cfg)
    with pytest.raises(DatasetError, match=r"a\.png has none.*MASK_ON to False"):
        build_image_train_loader(cfg)


def test_run_length_masks_need_their_format(tmp_path: Path) -> None:
    name = f"{COCO_NAME}_runs"
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    pixels[10:30, 10:30] = 1  # the square
    runs = {"size": [HEIGHT, WIDTH], "counts": mask_util.encode(pixels)["counts"].decode()}
    files = f"[['{name}', '{coco(tmp_path, [SQUARE, runs])}', '{tmp_path}']]"
    opts = ["DATASETS.COCO_FILES", files, "DATASETS.TRAIN", f"('{name}',)", "MODEL.MASK_ON", "True",
            "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "1"]  # fmt: skip
    register_datasets(config(*opts))
    with pytest.raises(DatasetError, match=r"a\.png is run-length.*INPUT\.MASK_FORMAT bitmask"):
        build_image_train_loader(config(*opts))
    loader = build_image_train_loader(config(*opts, "INPUT.MASK_FORMAT", "bitmask"))
    masks = next(iter(loader))[0]["instances"].gt_masks
    assert masks.tensor.sum((1, 2)).tolist() == [40 * 40] * 2


def semantic(folder: Path, suffix: str = "png") -> tuple[Path, Path]:
    images, labels = folder / "images", folder / "labels"
    images.mkdir()
    labels.mkdir()
    pixels = np.random.RandomState(0).randint(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(images / f"a.{suffix}")
    values = np.repeat(np.array([0, 1, 255], np.uint8), WIDTH // 3)[None].repeat(HEIGHT, axis=0)
    Image.fromarray(values).save(labels / "a.png")
    return images, labels


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_semantic_folders(tmp_path: Path, suffix: str) -> None:
    images, labels = semantic(tmp_path, suffix)
    (labels / "classes.txt").write_text("ground\nroof\n")
    entry = f"[['{SEMANTIC_NAME}', '{images}', '{labels}']]"
    cfg = config("DATASETS.SEM_SEG_FOLDERS", entry, "MODEL.META_ARCHITECTURE", "SemanticSegmentor",
                 "INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE",
                 "(32, 64)", "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", "0.9",
                 "INPUT.COLOR_DISTORTION", "True")  # fmt: skip
    register_datasets(cfg)
    register_datasets(cfg)  # a second time changes nothing
    assert MetadataCatalog.get(SEMANTIC_NAME).stuff_classes == ["ground", "roof"]
    (item,) = DatasetCatalog.get(SEMANTIC_NAME)
    example = build_image_mapper(cfg)(item)
    assert example["image"].shape == (3, 32, 64) and example["sem_seg"].shape == (32, 64)
    assert len(set(example["sem_seg"].unique().tolist()) - {255}) == 2  # no class has 0.9 of it


def test_semantic_folders_tell_what_is_missing(tmp_path: Path) -> None:
    images, labels = semantic(tmp_path)
    entry = f"[['{SEMANTIC_NAME}', '{images}', '{labels}']]"
    with pytest.raises(ConfigError, match=r"must have names, there are none.*classes\.txt"):
        register_datasets(config("DATASETS.SEM_SEG_FOLDERS", entry))
    with pytest.raises(ConfigError, match=r"must list \[name, image folder, label folder\]"):
        register_datasets(config("DATASETS.SEM_SEG_FOLDERS", "[['a', 'b']]"))
    classes = ("DATASETS.CLASS_NAMES", "('ground', 'roof')")
    (labels / "a.png").unlink()
    register_datasets(config("DATASETS.SEM_SEG_FOLDERS", entry, *classes))
    with pytest.raises(DatasetError, match="files of the same names, they hold none"):
        DatasetCatalog.get(SEMANTIC_NAME)
    entry = f"[['{SEMANTIC_NAME}', '{images}', '{labels / 'absent'}']]"
    register_datasets(config("DATASETS.SEM_SEG_FOLDERS", entry, *classes))
    with pytest.raises(DatasetNotFoundError, match="absent"):
        DatasetCatalog.get(SEMANTIC_NAME)


def test_colours_change_only_on_request() -> None:
    cfg = config("MODEL.META_ARCHITECTURE", "SemanticSegmentor")
    augmentations = build_image_mapper(cfg).augmentations.augs
    assert [type(augmentation) for augmentation in augmentations] == [T.ResizeShortestEdge]


@pytest.mark.parametrize(
    ("name", "missing"),
    [("coco_2017_train", "instances_train2017.json"), ("ade20k_sem_seg_val", "validation")],
)
def test_missing_builtin_datasets_show_their_tree(name: str, missing: str) -> None:
    metadata = MetadataCatalog.get(name)
    if Path(metadata.image_root).exists():
        pytest.skip(f"{name} is here")
    with pytest.raises(DatasetNotFoundError, match=f"(?s){missing}.*DETECTRON2_DATASETS.*:\n"):
        require_builtin_files([name])
    require_builtin_files(["some_other_name"])


def test_renumbered_labels(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 150]], np.uint8)).save(tmp_path / "a.png")
    renumber_labels(tmp_path / "a.png", tmp_path / "out" / "a.png")
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert np.asarray(image).tolist() == [[255, 0, 149]]
    (tmp_path / "b.png").write_text("nothing")
    with pytest.raises(ImageReadError, match=r"b\.png must be a label map"):
        renumber_labels(tmp_path / "b.png", tmp_path / "out" / "b.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "c.png")
    with pytest.raises(ImageReadError, match="one byte per pixel"):
        renumber_labels(tmp_path / "c.png", tmp_path / "out" / "c.png")
