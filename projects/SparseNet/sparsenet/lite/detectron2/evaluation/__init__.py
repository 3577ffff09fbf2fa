"""Stands in for detectron2.evaluation: has the evaluator classes, inference_on_dataset,
COCOEvaluator of boxes and masks, SemSegEvaluator and the result helpers; lacks the evaluators of
other datasets and tasks."""

from detectron2._lacking import package_getattr

from .coco_evaluation import COCOEvaluator
from .evaluator import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
)
from .sem_seg_evaluation import SemSegEvaluator
from .testing import print_csv_format, verify_results

__all__ = [
    "COCOEvaluator",
    "DatasetEvaluator",
    "DatasetEvaluators",
    "SemSegEvaluator",
    "inference_context",
    "inference_on_dataset",
    "print_csv_format",
    "verify_results",
]

__getattr__ = package_getattr(__name__)
