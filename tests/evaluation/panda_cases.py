"""Truths and detections for the tests of PandaEvaluator."""

import json

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

SIZE = (4000, 6000)
CATEGORY_IDS = (3, 8)


def random_truth(seed, count=60):
    """Boxes (N, 4) XYWH of many sizes, and classes."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(np.log(15), np.log(900), (count, 2)))
    origin = rng.uniform(0, np.array(SIZE[::-1]) - sides)
    return np.concatenate([origin, sides], axis=1), rng.integers(0, 2, count)


def random_detections(seed, boxes, classes, extra=40):
    """Shifted copies of most objects, some of them twice, and noise."""
    rng = np.random.default_rng(seed)
    kept = rng.random(len(boxes)) < 0.8
    copies = np.concatenate([boxes[kept], boxes[kept][::4]])
    copies = copies + rng.normal(0, 0.06, copies.shape) * np.tile(copies[:, 2:], 2)
    noise, noise_classes = random_truth(seed + 1000, extra)
    found = np.concatenate([copies, noise])
    found[:, 2:] = np.maximum(found[:, 2:], 1)
    labels = np.concatenate([classes[kept], classes[kept][::4], noise_classes])
    return found, rng.random(len(found)).astype(np.float32), labels


def instances_of(boxes_xywh, scores, classes):
    boxes = torch.as_tensor(np.asarray(boxes_xywh), dtype=torch.float32).reshape(-1, 4).clone()
    boxes[:, 2:] += boxes[:, :2]
    return Instances(
        SIZE,
        pred_boxes=Boxes(boxes),
        scores=torch.as_tensor(np.asarray(scores), dtype=torch.float32),
        pred_classes=torch.as_tensor(np.asarray(classes), dtype=torch.int64),
    )


def write_dataset(path, truths, ignored=lambda image, i: {}):
    annotations = [
        {
            "id": 1 + 1000 * image + i,
            "image_id": 10 + image,
            "category_id": CATEGORY_IDS[c],
            "bbox": box.tolist(),
            **ignored(image, i),
        }
        for image, (boxes, classes) in enumerate(truths)
        for i, (box, c) in enumerate(zip(boxes, classes))
    ]
    content = {
        "images": [
            {"id": 10 + i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]}
            for i in range(len(truths))
        ],
        "categories": [{"id": 8, "name": "vehicle"}, {"id": 3, "name": "person"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(content))


def percent(values):
    return 100 * values[values > -1].mean()
