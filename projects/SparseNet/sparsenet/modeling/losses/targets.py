"""Ground truth of a batch as padded tensors, so that costs of all images are computed at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sparsenet.errors import AnnotationError


@dataclass(frozen=True)
class DetectionTargets:
    """Targets of N images, padded to the largest number of objects G (zero boxes, class 0).

    Attributes:
        classes: ``(N, G)`` int64.
        boxes_xyxy: ``(N, G, 4)`` pixels of the network input.
        counts: objects of each image; rows beyond are padding.
        image_whwh: ``(N, 4)`` width, height, width, height of each unpadded input.
        ignore_xyxy: ``(N, I, 4)`` ignore boxes; padding rows have no area.
    """

    classes: Tensor
    boxes_xyxy: Tensor
    counts: tuple[int, ...]
    image_whwh: Tensor
    ignore_xyxy: Tensor

    @classmethod
    def from_instances(
        cls,
        instances: Sequence[Instances],
        image_whwh: Tensor,
        *,
        num_classes: int,
        ignore_boxes: Sequence[Boxes | None] | None = None,
    ) -> DetectionTargets:
        """Packs Detectron2 instances and moves them to the device of ``image_whwh``.

        Args:
            instances: per image, with ``gt_boxes`` and ``gt_classes`` on any device.
            image_whwh: ``(N, 4)``; its device and dtype become those of the targets.
            num_classes: classes must lie in [0, num_classes).
            ignore_boxes: per image, or None where an image has none.

        Raises:
            AnnotationError: a class outside the range.
        """
        classes = [item.gt_classes for item in instances]
        _check_classes(classes, num_classes)
        ignored = ignore_boxes or [None] * len(instances)
        return cls(
            classes=_pad(classes).to(image_whwh.device),
            boxes_xyxy=_pad([item.gt_boxes.tensor for item in instances]).to(image_whwh),
            counts=tuple(len(item) for item in instances),
            image_whwh=image_whwh,
            ignore_xyxy=_pad(
                [image_whwh.new_zeros(0, 4) if b is None else b.tensor for b in ignored]
            ).to(image_whwh),
        )

    @property
    def num_objects(self) -> int:
        """Objects of the whole batch."""
        return sum(self.counts)

    @property
    def is_object(self) -> Tensor:
        """``(N, G)`` False on padding."""
        counts = torch.tensor(self.counts, device=self.classes.device)
        slots = torch.arange(self.classes.shape[1], device=self.classes.device)
        return slots < counts[:, None]


def _pad(rows: list[Tensor]) -> Tensor:
    return pad_sequence(rows, batch_first=True)


def _check_classes(classes: list[Tensor], num_classes: int) -> None:
    """Checks what is still on the host: on a device this would force a synchronisation."""
    for image, labels in enumerate(classes):
        if labels.device.type != "cpu" or not len(labels):
            continue
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise AnnotationError(
                f"Classes must lie in [0, {num_classes}) (MODEL.SparseRCNN.NUM_CLASSES), got "
                f"{low} to {high} in image {image} of the batch. Set NUM_CLASSES to the classes of "
                "the dataset."
            )
