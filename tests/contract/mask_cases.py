"""Contract cases of masks and semantic labels: structures, pasting, mapper, evaluation.

Each returns one record of JSON types or numpy arrays.
"""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from contract.core_inputs import BOXES, numbers, outcome
from contract.detector_inputs import polygons
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog, detection_utils
from detectron2.data import transforms as T
from detectron2.data.datasets import load_sem_seg
from detectron2.data.datasets.coco import register_coco_instances
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator
from detectron2.layers import paste_masks_in_image
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Instances,
    PolygonMasks,
    ROIMasks,
    polygons_to_bitmask,
)
from PIL import Image

SIZE = (96, 128)


def rle(mask: np.ndarray) -> str:
    """A mask as short text."""
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()


def rles(masks: torch.Tensor) -> list[str]:
    """(N, H, W) masks as short texts."""
    return [rle(mask) for mask in masks.numpy()]


def polygon_masks() -> dict:
    """Crops, boxes, areas, indices and errors of polygons."""
    masks = PolygonMasks(polygons(0))
    boxes = torch.tensor([[8.0, 10, 64, 72], [60.5, 15.25, 100, 95], [5, 60, 5.01, 60.02]])
    return {
        "crops": rles(masks.crop_and_resize(boxes, 28)),
        "crop type": str(masks.crop_and_resize(boxes, 28).dtype),
        "no crops": list(PolygonMasks([]).crop_and_resize(boxes[:0], 7).shape),
        "boxes": masks.get_bounding_boxes().tensor.numpy(),
        "areas": masks.area().numpy(),
        "nonempty": PolygonMasks([[], *masks.polygons]).nonempty().tolist(),
        "lengths": [
            len(masks[1]),
            len(masks[1:]),
            len(masks[[0, 2]]),
            len(masks[torch.tensor([True, False, True])]),
            len(masks[torch.tensor([2, 2, 0, 1])]),
            len(PolygonMasks.cat([masks, masks[:1]])),
        ],
        "text": repr(masks),
        "device": str(masks.to("cpu").device),
        "iteration": [len(item) for item in masks],
        "bitmask": rle(polygons_to_bitmask(masks.polygons[2], *SIZE)),
        "no polygons": polygons_to_bitmask([], 2, 3).tolist(),
        "odd": outcome(lambda: PolygonMasks([[np.zeros(7)]])),
        "two points": outcome(lambda: PolygonMasks([[np.zeros(4)]])),
        "not nested": outcome(lambda: PolygonMasks([np.zeros(6)])),
        "no list": outcome(lambda: PolygonMasks(np.zeros((1, 6)))),
        "cat none": outcome(lambda: PolygonMasks.cat([])),
        "two indices": outcome(lambda: masks.crop_and_resize(boxes[:2], 7)),
    }


def bit_masks() -> dict:
    """Crops, boxes, indices and errors of bit masks and of masks in boxes."""
    masks = BitMasks.from_polygon_masks(PolygonMasks(polygons(0)), *SIZE)
    boxes = torch.tensor([[8.0, 10, 64, 72], [60.5, 15.25, 100, 95], [2.0, 50, 60, 90.5]])
    in_boxes = ROIMasks(torch.tensor(numbers("roi masks", (3, 7, 7))).float().sigmoid())
    return {
        "masks": rles(masks.tensor),
        "crops": rles(masks.crop_and_resize(boxes, 28)),
        "boxes": BitMasks.cat([masks, BitMasks(np.zeros((1, *SIZE)))])
        .get_bounding_boxes()
        .tensor.numpy(),
        "nonempty": BitMasks.cat([masks, BitMasks(np.zeros((1, *SIZE)))]).nonempty().tolist(),
        "lengths": [len(masks[0]), len(masks[1:]), len(masks[torch.tensor([2, 0])])],
        "text": [repr(masks), repr(in_boxes)],
        "size": list(masks.image_size),
        "none": list(BitMasks.from_polygon_masks([], 4, 5).tensor.shape),
        "iteration": [list(mask.shape) for mask in masks][:1],
        "two dimensions": outcome(lambda: BitMasks(np.zeros((2, 3)))),
        "one index": outcome(lambda: masks[torch.tensor(0)]),
        "roi to bits": rles(in_boxes.to_bitmasks(Boxes(boxes), *SIZE).tensor),
        "roi lengths": [len(in_boxes), len(in_boxes[1:])],
        "roi index": outcome(lambda: in_boxes[0]),
        "roi dimensions": outcome(lambda: ROIMasks(torch.zeros(2, 2))),
    }


