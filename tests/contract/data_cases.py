"""Cases of detectron2.data: functions without arguments that return plain values, always the same.

See `record_data_engine.py`, which records them with the real Detectron2.
"""

import sparsenet  # isort: skip  # noqa: F401  (makes detectron2 importable)

import contextlib
import itertools
import json
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    MapDataset,
    MetadataCatalog,
    ToIterableDataset,
    build_batch_data_loader,
    build_detection_test_loader,
    detection_utils,
)
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.data.samplers import (
    InferenceSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.structures import BoxMode
from PIL import Image


def jsonable(value):
    """Plain Python values; NaN becomes None, floats keep nine digits."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.9g}")
    if isinstance(value, BoxMode):
        return int(value)
    if value is None or isinstance(value, str | int | bool):
        return value
    raise TypeError(f"{type(value).__name__} cannot be recorded")


def assert_same(actual, expected, place=""):
    """Equal structures; numbers to 1e-5: six training steps differ by 2e-6 between CPUs."""
    if isinstance(expected, dict):
        assert sorted(actual) == sorted(expected), place
        for key in expected:
            assert_same(actual[key], expected[key], f"{place}/{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), place
        for index, pair in enumerate(zip(actual, expected)):
            assert_same(*pair, f"{place}/{index}")
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=1e-5, abs=1e-5), place
    else:
        assert actual == expected, place


# ---- generated inputs -------------------------------------------------------------------------


def make_image(height, width, seed=5):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def make_json(folder, num_images=6):
    """A COCO json with gaps in its ids, a crowd and bad polygons; returns its path."""
    rng = np.random.RandomState(3)
    images, annotations = [], []
    for index in rng.permutation(num_images).tolist():
        height, width = (120, 160) if index % 3 else (160, 120)
        name = f"{index:03d}.png"
        Image.fromarray(make_image(height, width, index)).save(folder / name)
        images.append({"id": 10 + 3 * index, "file_name": name, "height": height, "width": width})
        for number in range(index % 4):
            x, y = rng.randint(0, 60, 2).tolist()
            w, h = rng.randint(10, 60, 2).tolist()
            annotation = {
                "id": 100 * index + number,
                "image_id": 10 + 3 * index,
                "category_id": [3, 7, 20][number % 3],
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": int(index == 3 and number == 2),
            }
            if index == 2:
                annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h], [1, 2]][number:]
            annotations.append(annotation)
    categories = [{"id": i, "name": n} for i, n in ((20, "car"), (3, "person"), (7, "bus"))]
    path = folder / "instances.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


@contextlib.contextmanager
def registered(name="contract_tiny"):
    """A folder with the json above, registered under `name` for the time being."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        register_coco_instances(name, {}, str(make_json(folder)), str(folder))
        try:
            yield folder
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


# ---- data -------------------------------------------------------------------------------------


def sampler_orders():
    def first(sampler, count=25):
        return list(itertools.islice(iter(sampler), count))

    factors = torch.tensor([1.0, 1.5, 2.25, 0.5, 3.0])
    orders = {f"training {seed}": first(TrainingSampler(7, seed=seed)) for seed in (0, 1, 12345)}
    orders["training unshuffled"] = first(TrainingSampler(7, shuffle=False, seed=0))
    for seed in (0, 7):
        orders[f"repeat {seed}"] = first(RepeatFactorTrainingSampler(factors, seed=seed), 40)
    orders["repeat unshuffled"] = first(
        RepeatFactorTrainingSampler(factors, shuffle=False, seed=3), 40
    )
    orders["inference"] = list(InferenceSampler(9))
    orders["inference parts"] = [
        list(InferenceSampler._get_local_indices(10, 4, rank)) for rank in range(4)
    ]
    return orders


def repeat_factors():
    dicts = [
        {"annotations": [{"category_id": c} for c in categories]}
        for categories in ([0], [0, 0, 1], [0], [2, 0], [], [0, 1], [0], [0])
    ]
    compute = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    return [compute(dicts, 0.5), compute(dicts, 0.5, sqrt=False), compute(dicts, 0.01)]


def _skip_odd(index):
    return None if index % 2 else index


def _identity(batch):
    return batch


def loader_orders():
    retried = MapDataset(DatasetFromList(list(range(12)), serialize=False), _skip_odd)
    wide = [{"width": 3 + (i * 7) % 5, "height": 5, "index": i} for i in range(20)]
    sampler = TrainingSampler(20, seed=11)
    grouped = build_batch_data_loader(wide, sampler, 3, aspect_ratio_grouping=True)
    plain = build_batch_data_loader(wide, sampler, 4)
    sharded = torch.utils.data.DataLoader(
        ToIterableDataset(DatasetFromList(list(range(20))), sampler, shard_chunk_size=2),
        batch_size=2,
        num_workers=2,
        collate_fn=_identity,
    )
    test = build_detection_test_loader(wide, mapper=lambda d: d["index"], batch_size=3)

    def first(loader, count):
        return list(itertools.islice(iter(loader), count))

    return {
        "retried": [retried[i] for i in (0, 1, 3, 5, 2, 7)],
        "grouped": [[d["index"] for d in batch] for batch in first(grouped, 8)],
        "plain": [[d["index"] for d in batch] for batch in first(plain, 6)],
        "sharded": first(sharded, 8),
        "test": list(test),
    }


def mapper_cfg(crop_type="", crop_size=()):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (90, 100, 130)
    cfg.INPUT.MAX_SIZE_TRAIN = 150
    cfg.INPUT.MIN_SIZE_TEST = 100
    cfg.INPUT.MAX_SIZE_TEST = 140
    if crop_type:
        cfg.INPUT.CROP.ENABLED = True
        cfg.INPUT.CROP.TYPE = crop_type
        cfg.INPUT.CROP.SIZE = crop_size
    return cfg


def _fingerprint(image):
    """Means of a (C, h, w) image: plain, and weighted by x and by y, which a flip changes."""
    pixels = image.double()
    ramp_y, ramp_x = (torch.linspace(0, 1, n, dtype=torch.float64) for n in image.shape[1:])
    return [pixels.mean((1, 2)), (pixels * ramp_x).mean((1, 2)), (pixels.mean(2) @ ramp_y)]


def _describe(mapped):
    instances = mapped.get("instances")
    return {
        "keys": sorted(mapped),
        "size": list(mapped["image"].shape),
        "dtype": str(mapped["image"].dtype),
        "fingerprint": _fingerprint(mapped["image"]),
        "stated": [mapped["height"], mapped["width"]],
        "boxes": None if instances is None else instances.gt_boxes.tensor,
        "classes": None if instances is None else instances.gt_classes,
    }


def mapper_outputs():
    def xywh(box, category, **more):
        return {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": category, **more}

    outputs = {}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/image.png"
        Image.fromarray(make_image(240, 320)).save(path)
        polygon = [[200, 100, 280, 100, 280, 190]]
        annotations = [
            xywh([10, 20, 100, 60], 3),
            xywh([200.5, 100.25, 80, 90], 7, iscrowd=0, segmentation=polygon),
            xywh([0, 0, 50, 50], 9, iscrowd=1),
        ]
        record = {"file_name": path, "image_id": 4, "annotations": annotations}
        crops = {
            "no crop": ("", ()),
            "relative_range": ("relative_range", [0.3, 0.6]),
            "relative": ("relative", [0.5, 0.25]),
            "absolute": ("absolute", [100, 900]),
            "absolute_range": ("absolute_range", (60, 280)),
        }
        for name, crop in crops.items():
            mapper = DatasetMapper(mapper_cfg(*crop), True)
            for seed in range(6):
                np.random.seed(seed)
                outputs[f"{name} {seed}"] = _describe(mapper(record))
        cfg = mapper_cfg()
        cfg.INPUT.FORMAT = "RGB"
        outputs["test"] = _describe(DatasetMapper(cfg, False)(record))
        cfg.INPUT.FORMAT = "L"
        outputs["test grey"] = _describe(DatasetMapper(cfg, False)(record))
    return outputs


def transform_draws():
    image = np.zeros((77, 101, 3), np.uint8)
    augmentations = {
        "range": T.ResizeShortestEdge((40, 90), 120),
        "choice": T.ResizeShortestEdge([40, 60, 90], sample_style="choice"),
        "crop absolute_range": T.RandomCrop("absolute_range", (20, 90)),
        "crop relative_range": T.RandomCrop("relative_range", (0.2, 0.7)),
        "flip": T.RandomFlip(0.4, horizontal=False, vertical=True),
        "fixed": T.Resize((33, 44)),
    }
    fields = ("new_h", "new_w", "x0", "y0", "w", "h", "height")
    draws = {}
    for name, augmentation in augmentations.items():
        for seed in range(8):
            np.random.seed(seed)
            tfm = augmentation.get_transform(image)
            state = [getattr(tfm, field, None) for field in fields]
            draws[f"{name} {seed}"] = [type(tfm).__name__, *state]
    sizes = [(480, 640), (640, 480), (1, 1000), (333, 500), (25152, 14144)]
    shape = T.ResizeShortestEdge.get_output_shape
    draws["shapes"] = [shape(h, w, short, 1333) for h, w in sizes for short in (800, 799, 50)]
    return draws


def transform_numbers():
    ramp = np.linspace(0, 1, 6 * 8 * 2, dtype=np.float32).reshape(6, 8, 2)
    bytes_ = make_image(6, 8)
    resize = T.ResizeTransform(6, 8, 9, 5)
    boxes = np.array([[0.5, 1, 7, 5.5], [-1, -2, 20, 3]])
    flip_then_crop = T.TransformList([T.HFlipTransform(8), resize, T.CropTransform(1, 2, 3, 4)])
    annotation = {
        "bbox": [1, 1, 6, 4],
        "bbox_mode": BoxMode.XYXY_ABS,
        "segmentation": [[1, 1, 6, 1, 6, 4]],
    }
    moved = detection_utils.transform_instance_annotations(
        annotation, [T.HFlipTransform(8), resize], (9, 5)
    )
    return {
        "floats": resize.apply_image(ramp),
        "grey": resize.apply_image(bytes_[:, :, :1]),
        "bytes": resize.apply_image(bytes_),
        "labels": resize.apply_segmentation(bytes_[:, :, 0]),
        "boxes": flip_then_crop.apply_box(boxes.copy()),
        "back": resize.inverse().apply_box(boxes.copy()),
        "annotation": [moved["bbox"], moved["bbox_mode"], moved["segmentation"][0]],
        "repr": [str(T.RandomFlip()), str(T.ResizeShortestEdge((3, 4), 9, "choice"))],
    }


def coco_dicts():
    with registered() as folder:
        dicts = DatasetCatalog.get("contract_tiny")
        meta = MetadataCatalog.get("contract_tiny")
        converted = convert_to_coco_dict("contract_tiny")
        path = folder / "instances.json"
        content = json.loads(path.read_text())
        content["annotations"][0].update(keypoints=[5, 6, 2, 0, 0, 0], score=0.25)
        path.write_text(json.dumps(content))
        raw = load_coco_json(str(path), "", extra_annotation_keys=["score"])
        for record in dicts:
            record["file_name"] = os.path.relpath(record["file_name"], folder)
        for image in converted["images"]:
            image["file_name"] = os.path.relpath(image["file_name"], folder)
        return {
            "dicts": dicts,
            "classes": meta.thing_classes,
            "ids": meta.thing_dataset_id_to_contiguous_id,
            "evaluator": meta.evaluator_type,
            "raw": [annotation for record in raw for annotation in record["annotations"]],
            "converted": {key: converted[key] for key in ("images", "annotations", "categories")},
        }


def coco_names():
    names = [name for name in DatasetCatalog.list() if name.startswith("coco_2017_")]
    metas = {name: MetadataCatalog.get(name) for name in names if "panoptic" not in name}
    fields = ("json_file", "image_root", "evaluator_type", "thing_classes")
    described = {name: {f: getattr(m, f) for f in fields} for name, m in metas.items()}
    ids = MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id
    return {"names": described, "ids": ids}
