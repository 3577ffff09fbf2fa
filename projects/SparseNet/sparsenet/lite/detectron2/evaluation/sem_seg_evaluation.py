"""Stands in for detectron2.evaluation.sem_seg_evaluation: has SemSegEvaluator with IoU and
accuracy; lacks the boundary IoU, which needs OpenCV."""

import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.comm import all_gather, is_main_process, synchronize
from detectron2.utils.file_io import PathManager
from PIL import Image

from .evaluator import DatasetEvaluator

__all__ = ["SemSegEvaluator", "load_image_into_numpy_array"]

logger = logging.getLogger(__name__)


def load_image_into_numpy_array(filename: str, dtype: np.dtype | str | None = None) -> np.ndarray:
    """Returns the label map in an image file as (h, w)."""
    with PathManager.open(filename, "rb") as f:
        return np.array(Image.open(f), dtype=dtype)


class SemSegEvaluator(DatasetEvaluator):
    """Intersection over union and accuracy of semantic segmentation, in percent."""

    def __init__(
        self,
        dataset_name,
        distributed=True,
        output_dir=None,
        *,
        sem_seg_loading_fn: Callable = load_image_into_numpy_array,
        num_classes=None,
        ignore_label=None,
    ):
        """Args:
        dataset_name: its dicts have "file_name" and "sem_seg_file_name", its metadata
            "stuff_classes", "ignore_label" and maybe "stuff_dataset_id_to_contiguous_id".
        distributed: add up the counts of all processes.
        output_dir: gets sem_seg_predictions.json and sem_seg_evaluation.pth; may be None.
        sem_seg_loading_fn: reads a label map: (file name, dtype=) -> (h, w).
        num_classes, ignore_label: must be None or as the metadata has them.
        """
        meta = MetadataCatalog.get(dataset_name)
        self._distributed = distributed
        self._output_dir = output_dir
        self.input_file_to_gt_file = {
            record["file_name"]: record["sem_seg_file_name"]
            for record in DatasetCatalog.get(dataset_name)
        }
        ids = meta.get("stuff_dataset_id_to_contiguous_id")
        self._contiguous_id_to_dataset_id = None if ids is None else {v: k for k, v in ids.items()}
        self._class_names = meta.stuff_classes
        self._num_classes = len(meta.stuff_classes)
        self._ignore_label = meta.ignore_label if ignore_label is None else ignore_label
        assert num_classes in (None, self._num_classes), (
            f"num_classes must be that of stuff_classes, {self._num_classes}, got {num_classes}"
        )
        self.sem_seg_loading_fn = sem_seg_loading_fn
        self.reset()

    def reset(self):
        """Forgets all predictions."""
        # Rows are predicted, columns true classes; the last of each stands for ignored pixels.
        self._conf_matrix = np.zeros((self._num_classes + 1,) * 2, dtype=np.int64)
        self._predictions = []

    def process(self, inputs, outputs):
        """Counts a batch.

        Args:
            inputs: each has "file_name".
            outputs: each has "sem_seg": (K, h, w) scores in the size of the label map.
        """
        side = self._num_classes + 1
        for input_, output in zip(inputs, outputs):
            predicted = output["sem_seg"].argmax(dim=0).to("cpu").numpy().astype(np.int64)
            file_name = input_["file_name"]
            truth = self.sem_seg_loading_fn(self.input_file_to_gt_file[file_name], dtype=np.int64)
            truth[truth == self._ignore_label] = self._num_classes
            counts = np.bincount((side * predicted + truth).reshape(-1), minlength=side**2)
            self._conf_matrix += counts.reshape(side, side)
            self._predictions.extend(self.encode_json_sem_seg(predicted, file_name))

    def evaluate(self):
        """Returns {"sem_seg": {"mIoU", "fwIoU", "IoU-<class>", "mACC", "pACC", "ACC-<class>"}} in
        the first process, else None.

        A class without any true pixel is NaN and does not count.
        """
        if self._distributed:
            synchronize()
            self._conf_matrix = np.sum(all_gather(self._conf_matrix), axis=0)
            self._predictions = list(itertools.chain(*all_gather(self._predictions)))
            if not is_main_process():
                return None
        results = self._metrics()
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, "sem_seg_predictions.json")
            with PathManager.open(path, "w") as f:
                json.dump(self._predictions, f)
            with PathManager.open(
                os.path.join(self._output_dir, "sem_seg_evaluation.pth"), "wb"
            ) as f:
                torch.save(results, f)
        logger.info(results)
        return OrderedDict({"sem_seg": results})

    def _metrics(self) -> dict[str, float]:
        valid = self._conf_matrix[:-1, :-1].astype(np.float64)
        hits, num_true, num_predicted = np.diag(valid), valid.sum(axis=0), valid.sum(axis=1)
        has_truth = num_true > 0
        union = num_true + num_predicted - hits
        accuracy = np.full(self._num_classes, np.nan)
        iou = np.full(self._num_classes, np.nan)
        accuracy[has_truth] = hits[has_truth] / num_true[has_truth]
        iou[has_truth] = hits[has_truth] / union[has_truth]
        with np.errstate(invalid="ignore"):  # no true pixel at all: NaN
            shares = num_true / num_true.sum()
            pixel_accuracy = hits.sum() / num_true.sum()
        metrics = {
            "mIoU": _mean(iou[has_truth]),
            "fwIoU": float(np.sum(iou[has_truth] * shares[has_truth])),
            **{f"IoU-{name}": float(value) for name, value in zip(self._class_names, iou)},
            "mACC": _mean(accuracy[has_truth]),
            "pACC": float(pixel_accuracy),
            **{f"ACC-{name}": float(value) for name, value in zip(self._class_names, accuracy)},
        }
        return {name: 100 * value for name, value in metrics.items()}

    def encode_json_sem_seg(self, sem_seg, input_file_name):
        """Returns an (h, w) map of classes in COCO's stuff format: an RLE for each class in it."""
        segments = []
        for label in np.unique(sem_seg).tolist():
            if self._contiguous_id_to_dataset_id is not None:
                assert label in self._contiguous_id_to_dataset_id, (
                    f"class {label} is not in the metadata of the dataset"
                )
                dataset_id = self._contiguous_id_to_dataset_id[label]
            else:
                dataset_id = label
            rle = mask_util.encode(np.asfortranarray(sem_seg == label, dtype=np.uint8))
            segmentation = {**rle, "counts": rle["counts"].decode("ascii")}
            segments.append(
                {
                    "file_name": input_file_name,
                    "category_id": dataset_id,
                    "segmentation": segmentation,
                }
            )
        return segments


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