def pasting() -> dict:
    """Masks in boxes that lie inside the image or across its border, or are very thin."""
    # The real package raises for a box that is wholly outside of the image.
    boxes = torch.tensor([BOXES[i] for i in (0, 1, 2, 4, 6)] + [[33.3, 40.2, 41.9, 47.7]])
    masks = torch.tensor(numbers("masks", (len(boxes), 28, 28))).float()
    masks = torch.nn.functional.avg_pool2d(masks[:, None], 5, 1, 2)[:, 0].mul(4).sigmoid()
    soft = paste_masks_in_image(masks, Boxes(boxes), SIZE, threshold=-1)
    return {
        "binary": rles(paste_masks_in_image(masks, boxes, SIZE)),
        "low": rles(paste_masks_in_image(masks, boxes, SIZE, threshold=0.25)),
        "soft": soft.double().mean(dim=(1, 2)).tolist(),
        "types": [str(soft.dtype), str(paste_masks_in_image(masks, boxes, SIZE).dtype)],
        "none": list(paste_masks_in_image(masks[:0], boxes[:0], SIZE).shape),
        "not square": outcome(lambda: paste_masks_in_image(masks[:, :3], boxes, SIZE)),
    }


def postprocess() -> dict:
    """Masks and semantic scores in the frame of the output."""
    boxes = torch.tensor([*BOXES[:4], [60.0, 40, 200, 150]])
    found = Instances((256, 320), pred_boxes=Boxes(boxes), scores=torch.ones(5))
    found.pred_masks = torch.tensor(numbers("pred", (5, 1, 14, 14))).float().sigmoid()
    output = detector_postprocess(found, 80, 100, 0.4)
    scores = torch.tensor(numbers("scores", (3, 8, 9))).float()
    return {
        "boxes": output.pred_boxes.tensor.numpy(),
        "masks": rles(output.pred_masks),
        "semantic": sem_seg_postprocess(scores, (7, 9), 10, 13).numpy(),
    }


def _annotations() -> list[dict]:
    blob = np.zeros((30, 40), dtype=np.uint8)
    blob[4:20, 7:30] = 1
    coded = mask_util.encode(np.asfortranarray(blob))
    shared = {"bbox_mode": BoxMode.XYWH_ABS, "iscrowd": 0}
    corner = [[30.0, 1, 39, 1, 39, 12]]
    return [
        {**shared, "bbox": [7, 4, 23, 16], "category_id": 0, "segmentation": coded},
        {**shared, "bbox": [30, 1, 9, 11], "category_id": 1, "segmentation": corner},
        {**shared, "bbox": [0, 0, 40, 30], "category_id": 1, "segmentation": coded, "iscrowd": 1},
        {**shared, "bbox": [2, 2, 3, 3], "category_id": 0, "segmentation": [[2.0, 2, 5, 2, 5, 5]]},
    ]


