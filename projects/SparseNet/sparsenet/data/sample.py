"""An image with its objects, as augmentations change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from pycocotools import mask as coco_mask

from sparsenet.errors import AnnotationError

Polygons = list[np.ndarray]  # parts of one object, each (K, 2) points x, y


@dataclass(frozen=True)
class Sample:
    """One training image; augmentations give new ones.

    Args:
        image: (h, w, 3) uint8.
        boxes_xyxy: (N, 4) float32, pixels of ``image``.
        classes: (N,) int64.
        is_ignore: (N,) bool; crowds, and objects that can no longer be made out.
        visible: (N,) float32; share of each object that augmentations have left.
        polygons: Outlines of each object; None without masks.
    """

    image: np.ndarray
    boxes_xyxy: np.ndarray
    classes: np.ndarray
    is_ignore: np.ndarray
    visible: np.ndarray
    polygons: tuple[Polygons, ...] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the image."""
        return self.image.shape[:2]

    @classmethod
    def from_annotations(
        cls, image: np.ndarray, annotations: Sequence[dict[str, Any]], *, has_masks: bool = False
    ) -> Sample:
        """Builds a sample from Detectron2's annotations.

        Args:
            has_masks: Keep ``segmentation``; run-length masks are traced.

        Raises:
            AnnotationError: If masks are wanted and an object, no crowd, has none.
        """
        if has_masks:
            _require_masks(annotations)
        boxes = [
            BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations
        ]
        outlines = (_polygons(a.get("segmentation") or []) for a in annotations)
        return cls(
            image=image,
            boxes_xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            classes=np.array([a["category_id"] for a in annotations], dtype=np.int64),
            is_ignore=np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool),
            visible=np.ones(len(annotations), dtype=np.float32),
            polygons=tuple(outlines) if has_masks else None,
        )

    def select(self, index: np.ndarray) -> Sample:
        """The same image with some of the objects: (M,) indices or (N,) bool."""
        chosen = np.arange(len(self.classes))[index]
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[chosen],
            classes=self.classes[chosen],
            is_ignore=self.is_ignore[chosen],
            visible=self.visible[chosen],
            polygons=None if self.polygons is None else tuple(self.polygons[i] for i in chosen),
        )

    def transformed(self, transform: T.Transform) -> Sample:
        """Image and objects transformed; what leaves the image is cut off.

        A box that has an outline is drawn anew around it, tighter than the corners of a turned box.
        """
        moved = replace(self, image=transform.apply_image(self.image))
        moved = moved._with_points(transform)
        height, width = moved.size
        return moved.cropped_to((0, 0, width, height))

    def shifted(self, x: float, y: float) -> Sample:
        """The objects moved; the image stays."""
        offset = np.array([x, y])
        outlines = None
        if self.polygons is not None:
            outlines = tuple([part + offset for part in parts] for parts in self.polygons)
        boxes = (self.boxes_xyxy + np.tile(offset, 2)).astype(np.float32)
        return replace(self, boxes_xyxy=boxes, polygons=outlines)

    def cropped_to(self, region: tuple[float, float, float, float]) -> Sample:
        """The objects inside a region (x, y, x2, y2); coordinates and the image stay.

        Objects outside are dropped, shares of the others are noted in ``visible``.
        """
        whole = self.boxes_xyxy
        low, high = np.tile(region[:2], 2), np.tile(region[2:], 2)
        boxes = whole.clip(low, high).astype(np.float32)
        share = _area(boxes) / np.maximum(_area(whole), 1e-9)
        polygons = self.polygons
        if polygons is not None:
            polygons = tuple(
                parts if share[i] >= 1 else _clip_polygons(parts, region)
                for i, parts in enumerate(polygons)
            )
            boxes = _tight_boxes(boxes, polygons)
        cut = replace(self, boxes_xyxy=boxes, visible=self.visible * share, polygons=polygons)
        return cut.select((boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (share > 0))

    def _with_points(self, transform: T.Transform) -> Sample:
        if not len(self.classes):
            return self
        boxes = transform.apply_box(self.boxes_xyxy.astype(np.float64)).astype(np.float32)
        polygons = self.polygons
        if polygons is not None:
            polygons = tuple(
                [transform.apply_coords(part.copy()) for part in parts] for parts in polygons
            )
            boxes = _tight_boxes(boxes, polygons)
        return replace(self, boxes_xyxy=boxes, polygons=polygons)

    def to_example(self, mask_format: str | None = None) -> dict[str, Any]:
        """The model's input: ``image``, ``instances`` and ``ignore_boxes``.

        Args:
            mask_format: "polygon" or "bitmask" adds ``gt_masks``; objects without an outline are
                then ignore boxes.
        """
        is_ignore = self.is_ignore
        if mask_format:
            assert self.polygons is not None, "masks are wanted of a sample that was read without"
            is_ignore = is_ignore | np.array([not parts for parts in self.polygons], dtype=bool)
        objects = self.select(~is_ignore)
        instances = Instances(self.size)
        instances.gt_boxes = Boxes(torch.from_numpy(objects.boxes_xyxy))
        instances.gt_classes = torch.from_numpy(objects.classes)
        if mask_format:
            rows = [[part.reshape(-1) for part in parts] for parts in objects.polygons or ()]
            instances.gt_masks = (
                PolygonMasks(rows)
                if mask_format == "polygon"
                else BitMasks.from_polygon_masks(PolygonMasks(rows), *self.size)
            )
        return {
            "image": torch.from_numpy(np.ascontiguousarray(self.image.transpose(2, 0, 1))),
            "instances": instances,
            "ignore_boxes": Boxes(torch.from_numpy(self.boxes_xyxy[is_ignore])),
        }


@dataclass(frozen=True)
class VisibilityLimits:
    """When an augmented object can still be learned from; the others become ignore boxes.

    Args:
        min_visible: Share of its area that is left.
        min_side: Shorter side, pixels.
        max_aspect: Longer by shorter side.
    """

    min_visible: float = 0.2
    min_side: float = 2.0
    max_aspect: float = 20.0

    def applied(self, sample: Sample) -> Sample:
        """The sample with ignore boxes in place of objects beyond the limits."""
        sides = sample.boxes_xyxy[:, 2:] - sample.boxes_xyxy[:, :2]
        short, long = sides.min(axis=1, initial=np.inf), sides.max(axis=1, initial=0.0)
        is_bad = (sample.visible < self.min_visible) | (short < self.min_side)
        is_bad |= long > self.max_aspect * short
        return replace(sample, is_ignore=sample.is_ignore | is_bad)


def joined(image: np.ndarray, samples: Sequence[Sample]) -> Sample:
    """The objects of all samples, whose coordinates are those of ``image``, on one image."""
    outlines = [sample.polygons for sample in samples if sample.polygons is not None]
    return Sample(
        image=image,
        boxes_xyxy=np.concatenate([sample.boxes_xyxy for sample in samples]),
        classes=np.concatenate([sample.classes for sample in samples]),
        is_ignore=np.concatenate([sample.is_ignore for sample in samples]),
        visible=np.concatenate([sample.visible for sample in samples]),
        polygons=tuple(chain(*outlines)) if len(outlines) == len(samples) else None,
    )


def _area(boxes_xyxy: np.ndarray) -> np.ndarray:
    return np.prod((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clip(min=0), axis=1)


def _tight_boxes(boxes_xyxy: np.ndarray, polygons: Sequence[Polygons]) -> np.ndarray:
    """Boxes around outlines; objects without keep theirs."""
    boxes = boxes_xyxy.copy()
    for box, parts in zip(boxes, polygons):
        if parts:
            points = np.concatenate(parts)
            box[:2], box[2:] = points.min(axis=0), points.max(axis=0)
    return boxes


def _require_masks(annotations: Sequence[dict[str, Any]]) -> None:
    for number, annotation in enumerate(annotations):
        if not annotation.get("segmentation") and not annotation.get("iscrowd", 0):
            raise AnnotationError(
                "With MODEL.MASK_ON every object must have a segmentation, annotation "
                f"{number} of its image has none: {annotation}. Add it, or set MASK_ON to False."
            )


def _polygons(segmentation: list[Any] | dict[str, Any]) -> Polygons:
    """Outlines of COCO's polygons or run lengths."""
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, *segmentation["size"])
        found, _ = cv2.findContours(
            coco_mask.decode(segmentation), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        # Contours run through pixel centres.
        return [part[:, 0].astype(np.float64) + 0.5 for part in found if len(part) >= 3]
    return [np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in segmentation]


def _clip_polygons(parts: Polygons, region: tuple[float, float, float, float]) -> Polygons:
    clipped = (_clip_polygon(part, region) for part in parts)
    return [part for part in clipped if len(part) >= 3]


def _clip_polygon(points: np.ndarray, region: tuple[float, float, float, float]) -> np.ndarray:
    """Sutherland and Hodgman's clipping of one polygon (K, 2) by the four sides of a region."""
    x, y, x2, y2 = region
    for axis, limit, sign in ((0, x, 1), (1, y, 1), (0, x2, -1), (1, y2, -1)):
        if not len(points):
            break
        depth = sign * (points[:, axis] - limit)
        before, depth_before = np.roll(points, 1, axis=0), np.roll(depth, 1)
        kept = []
        for point, d, last, d_last in zip(points, depth, before, depth_before):
            if (d >= 0) != (d_last >= 0):
                kept.append(last + (point - last) * (d_last / (d_last - d)))
            if d >= 0:
                kept.append(point)
        points = np.array(kept).reshape(-1, 2)
    return points
