"""Evaluation on full images, tile by tile."""

from __future__ import annotations

import logging
import resource
import sys
from collections import defaultdict
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, print_csv_format
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import nn

from sparsenet.gigapixel import Detections, GigapixelPredictor
from sparsenet.gigapixel.masks import mask_in_image

logger = logging.getLogger(__name__)


def evaluate_tiled(
    cfg: CfgNode, model: nn.Module, dataset_name: str, evaluator: DatasetEvaluator
) -> dict[str, Any]:
    """Detects in every image of a dataset with a :class:`GigapixelPredictor` and evaluates.

    Images are shared out over the processes. Seconds per image for decoding, detection and merging
    and the peak memory of the process are logged.

    Args:
        model: On its device; put back into its mode afterwards.
        dataset_name: A registered dataset with ``thing_classes``.
        evaluator: Receives full-image ``Instances``.

    Returns:
        The evaluator's metrics on rank 0, an empty dict elsewhere.
    """
    was_training = model.training
    dataset = DatasetCatalog.get(dataset_name)
    class_names = MetadataCatalog.get(dataset_name).thing_classes
    predictor = GigapixelPredictor.from_cfg(cfg, model.eval(), class_names=class_names)
    evaluator.reset()
    seconds: dict[str, float] = defaultdict(float)
    own = dataset[comm.get_rank() :: comm.get_world_size()]
    for item in own:
        result = predictor(item["file_name"], progress=comm.is_main_process())
        for name, value in result.timings.items():
            seconds[name] += value
        evaluator.process([item], [{"instances": to_instances(result.detections)}])
    if own:
        logger.info(
            "%s, seconds per image: %s; peak memory %.2f GB",
            dataset_name,
            ", ".join(f"{name} {value / len(own):.1f}" for name, value in seconds.items()),
            peak_memory_gb(),
        )
    model.train(was_training)
    comm.synchronize()
    metrics = evaluator.evaluate() or {}
    if comm.is_main_process() and metrics:
        print_csv_format(metrics)
    return metrics


def to_instances(detections: Detections) -> Instances:
    """Full-image detections as Detectron2's ``Instances`` (boxes XYXY, absolute).

    Masks become ``segmentations``, a list of COCO's for the whole image: ``pred_masks``, one bitmap
    each, would not fit into memory.
    """
    instances = Instances(
        detections.image_size,
        pred_boxes=Boxes(torch.from_numpy(detections.boxes_xyxy)),
        scores=torch.from_numpy(detections.scores),
        pred_classes=torch.from_numpy(detections.classes),
    )
    if detections.masks is not None:
        instances.segmentations = [
            mask_in_image(mask, box, detections.image_size)
            for mask, box in zip(detections.masks, detections.boxes_xyxy)
        ]
    return instances


def peak_memory_gb() -> float:
    """Largest resident memory of this process so far, in 10⁹ bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
