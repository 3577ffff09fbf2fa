"""Test-time augmentation: one image at many sizes, mirrored too, and one answer.

Follows the evaluation code of Sparse R-CNN (PeizeSun/SparseR-CNN, MIT): every size keeps the boxes
that suit it (``TEST.AUG.SCALE_RANGES``), and a soft vote merges what is left. Differs from it in:
the other way of merging (``CVPODS_TTA: False``), which uses the last pass only there, is
Detectron2's suppression of overlapping boxes of one class, over all passes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from sparsenet.errors import ConfigError
from sparsenet.modeling.meta_arch.sparse_rcnn import SparseRCNN, postprocess_detections
from sparsenet.ops.boxes import box_area
from sparsenet.ops.soft_vote import soft_vote


class SparseRCNNWithTTA(nn.Module):
    """A trained Sparse R-CNN that looks at each image several times.

    Args:
        cfg: ``TEST.AUG``, and ``MODEL.ROI_HEADS.NMS_THRESH_TEST`` without ``CVPODS_TTA``.
        model: The detector, in evaluation mode when this is called.

    Raises:
        ConfigError: If the model is another one, or sizes and ranges do not belong together.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, SparseRCNN):
            raise ConfigError(
                "TEST.AUG works with MODEL.META_ARCHITECTURE SparseRCNN, got "
                f"{type(model).__name__}. Set TEST.AUG.ENABLED to False."
            )
        node = cfg.TEST.AUG
        if node.SCALE_FILTER and len(node.SCALE_RANGES) != len(node.MIN_SIZES):
            raise ConfigError(
                "TEST.AUG.SCALE_RANGES must have one pair for each of MIN_SIZES, got "
                f"{len(node.SCALE_RANGES)} and {len(node.MIN_SIZES)}. Set SCALE_FILTER to False to "
                "keep all boxes."
            )
        self.model = model
        self.resizes = [T.ResizeShortestEdge([s, s], node.MAX_SIZE) for s in node.MIN_SIZES]
        self.ranges = node.SCALE_RANGES if node.SCALE_FILTER else [(0, np.inf)] * len(self.resizes)
        self.flips = (False, True) if node.FLIP else (False,)
        self.votes = node.CVPODS_TTA
        self.nms_threshold = cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Detections as those of the model; ``image`` is resized from the size it comes in.

        Args:
            batched_inputs: As for the model.
        """
        results = [self._detect(item["image"]) for item in batched_inputs]
        return postprocess_detections(results, batched_inputs)

    def _detect(self, image: Tensor) -> Instances:
        """Merged detections in pixels of an image (C, h, w)."""
        passes = [self._run_pass(*job) for job in self._passes(image)]
        boxes, scores, classes = (torch.cat(parts) for parts in zip(*passes))
        height, width = image.shape[1:]
        if self.votes:
            boxes, scores, classes = soft_vote(boxes, scores, classes)
        else:
            kept = batched_nms(boxes, scores, classes, self.nms_threshold)
            boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
        best = slice(self.model.num_proposals)  # both merges give the best first
        found = Instances((height, width))
        found.pred_boxes = Boxes(boxes[best])
        found.pred_boxes.clip((height, width))
        found.scores, found.pred_classes = scores[best], classes[best]
        return found

    def _passes(self, image: Tensor) -> Iterator[tuple[np.ndarray, T.TransformList, list[float]]]:
        """Pixels (h, w, C), the transforms that lead to a pass, and the box sizes it keeps."""
        pixels = image.permute(1, 2, 0).cpu().numpy()  # (h, w, C)
        for resize, sizes in zip(self.resizes, self.ranges):
            scaled = resize.get_transform(pixels)
            resized = scaled.apply_image(pixels)
            for is_flipped in self.flips:
                mirror = T.HFlipTransform(resized.shape[1]) if is_flipped else T.NoOpTransform()
                yield mirror.apply_image(resized), T.TransformList([scaled, mirror]), sizes

    def _run_pass(
        self, pixels: np.ndarray, transforms: T.TransformList, sizes: list[float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (n, 4) in pixels of the image, scores and classes (n,) of one pass."""
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # (C, h, w)
        (found,) = self.model([{"image": image}], do_postprocess=False)
        boxes = found.pred_boxes.tensor
        side = box_area(boxes).sqrt()
        kept = (side > sizes[0]) & (side < sizes[1])
        found, boxes = found[kept], boxes[kept]
        back = transforms.inverse().apply_box(boxes.double().cpu().numpy())
        return torch.from_numpy(back).to(boxes), found.scores, found.pred_classes
