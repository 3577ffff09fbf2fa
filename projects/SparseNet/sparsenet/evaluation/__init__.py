"""Evaluation of full images."""

from sparsenet.evaluation.coco_metrics import PrecisionTable, accumulate
from sparsenet.evaluation.crowd_evaluator import CrowdEvaluator
from sparsenet.evaluation.detection_errors import ErrorCounts, SizeRange, count_errors
from sparsenet.evaluation.panda_evaluator import PandaEvaluator

__all__ = [
    "CrowdEvaluator",
    "ErrorCounts",
    "PandaEvaluator",
    "PrecisionTable",
    "SizeRange",
    "accumulate",
    "count_errors",
]