def mapper() -> dict:
    """What DatasetMapper makes of polygons, RLE, crowds, crops and label maps, at a seed."""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.random.RandomState(0).randint(0, 255, (30, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(f"{folder}/a.png")
        Image.fromarray((pixels[:, :, 0] // 60).astype(np.uint8)).save(f"{folder}/labels.png")
        record = {"file_name": f"{folder}/a.png", "height": 30, "width": 40}
        for mask_format in ("polygon", "bitmask"):
            annotations = _annotations()[0 if mask_format == "bitmask" else 1 :]
            for crop in (False, True):
                cfg = get_cfg()
                cfg.MODEL.MASK_ON = True
                cfg.INPUT.MASK_FORMAT = mask_format
                cfg.INPUT.MIN_SIZE_TRAIN = (45, 60)
                cfg.INPUT.CROP.ENABLED = crop
                np.random.seed(5)
                labels = {"sem_seg_file_name": f"{folder}/labels.png"}
                out = DatasetMapper(cfg)({**record, **labels, "annotations": annotations})
                name = f"{mask_format} {crop}"
                result |= {f"{name} {k}": v for k, v in _mapped(out).items()}
        cfg = get_cfg()
        without = DatasetMapper(cfg)({**record, "annotations": _annotations()})
        result["mask off"] = sorted(without["instances"].get_fields())
        test = DatasetMapper(cfg, False)({**record, "annotations": _annotations()})
        result["test"] = sorted(test)
        cfg.MODEL.MASK_ON = True
        result["rle as polygon"] = outcome(
            lambda: DatasetMapper(cfg)({**record, "annotations": _annotations()})
        )
        wrong = [{**_annotations()[0], "segmentation": "text"}]
        result["text"] = outcome(lambda: DatasetMapper(cfg)({**record, "annotations": wrong}))
        result["format"] = outcome(
            lambda: detection_utils.annotations_to_instances(_annotations(), (30, 40), "other")
        )
    return result


def augmentations() -> dict:
    """Random application, crops by label map and colours, at a seed."""
    random = np.random.RandomState(1)
    image = random.randint(0, 255, (24, 30, 3)).astype(np.uint8)
    labels = np.repeat([[0, 1, 255]], 24, axis=0).repeat(10, axis=1).astype(np.uint8)
    crop = ("absolute", (12, 14))
    variants = {
        "apply": [T.RandomApply(T.HFlipTransform(30), 0.4)] * 4,
        "apply list": [T.RandomApply(T.AugmentationList([T.RandomCrop(*crop)]), 0.7)],
        "crop": [T.RandomCrop_CategoryAreaConstraint(*crop, 0.75, 255)],
        "crop any": [T.RandomCrop_CategoryAreaConstraint(*crop)],
        "colours": [
            T.RandomBrightness(0.8, 1.2),
            T.RandomContrast(0.5, 1.5),
            T.RandomSaturation(0, 2),
        ],
    }
    result = {}
    for name, variant in variants.items():
        for seed in range(3):
            np.random.seed(seed)
            given = T.AugInput(image.copy(), sem_seg=labels.copy())
            T.AugmentationList(variant)(given)
            sums = [given.image.astype(np.float64).sum(), int(given.sem_seg.sum())]
            result[f"{name} {seed}"] = [*given.image.shape, *sums, np.random.rand()]
    result["share"] = outcome(lambda: T.RandomApply(T.NoOpTransform(), 1.5))
    return result


def _mapped(out: dict) -> dict:
    instances = out["instances"]
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        shapes = [[part.tolist() for part in polygons_] for polygons_ in masks.polygons]
    else:
        shapes = rles(masks.tensor)
    return {
        "keys": sorted(out),
        "shape": [*out["image"].shape, *out["sem_seg"].shape],
        "boxes": instances.gt_boxes.tensor.numpy(),
        "classes": instances.gt_classes.tolist(),
        "masks": shapes,
        "labels": [str(out["sem_seg"].dtype), out["sem_seg"].sum().item()],
    }


def _coco_file(folder: str) -> str:
    square = [[2, 2, 8, 2, 8, 8, 2, 8]]
    triangle = [[10, 2, 16, 2, 16, 8]]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [2, 2, 6, 6], "segmentation": square},
        {"id": 2, "image_id": 1, "category_id": 5, "bbox": [10, 2, 6, 6], "segmentation": triangle},
    ]
    for annotation, area in zip(annotations, (36, 18)):
        annotation.update(area=area, iscrowd=0)
    images = [{"id": i, "height": 20, "width": 20, "file_name": f"{i}.jpg"} for i in (1, 2)]
    categories = [{"id": 3, "name": "a"}, {"id": 5, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = Path(folder) / "coco.json"
    path.write_text(json.dumps(content))
    return str(path)


def instance_evaluation() -> dict:
    """AP of boxes and masks, the tasks that predictions imply, and the file of results."""
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, 2:8, 2:8] = masks[1, 2:8, 10:16] = True
    found = Instances((20, 20), pred_boxes=Boxes([[2, 2, 8, 8], [10, 2, 16, 8]]))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
    found.pred_masks = masks
    name, result = "contract_masks", {}
    with tempfile.TemporaryDirectory() as folder:
        register_coco_instances(name, {}, _coco_file(folder), folder)
        try:
            DatasetCatalog.get(name)
            for label, tasks, instances in (
                ("found", None, found),
                ("boxes only", ("bbox",), found),
                ("nothing", ("bbox", "segm"), found[:0]),
            ):
                evaluator = COCOEvaluator(name, tasks, output_dir=folder)
                evaluator.reset()
                evaluator.process([{"image_id": 1}], [{"instances": instances}])
                result[label] = evaluator.evaluate()
                file = Path(folder) / "coco_instances_results.json"
                result[f"{label} file"] = json.loads(file.read_text())
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    return result


def semantic_evaluation() -> dict:
    """IoU and accuracy with ignored pixels and an absent class; the pairing of files."""
    random = np.random.RandomState(0)
    name, result = "contract_semantic", {}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(2):
            labels = random.choice([0, 1, 2, 255], size=(6, 8)).astype(np.uint8)
            Image.fromarray(labels).save(f"{folder}/{i}.png")
            Image.fromarray(np.zeros((6, 8), np.uint8)).save(f"{folder}/{i}.jpg")
        dicts = load_sem_seg(folder, folder)
        result["files"] = [
            {k: os.path.relpath(v, folder) for k, v in record.items()} for record in dicts
        ]
        DatasetCatalog.register(name, lambda: dicts)
        meta = MetadataCatalog.get(name).set(stuff_classes=list("abcd"), ignore_label=255)
        try:
            for ids in (None, {10: 0, 11: 1, 12: 2, 13: 3}):
                if ids:
                    meta.set(stuff_dataset_id_to_contiguous_id=ids)
                evaluator = SemSegEvaluator(name, output_dir=folder)
                evaluator.reset()
                for record in dicts:
                    scores = torch.tensor(numbers(os.path.basename(record["file_name"]), (4, 6, 8)))
                    evaluator.process([record], [{"sem_seg": scores}])
                metrics = evaluator.evaluate()["sem_seg"]
                # The real package adds boundary metrics where OpenCV is installed.
                result[f"metrics {bool(ids)}"] = {
                    k: float(v) for k, v in metrics.items() if "ound" not in k and "min(" not in k
                }
                segments = json.loads((Path(folder) / "sem_seg_predictions.json").read_text())
                result[f"segments {bool(ids)}"] = [
                    [s["category_id"], s["segmentation"]] for s in segments
                ]
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    return result


def builtin_names() -> dict:
    """ADE20K's names and metadata."""
    fields = ("stuff_classes", "image_root", "sem_seg_root", "evaluator_type", "ignore_label")
    names = [name for name in DatasetCatalog.list() if name.startswith("ade20k_sem")]
    return {name: {f: getattr(MetadataCatalog.get(name), f) for f in fields} for name in names}


CASES = [
    polygon_masks, bit_masks, pasting, postprocess, augmentations, mapper, instance_evaluation,
    semantic_evaluation, builtin_names,
]  # fmt: skip
