"""PANDA's evaluation: merged detections of full images against full-image truth."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from pycocotools import mask as coco_mask
from tabulate import tabulate

from sparsenet.data.coco_json import read_coco_json
from sparsenet.data.image_record import ImageRecord
from sparsenet.errors import DatasetError
from sparsenet.evaluation.by_image import gather_by_image, require_known_classes
from sparsenet.evaluation.coco_metrics import (
    ALL_SIZES,
    MAX_AREA,
    PrecisionTable,
    accumulate,
    run_lengths,
)
from sparsenet.evaluation.detection_errors import ErrorCounts, SizeRange, count_errors
from sparsenet.files import make_folder, write_json

logger = logging.getLogger(__name__)

# The official caps; crowds can exceed 500 per class and image, so an uncapped figure is added.
OFFICIAL_CAPS = (10, 100, 500)
# PANDA-Toolkit's bounds, then COCO's.
PANDA_SIZES = (
    SizeRange("small", 0.0, 200.0**2),
    SizeRange("middle", 200.0**2, 400.0**2),
    SizeRange("large", 400.0**2, MAX_AREA),
)
COCO_SIZES = (
    SizeRange("s", 0.0, 32.0**2),
    SizeRange("m", 32.0**2, 96.0**2),
    SizeRange("l", 96.0**2, MAX_AREA),
)
# Above, COCO's run lengths overflow: they count in 32 bits.
_MAX_MASK_PIXELS = 2**32 - 1


class PandaEvaluator(DatasetEvaluator):
    """COCO metrics under PANDA's caps and sizes, and the errors at one threshold.

    Regions with ``ignore`` or ``iscrowd`` are neither hits nor misses: a detection that matches no
    object and lies in one by at least the IoU threshold of its own area is left out. Sizes are box
    areas; of masks, mask areas.

    Args:
        dataset_name: A registered dataset. Its metadata's ``json_file`` is read; without one, the
            registered dicts are used.
        report_threshold: Score for precision, recall, duplicates and counts.
        output_dir: Folder for ``coco_instances_results.json`` and ``panda_metrics.json``, with
            masks also ``panda_metrics_segm.json``; None writes nothing.
        distributed: Whether to gather the detections of all processes; False evaluates this
            process's alone.

    Raises:
        DatasetError: If the metadata contradicts the annotation file.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        report_threshold: float = 0.4,
        output_dir: str | Path | None = None,
        distributed: bool = True,
    ) -> None:
        self._name = dataset_name
        self._threshold = report_threshold
        self._output_dir = Path(output_dir) if output_dir is not None else None
        self._distributed = distributed
        dicts, self._class_names, self._category_ids = _load_truth(dataset_name)
        self._records = [ImageRecord.from_dict(item) for item in dicts]
        self._segmentations = [
            [annotation.get("segmentation") or None for annotation in item.get("annotations", [])]
            for item in dicts
        ]
        self._images = {record.image_id: i for i, record in enumerate(self._records)}
        self._predictions: dict[Any, _Predictions] = {}

    def reset(self) -> None:
        """Forgets all detections."""
        self._predictions = {}

    def process(self, inputs: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Any]]) -> None:
        """Adds the detections of full images.

        Args:
            inputs: Dicts with ``image_id``.
            outputs: Dicts with ``instances``: ``pred_boxes``, ``scores`` and ``pred_classes`` in
                full-image pixels; masks as ``segmentations`` (COCO's) or ``pred_masks``.

        Raises:
            DatasetError: If an image or class is not in the dataset.
        """
        for item, output in zip(inputs, outputs):
            image_id = item["image_id"]
            if image_id not in self._images:
                raise DatasetError(
                    f"Image id {image_id!r} is not in dataset {self._name!r} of "
                    f"{len(self._images)} images. Evaluate the dataset that was detected in."
                )
            predictions = _Predictions.from_instances(output["instances"])
            require_known_classes(predictions.classes, self._class_names, self._name)
            self._predictions[image_id] = predictions

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Metrics under ``"bbox"``, in percent, counts aside; nan where there are no objects.

        Where detections and truth have masks, average precision and recall of these under
        ``"segm"``; objects without a segmentation are ignore regions there.

        Returns:
            ``AP``, ``AP50``, ``AP75`` and ``AR500`` at 500 detections per image and class;
            ``AR10``, ``AR100``; ``AP_uncapped`` and its like; ``AP`` and ``AR`` by size (PANDA's
            ``_small``, ``_middle``, ``_large``; COCO's ``s``, ``m``, ``l``); ``precision``,
            ``recall``, ``duplicate_rate``, ``count_error`` and ``count_mae`` at the report
            threshold, recall also by size; per class with ``-name``. Empty on all ranks but 0.

        Raises:
            DatasetError: If a run-length mask of the truth has another size than its image.
        """
        predictions = gather_by_image(self._predictions, distributed=self._distributed)
        if predictions is None:
            return OrderedDict()
        num_missing = len(self._images) - len(predictions)
        if num_missing:
            logger.warning(
                "%s: %d of %d images have no result; their objects count as missed.",
                self._name,
                num_missing,
                len(self._images),
            )
        results = OrderedDict(bbox=self._metrics(predictions))
        logger.info("%s by class:\n%s", self._name, class_table(results["bbox"], self._class_names))
        if self._has_masks(predictions):
            results["segm"] = self._precision_metrics(self._accumulate(predictions, "segm"))
        if self._output_dir is not None:
            folder = make_folder(self._output_dir)
            detections = self._to_coco(predictions, self._category_ids)
            write_json(folder / "coco_instances_results.json", detections)
            for task, metrics in results.items():
                name = "panda_metrics.json" if task == "bbox" else f"panda_metrics_{task}.json"
                write_json(folder / name, _without_nan(metrics))
        return results

    def _has_masks(self, predictions: dict[Any, _Predictions]) -> bool:
        """Whether masks can be evaluated; says why not where only the detections have some."""
        if all(found.masks is None for found in predictions.values()):
            return False
        largest = max(math.prod(record.image_size) for record in self._records)
        if largest > _MAX_MASK_PIXELS:
            logger.warning(
                "%s: only boxes are evaluated. Masks need images of at most %d pixels, as COCO's "
                "run lengths do; the largest has %d.",
                self._name,
                _MAX_MASK_PIXELS,
                largest,
            )
            return False
        missing = sum(
            mask is None and not ignore
            for record, masks in zip(self._records, self._segmentations)
            for mask, ignore in zip(masks, record.is_ignore)
        )
        has_any = any(mask is not None for masks in self._segmentations for mask in masks)
        if missing or not has_any:
            logger.warning(
                "%s: %d objects have no segmentation; %s. Add segmentations to the annotations.",
                self._name,
                missing,
                "of masks they are ignored" if has_any else "only boxes are evaluated",
            )
        return has_any

    def _metrics(self, predictions: dict[Any, _Predictions]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        metrics.update(self._precision_metrics(self._accumulate(predictions)))
        metrics.update(self._error_metrics(predictions))
        return metrics

    def _accumulate(
        self, predictions: dict[Any, _Predictions], task: str = "bbox"
    ) -> PrecisionTable:
        most = max((_most_of_a_class(p.classes) for p in predictions.values()), default=0)
        caps = (*OFFICIAL_CAPS, max(most, OFFICIAL_CAPS[-1] + 1))
        detections = self._to_coco(predictions, range(len(self._class_names)), internal_ids=True)
        sizes = (ALL_SIZES, *PANDA_SIZES, *COCO_SIZES)
        truth = self._truth_to_coco()
        if task == "segm":
            self._add_masks(truth["annotations"])
        return accumulate(truth, detections, max_detections=caps, size_ranges=sizes, task=task)

    def _precision_metrics(self, table: PrecisionTable) -> dict[str, float]:
        ap, ar, cap = table.average_precision, table.average_recall, OFFICIAL_CAPS[-1]
        uncapped = table.max_detections[-1]
        metrics = {
            "AP": ap(max_detections=cap),
            "AP50": ap(max_detections=cap, iou_threshold=0.5),
            "AP75": ap(max_detections=cap, iou_threshold=0.75),
            **{f"AR{n}": ar(max_detections=n) for n in OFFICIAL_CAPS},
            "AP_uncapped": ap(max_detections=uncapped),
            "AP50_uncapped": ap(max_detections=uncapped, iou_threshold=0.5),
            "AR_uncapped": ar(max_detections=uncapped),
        }
        for sizes, separator in ((PANDA_SIZES, "_"), (COCO_SIZES, "")):
            for size in sizes:
                name = separator + size.name
                metrics[f"AP{name}"] = ap(max_detections=cap, size=size.name)
                metrics[f"AR{name}"] = ar(max_detections=cap, size=size.name)
        for i, name in enumerate(self._class_names):
            metrics[f"AP-{name}"] = ap(max_detections=cap, one_class=i)
            metrics[f"AP50-{name}"] = ap(max_detections=cap, iou_threshold=0.5, one_class=i)
        return {name: 100 * value for name, value in metrics.items()}

    def _error_metrics(self, predictions: dict[Any, _Predictions]) -> dict[str, float]:
        by_class = {i: ErrorCounts() for i in range(len(self._class_names))}
        for record in self._records:
            found = predictions.get(record.image_id, _Predictions.empty())
            counts = count_errors(
                found.boxes_xyxy,
                found.scores,
                found.classes,
                record.boxes_xyxy,
                record.classes,
                record.is_ignore,
                threshold=self._threshold,
                size_ranges=(*PANDA_SIZES, *COCO_SIZES),
            )
            for one_class, count in counts.items():
                by_class[one_class] = by_class[one_class] + count
        total = sum(by_class.values(), ErrorCounts())
        metrics = _error_figures(total)
        for size in PANDA_SIZES:
            metrics[f"recall_{size.name}"] = 100 * total.recall_of_size(size.name)
        for size in COCO_SIZES:
            metrics[f"recall{size.name}"] = 100 * total.recall_of_size(size.name)
        for i, name in enumerate(self._class_names):
            metrics.update({f"{k}-{name}": v for k, v in _error_figures(by_class[i]).items()})
        return metrics

    def _truth_to_coco(self) -> dict[str, Any]:
        """The truth with image numbers and contiguous classes, as a COCO dict."""
        annotations: list[dict[str, Any]] = []
        for number, record in enumerate(self._records, start=1):
            boxes = record.boxes_xyxy.astype(np.float64).tolist()
            for box, one_class, ignore in zip(boxes, record.classes, record.is_ignore):
                x, y, x2, y2 = box
                annotations.append(
                    {
                        "id": len(annotations) + 1,  # 0 would mean "unmatched" to COCO's code
                        "image_id": number,
                        "category_id": int(one_class),
                        "bbox": [x, y, x2 - x, y2 - y],
                        "area": (x2 - x) * (y2 - y),
                        "iscrowd": int(ignore),
                    }
                )
        return {
            "images": [
                {"id": i, "height": r.image_size[0], "width": r.image_size[1]}
                for i, r in enumerate(self._records, start=1)
            ],
            "annotations": annotations,
            "categories": [{"id": i, "name": n} for i, n in enumerate(self._class_names)],
        }

    def _add_masks(self, annotations: list[dict[str, Any]]) -> None:
        """Adds the masks to all annotations; one without a mask ignores what lies in its box."""
        segmentations = [mask for masks in self._segmentations for mask in masks]
        for annotation, mask in zip(annotations, segmentations):
            if mask is None:
                x, y, width, height = annotation["bbox"]
                mask = [[x, y, x + width, y, x + width, y + height, x, y + height]]
                annotation["iscrowd"] = 1
            size = self._records[annotation["image_id"] - 1].image_size
            annotation["segmentation"] = run_lengths(mask, size)
            annotation["area"] = float(coco_mask.area(annotation["segmentation"]))

    def _to_coco(
        self,
        predictions: dict[Any, _Predictions],
        category_ids: Iterable[int],
        *,
        internal_ids: bool = False,
    ) -> list[dict[str, Any]]:
        """COCO results; with the dataset's image ids, or with the numbers of the truth's images."""
        ids = list(category_ids)
        results = []
        for image_id, found in predictions.items():
            number = self._images[image_id] + 1 if internal_ids else image_id
            boxes = found.boxes_xyxy.astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            of_image = [
                {"image_id": number, "category_id": ids[one_class], "bbox": box, "score": score}
                for box, score, one_class in zip(
                    boxes.tolist(), found.scores.tolist(), found.classes.tolist()
                )
            ]
            for result, mask in zip(of_image, found.masks or ()):
                result["segmentation"] = mask
            results += of_image
        return results


@dataclass(frozen=True, eq=False)
class _Predictions:
    """Detections of one image: ``boxes_xyxy`` (N, 4), ``scores`` (N,), ``classes`` (N,).

    ``masks`` are COCO's segmentations of the whole image; None without any.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: list[Any] | None = None

    @classmethod
    def from_instances(cls, instances: Any) -> _Predictions:
        """Copies what is needed off the accelerator."""
        instances = instances.to("cpu")
        return cls(
            instances.pred_boxes.tensor.float().numpy().reshape(-1, 4),
            instances.scores.float().numpy(),
            instances.pred_classes.numpy().astype(np.int64),
            _segmentations(instances),
        )

    @classmethod
    def empty(cls) -> _Predictions:
        """No detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def _segmentations(instances: Any) -> list[Any] | None:
    if instances.has("segmentations"):
        return list(instances.segmentations)
    if not instances.has("pred_masks"):
        return None
    bitmaps = (mask.numpy().astype(np.uint8, order="F") for mask in instances.pred_masks)
    return [run_lengths(coco_mask.encode(pixels), pixels.shape) for pixels in bitmaps]


def class_table(metrics: dict[str, float], class_names: Iterable[str]) -> str:
    """A row per class, percent."""
    keys = ("AP", "AP50", "precision", "recall", "duplicate_rate", "count_error")
    rows = [[name, *(metrics[f"{key}-{name}"] for key in keys)] for name in class_names]
    return tabulate(rows, ["class", *keys], tablefmt="pipe", floatfmt=".1f")


def _load_truth(name: str) -> tuple[list[dict[str, Any]], tuple[str, ...], list[int]]:
    """Dataset dicts, class names and category ids by class."""
    metadata = MetadataCatalog.get(name)
    json_file = metadata.get("json_file", None)
    if json_file is None:
        dicts = DatasetCatalog.get(name)
        names = tuple(metadata.thing_classes)
        return dicts, names, list(range(len(names)))
    dataset = read_coco_json(json_file, metadata.get("image_root", ""))
    known = metadata.get("thing_dataset_id_to_contiguous_id", dataset.class_of_category)
    if known != dataset.class_of_category:
        raise DatasetError(
            f"Dataset {name!r} maps categories to classes by {known}, its file {json_file} gives "
            f"{dataset.class_of_category}. Register it again after changing the file."
        )
    return dataset.dicts, dataset.class_names, sorted(known, key=known.__getitem__)


def _error_figures(counts: ErrorCounts) -> dict[str, float]:
    """Percent, except the MAE, which is in objects."""
    return {
        "precision": 100 * counts.precision,
        "recall": 100 * counts.recall,
        "duplicate_rate": 100 * counts.duplicate_rate,
        "count_error": 100 * counts.count_error,
        "count_mae": counts.count_mae,
    }


def _most_of_a_class(classes: np.ndarray) -> int:
    return int(np.bincount(classes).max(initial=0))


def _without_nan(metrics: dict[str, float]) -> dict[str, float | None]:
    """JSON has no nan; an undefined figure becomes null."""
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}
