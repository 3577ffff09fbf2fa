"""COCO results, which pycocotools and its kin read, and the results that PANDA's server takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsenet.errors import ConfigError
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports.rows import DIGITS, rows
from sparsenet.gigapixel.masks import mask_in_image

# The evaluation of PANDA looks at no more per image.
PANDA_MAX_DETECTIONS = 500


def to_coco(
    detections: Detections,
    image_id: int | str = 0,
    category_ids: Sequence[int] | Mapping[int, int] | None = None,
) -> list[dict[str, Any]]:
    """COCO results, best first as the detections come.

    Args:
        detections: Of one image.
        image_id: Its id in the annotation file.
        category_ids: The file's category id by contiguous class index; None counts from 1.

    Returns:
        Dicts with ``image_id``, ``category_id``, ``bbox`` (x, y, width, height), ``score`` and,
        where there are masks, ``segmentation`` (compressed run lengths of the whole image; beyond
        2**32 pixels, where COCO's run lengths end, polygons).

    Raises:
        ConfigError: If a class has no category id.
    """
    used = set(detections.classes.tolist())
    if category_ids is None:
        category_ids = {index: index + 1 for index in used}
    known = range(len(category_ids)) if isinstance(category_ids, Sequence) else category_ids
    missing = sorted(used - set(known))
    if missing:
        raise ConfigError(
            f"category_ids must name a category for every class, none came for {missing}. "
            "Pass one id per class, in the order of the class names."
        )
    results = []
    for number, ((x1, y1, x2, y2), score, index) in enumerate(rows(detections)):
        box = [x1, y1, round(x2 - x1, DIGITS), round(y2 - y1, DIGITS)]
        category = category_ids[index]
        result: dict[str, Any] = {
            "image_id": image_id,
            "category_id": category,
            "bbox": box,
            "score": score,
        }
        if detections.masks is not None:
            result["segmentation"] = mask_in_image(
                detections.masks[number], detections.boxes_xyxy[number], detections.image_size
            )
        results.append(result)
    return results


def to_panda(
    detections: Detections,
    image_id: int | str = 0,
    category_ids: Sequence[int] | Mapping[int, int] | None = None,
) -> list[dict[str, Any]]:
    """PANDA's results: COCO results of boxes in whole pixels, the best 500 of the image.

    Args:
        detections: Of one image.
        image_id: The ``image id`` of PANDA's annotation file.
        category_ids: PANDA counts 1 visible body, 2 full body, 3 head, 4 vehicle. None counts from
            1, which is right only for a model of these four classes.

    Raises:
        ConfigError: If a class has no category id.
    """
    ranked = detections[(-detections.scores).argsort(kind="stable")[:PANDA_MAX_DETECTIONS]]
    results = to_coco(ranked, image_id, category_ids)
    for result, box in zip(results, ranked.boxes_xyxy.round().astype(int).tolist()):
        result["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        result.pop("segmentation", None)
    return results
