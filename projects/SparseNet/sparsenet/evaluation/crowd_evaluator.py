"""CrowdHuman's figures of a dataset: an evaluator beside COCO's."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils.logger import create_small_table

from sparsenet.data.image_record import ImageRecord
from sparsenet.errors import DatasetError
from sparsenet.evaluation.by_image import gather_by_image, require_known_classes
from sparsenet.evaluation.miss_rate import NOTHING, ImageMatches, crowd_metrics, match_image

logger = logging.getLogger(__name__)


class CrowdEvaluator(DatasetEvaluator):
    """Log-average miss rate, average precision and Jaccard index, see :mod:`miss_rate`.

    All detections of an image count, not COCO's best 100. Images without a result count as images
    whose objects are missed.

    Args:
        dataset_name: A registered dataset with ``thing_classes``.
        distributed: Whether to gather the matches of all processes; False evaluates this process's
            alone.
    """

    def __init__(self, dataset_name: str, *, distributed: bool = True) -> None:
        self._name = dataset_name
        self._distributed = distributed
        dicts = DatasetCatalog.get(dataset_name)
        self._records = {item["image_id"]: ImageRecord.from_dict(item) for item in dicts}
        self._class_names = tuple(MetadataCatalog.get(dataset_name).thing_classes)
        self._matches: dict[Any, list[ImageMatches]] = {}

    def reset(self) -> None:
        """Forgets all detections."""
        self._matches = {}

    def process(self, inputs: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Any]]) -> None:
        """Matches the detections of images.

        Args:
            inputs: Dicts with ``image_id``.
            outputs: Dicts with ``instances``: ``pred_boxes``, ``scores`` and ``pred_classes`` in
                full-image pixels.

        Raises:
            DatasetError: If an image or class is not in the dataset.
        """
        for item, output in zip(inputs, outputs):
            record = self._records.get(item["image_id"])
            if record is None:
                raise DatasetError(
                    f"Image id {item['image_id']!r} is not in dataset {self._name!r} of "
                    f"{len(self._records)} images. Evaluate the dataset that was detected in."
                )
            instances = output["instances"].to("cpu")
            classes = instances.pred_classes.numpy()
            require_known_classes(classes, self._class_names, self._name)
            self._matches[item["image_id"]] = self._match(
                record,
                instances.pred_boxes.tensor.float().numpy().reshape(-1, 4),
                instances.scores.float().numpy(),
                classes,
            )

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Metrics under ``"crowd"``, in percent; nan where there are no objects.

        Returns:
            ``mMR``, ``AP``, ``JI`` and ``recall``: the means over the classes that have objects,
            and with ``-name`` those of each class, where there are several. Empty on all ranks
            but 0.
        """
        matches = gather_by_image(self._matches, distributed=self._distributed)
        if matches is None:
            return OrderedDict()
        for image_id in self._records.keys() - matches.keys():
            none = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
            matches[image_id] = self._match(self._records[image_id], *none)
        by_class = {
            name: crowd_metrics([classes[i] for classes in matches.values()])
            for i, name in enumerate(self._class_names)
        }
        keys = ("mMR", "AP", "JI", "recall")
        results = {key: 100 * _mean([m[key] for m in by_class.values()]) for key in keys}
        logger.info("Crowd metrics of %s:\n%s", self._name, create_small_table(results))
        if len(by_class) > 1:
            for name, metrics in by_class.items():
                results.update({f"{key}-{name}": 100 * value for key, value in metrics.items()})
        return OrderedDict(crowd=results)

    def _match(
        self, record: ImageRecord, boxes_xyxy: np.ndarray, scores: np.ndarray, classes: np.ndarray
    ) -> list[ImageMatches]:
        """By class."""
        matches = [NOTHING] * len(self._class_names)
        for i in np.union1d(classes, record.classes):
            matches[i] = match_image(
                boxes_xyxy[classes == i],
                scores[classes == i],
                record.boxes_xyxy[record.classes == i],
                record.is_ignore[record.classes == i],
            )
        return matches


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
