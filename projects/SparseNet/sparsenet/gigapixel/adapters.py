"""Any detector in, supervision's detections out.

``GigapixelPredictor(CallableDetector(detect), class_names=...)`` streams, tiles and merges for any
function that finds objects in a batch of pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from sparsenet.errors import ConfigError, MissingDependencyError
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.masks import decode_mask, mask_windows

# Boxes (N, 4) XYXY in pixels of the picture, scores (N,), class indices (N,).
Found = tuple[Any, Any, Any]
DetectFunction = Callable[[np.ndarray], Sequence[Found]]


class CallableDetector(nn.Module):
    """Lets a predictor run a plain function in place of a Detectron2 model.

    Args:
        detect: Takes (B, H, W, 3) uint8 RGB pictures and returns, for each, boxes (N, 4) XYXY in
            its pixels, scores (N,) in [0, 1] and class indices (N,): arrays, tensors or lists. The
            predictor must hand it RGB, which is the default of its ``image_format``. To keep its
            tile rows, the predictor must be told what it is, as ``settings``.

    Raises:
        ConfigError: On a call, if the function returns something else.
    """

    def __init__(self, detect: DetectFunction) -> None:
        super().__init__()
        self._detect = detect

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Detectron2's protocol: dicts with ``image`` in, dicts with ``instances`` out."""
        pictures = torch.stack([item["image"] for item in inputs])  # (B, 3, H, W)
        pictures = pictures.permute(0, 2, 3, 1)  # (B, H, W, 3)
        found = self._detect(np.ascontiguousarray(pictures.cpu().numpy()))
        if len(found) != len(inputs):
            raise ConfigError(
                "A detector function must return one (boxes, scores, classes) per picture; got "
                f"{len(found)} for {len(inputs)} pictures."
            )
        size = tuple(pictures.shape[1:3])
        return [{"instances": _instances(one, size)} for one in found]


def _instances(found: Found, size: tuple[int, ...]) -> Instances:
    boxes, scores, classes = (torch.as_tensor(np.asarray(part)) for part in found)
    boxes = boxes.reshape(-1, 4) if boxes.numel() == 0 else boxes
    if boxes.shape != (len(scores), 4) or classes.shape != scores.shape or scores.ndim != 1:
        raise ConfigError(
            "A detector function must return boxes (N, 4), scores (N,) and classes (N,) of every "
            f"picture; got {tuple(boxes.shape)}, {tuple(scores.shape)}, {tuple(classes.shape)}."
        )
    return Instances(
        size, pred_boxes=Boxes(boxes.float()), scores=scores.float(), pred_classes=classes.long()
    )


def to_supervision(detections: Detections) -> Any:
    """A ``supervision.Detections`` with ``class_name`` and ``truncated`` among its data.

    Masks come along as bitmaps of the whole image, as supervision holds them: N times its size.

    Raises:
        MissingDependencyError: If supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise MissingDependencyError(
            "to_supervision needs supervision, which is not installed. Install it with "
            "`pip install supervision`."
        ) from error
    from sparsenet.gigapixel.exports import class_name

    names = [class_name(detections.class_names, index) for index in detections.classes.tolist()]
    return supervision.Detections(
        xyxy=detections.boxes_xyxy.copy(),
        confidence=detections.scores.copy(),
        class_id=detections.classes.copy(),
        mask=_bitmaps(detections),
        data={"class_name": np.array(names, dtype=str), "truncated": detections.truncated.copy()},
    )


def _bitmaps(detections: Detections) -> np.ndarray | None:
    """(N, H, W) bool masks of the whole image."""
    if detections.masks is None:
        return None
    pixels = np.zeros((len(detections), *detections.image_size), dtype=bool)
    windows = mask_windows(detections.boxes_xyxy).tolist()
    for picture, run_lengths, (x1, y1, x2, y2) in zip(pixels, detections.masks, windows):
        picture[y1:y2, x1:x2] = decode_mask(run_lengths)
    return pixels
