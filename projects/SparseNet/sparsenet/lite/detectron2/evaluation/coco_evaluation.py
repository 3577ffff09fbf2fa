"""Stands in for detectron2.evaluation.coco_evaluation: has COCOEvaluator for boxes and masks;
lacks keypoints and box proposals."""

import contextlib
import copy
import io
import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2._lacking import lacks, package_getattr
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from .evaluator import DatasetEvaluator

__all__ = ["COCOEvaluator", "instances_to_coco_json"]

logger = logging.getLogger(__name__)

__getattr__ = package_getattr(__name__)

_TASKS = ("bbox", "segm")
_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class COCOEvaluator(DatasetEvaluator):
    """COCO's average precision of boxes and masks, in percent."""

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ):
        """Args:
        dataset_name: its metadata names a COCO json; otherwise the dataset is converted to one in
            `output_dir`.
        tasks: of "bbox" and "segm"; None: "bbox", and "segm" where the predictions have masks.
        distributed: collect the predictions of all processes in the first one.
        output_dir: gets instances_predictions.pth and coco_instances_results.json; may be None.
        max_dets_per_image: the best so many detections of an image and class count; None is 100.
        use_fast_impl: without effect; the numbers are pycocotools' own.
        kpt_oks_sigmas: must be empty.
        allow_cached_coco: keep a converted json of an earlier run if it is still right.
        """
        if isinstance(tasks, CfgNode):
            logger.warning("COCOEvaluator(name, cfg) is deprecated: pass tasks, or nothing")
            tasks = None
        if set(tasks or ()) - set(_TASKS):
            raise lacks(f"COCOEvaluator with tasks {tuple(tasks)}")
        if kpt_oks_sigmas:
            raise lacks("COCOEvaluator with keypoints (kpt_oks_sigmas)")
        self._tasks = tasks
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets_per_image = [
            1,
            10,
            100 if max_dets_per_image is None else max_dets_per_image,
        ]
        self._predictions: list[dict] = []
        self._metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(self._metadata, "json_file"):
            self._convert(dataset_name, allow_cached_coco)
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api = COCO(PathManager.get_local_path(self._metadata.json_file))
        # The json files of test splits have no annotations; such results are only written.
        self._do_evaluation = "annotations" in self._coco_api.dataset

    def _convert(self, dataset_name: str, allow_cached: bool) -> None:
        if self._output_dir is None:
            raise ValueError(
                f"COCOEvaluator needs an output_dir for dataset {dataset_name}: its metadata has "
                "no json_file, so the annotations are converted to a COCO json there"
            )
        path = os.path.join(self._output_dir, f"{dataset_name}_coco_format.json")
        convert_to_coco_json(dataset_name, path, allow_cached=allow_cached)
        self._metadata.json_file = path

    def reset(self) -> None:
        """Forgets all predictions."""
        self._predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Collects a batch.

        Args:
            inputs: each has "image_id".
            outputs: each has "instances" with pred_boxes, scores, pred_classes and, for "segm",
                pred_masks (N, h, w).
        """
        for input_, output in zip(inputs, outputs):
            if "proposals" in output:
                raise lacks("COCOEvaluator for box proposals")
            if "instances" in output:
                image_id = input_["image_id"]
                results = instances_to_coco_json(output["instances"].to("cpu"), image_id)
                self._predictions.append({"image_id": image_id, "instances": results})

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict[str, Any]:
        """Returns {"bbox": {"AP": …, "AP50": …, "AP-<class>": …}, …} in the first process, else {}.

        A metric without any ground truth, or all of them without any detection, is NaN. No
        prediction for any image gives {}.

        Args:
            img_ids: evaluate these images only; None takes all of the json.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            logger.warning("[COCOEvaluator] no predictions were processed")
            return {}
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, "instances_predictions.pth")
            with PathManager.open(path, "wb") as f:
                torch.save(predictions, f)
        self._results: OrderedDict[str, Any] = OrderedDict()
        self._eval_predictions(predictions, img_ids)
        return copy.deepcopy(self._results)

    def _eval_predictions(
        self, predictions: list[dict], img_ids: Sequence[int] | None = None
    ) -> None:
        coco_results = self._with_dataset_ids([r for p in predictions for r in p["instances"]])
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            with PathManager.open(path, "w") as f:
                json.dump(coco_results, f)
            logger.info(f"Saved the results to {path}")
        if not self._do_evaluation:
            logger.info("The json has no annotations: nothing to evaluate")
            return
        for task in self._tasks or self._tasks_from_predictions(coco_results):
            self._results[task] = (
                self._derive_coco_results(self._run_cocoeval(coco_results, task, img_ids), task)
                if coco_results
                else dict.fromkeys(_METRICS, float("nan"))
            )

    def _tasks_from_predictions(self, predictions: list[dict]) -> list[str]:
        has_masks = any("segmentation" in prediction for prediction in predictions)
        return ["bbox", "segm"] if has_masks else ["bbox"]

    def _with_dataset_ids(self, results: list[dict]) -> list[dict]:
        """Returns the results with the json's category ids in place of classes."""
        class_of_id = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if class_of_id is None:
            return results
        num_classes = len(class_of_id)
        assert sorted(class_of_id.values()) == list(range(num_classes)), (
            f"thing_dataset_id_to_contiguous_id must map to 0…{num_classes - 1}, got {class_of_id}"
        )
        id_of_class = {class_: id_ for id_, class_ in class_of_id.items()}
        for result in results:
            assert result["category_id"] in id_of_class, (
                f"A predicted class must be in 0…{num_classes - 1}, got {result['category_id']}; "
                "does the model have more classes than the dataset?"
            )
        return [{**r, "category_id": id_of_class[r["category_id"]]} for r in results]

    def _run_cocoeval(
        self, coco_results: list[dict], task: str, img_ids: Sequence[int] | None
    ) -> COCOeval:
        if task == "segm":
            # Without a box the area, which the size classes go by, is that of the mask.
            coco_results = [{k: v for k, v in r.items() if k != "bbox"} for r in coco_results]
        with contextlib.redirect_stdout(io.StringIO()):
            coco_eval = COCOeval(self._coco_api, self._coco_api.loadRes(coco_results), task)
            coco_eval.params.maxDets = self._max_dets_per_image
            if img_ids is not None:
                coco_eval.params.imgIds = img_ids
            coco_eval.evaluate()
            coco_eval.accumulate()
        return coco_eval

    def _derive_coco_results(self, coco_eval: COCOeval, iou_type: str) -> dict[str, float]:
        """Returns the six summary numbers and, if there are several classes, one of each."""
        precision = coco_eval.eval["precision"][..., -1]  # (IoU, recall, class, area)
        area = {name: i for i, name in enumerate(coco_eval.params.areaRngLbl)}
        at_50, at_75 = (np.isclose(coco_eval.params.iouThrs, iou) for iou in (0.5, 0.75))
        slices = (
            precision[..., area["all"]],
            precision[at_50, ..., area["all"]],
            precision[at_75, ..., area["all"]],
            *(precision[..., area[name]] for name in ("small", "medium", "large")),
        )
        results = {name: _mean_percent(part) for name, part in zip(_METRICS, slices)}
        logger.info(f"Evaluation results for {iou_type}:\n{create_small_table(results)}")
        names = self._metadata.get("thing_classes")
        if names is None or len(names) <= 1:
            return results
        assert len(names) == precision.shape[2], (
            f"thing_classes has {len(names)} names but the json has {precision.shape[2]} categories"
        )
        # COCO's order is that of the category ids, which need not be that of the classes.
        class_of_id = self._metadata.get("thing_dataset_id_to_contiguous_id", {})
        order = [class_of_id.get(id_, i) for i, id_ in enumerate(coco_eval.params.catIds)]
        per_class = {
            name: _mean_percent(precision[:, :, order.index(i), area["all"]])
            for i, name in enumerate(names)
        }
        table = tabulate(
            per_class.items(), ["category", "AP"], tablefmt="pipe", floatfmt=".3f", numalign="left"
        )
        logger.info(f"Per-category {iou_type} AP:\n{table}")
        return {**results, **{f"AP-{name}": ap for name, ap in per_class.items()}}


def _mean_percent(precision: np.ndarray) -> float:
    """Returns the mean of the valid entries (not -1) in percent, NaN without any."""
    valid = precision[precision > -1]
    return float(np.mean(valid) * 100) if valid.size else float("nan")


def instances_to_coco_json(instances: Instances, img_id: int) -> list[dict[str, Any]]:
    """Returns one image's detections in COCO's result format, with classes as category ids."""
    if instances.has("pred_keypoints"):
        raise lacks("COCOEvaluator for keypoints (pred_keypoints)")
    if len(instances) == 0:
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    fields = zip(instances.pred_classes.tolist(), boxes.tolist(), instances.scores.tolist())
    results = [
        {"image_id": img_id, "category_id": class_, "bbox": box, "score": score}
        for class_, box, score in fields
    ]
    if instances.has("pred_masks"):
        for result, mask in zip(results, instances.pred_masks):
            result["segmentation"] = _encode(mask.numpy())
    return results


def _encode(mask: np.ndarray) -> dict[str, Any]:
    """The RLE of an (h, w) mask, in the form that fits into JSON."""
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {**rle, "counts": rle["counts"].decode("ascii")}
