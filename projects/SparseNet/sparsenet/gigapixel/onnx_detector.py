"""YOLOX exported to ONNX, as a detector function for :class:`CallableDetector`.

    detector = OnnxYoloxDetector("yolox_nano.onnx")
    predictor = GigapixelPredictor(CallableDetector(detector), tile=TileOptions(size=416))
    result = predictor("image.jpg")

The model takes BGR pictures of 0 to 255, letterboxed with grey, and returns a grid that is decoded
here. YOLOX: Ge et al., arXiv 2107.08430, github.com/Megvii-BaseDetection/YOLOX (Apache-2.0).
Differs from its demo in: suppression per class only, by torchvision.
"""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
import torch
from torchvision.ops import batched_nms

from sparsenet.errors import CheckpointError, MissingDependencyError

_STRIDES = (8, 16, 32)
_GREY = 114


class OnnxYoloxDetector:
    """Detects in pictures of any size; each is letterboxed to the model's input.

    Args:
        path: The ONNX file; its output is (B, anchors, 5 + classes), not decoded.
        score_threshold: Objectness times class probability.
        iou_threshold: Of the suppression within a picture and class.
        num_threads: Of onnxruntime; 0 lets it choose.

    Raises:
        CheckpointError: If the file cannot be loaded.
        MissingDependencyError: If onnxruntime is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        score_threshold: float = 0.3,
        iou_threshold: float = 0.45,
        num_threads: int = 0,
    ) -> None:
        self._session = _open_session(path, num_threads)
        model_input = self._session.get_inputs()[0]
        self._input_name = model_input.name
        self._batch_size = model_input.shape[0]
        self.input_size: tuple[int, int] = tuple(model_input.shape[2:])
        self._score_threshold = score_threshold
        self._iou_threshold = iou_threshold
        self._cells, self._strides = _grid_cells(self.input_size)

    def __call__(self, pictures: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Boxes (N, 4) XYXY, scores (N,) and classes (N,) of each of (B, H, W, 3) uint8 RGB."""
        height, width = pictures.shape[1:3]
        scale = min(self.input_size[0] / height, self.input_size[1] / width)
        inputs = np.stack([self._letterbox(picture, scale) for picture in pictures])
        # An export has a fixed batch size, usually 1, or a name in its place, which takes any.
        step = self._batch_size if isinstance(self._batch_size, int) else len(inputs)
        outputs = [
            self._session.run(None, {self._input_name: inputs[i : i + step]})[0]
            for i in range(0, len(inputs), step)
        ]
        return [self._decode(grid, scale) for grid in np.concatenate(outputs)]

    def _letterbox(self, picture: np.ndarray, scale: float) -> np.ndarray:
        """(3, h, w) float32 BGR in the upper left corner of the model's input."""
        height, width = picture.shape[:2]
        size = round(width * scale), round(height * scale)
        if size != (width, height):
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        canvas = np.full((3, *self.input_size), _GREY, dtype=np.float32)
        canvas[:, : size[1], : size[0]] = picture[:, :, ::-1].transpose(2, 0, 1)
        return canvas

    def _decode(self, grid: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One picture's (anchors, 5 + classes): centre, log size, objectness, classes."""
        probabilities = grid[:, 4:5] * grid[:, 5:]
        classes = probabilities.argmax(axis=1)
        scores = probabilities[np.arange(len(grid)), classes]
        keep = scores >= self._score_threshold
        grid, classes, scores = grid[keep], classes[keep], scores[keep]
        centre = (grid[:, :2] + self._cells[keep]) * self._strides[keep]
        half = np.exp(grid[:, 2:4]) * self._strides[keep] / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1) / scale
        kept = batched_nms(
            torch.from_numpy(boxes),
            torch.from_numpy(scores),
            torch.from_numpy(classes),
            self._iou_threshold,
        ).numpy()
        return boxes[kept], scores[kept], classes[kept]


def _open_session(path: str | os.PathLike[str], num_threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "OnnxYoloxDetector needs onnxruntime, which is not installed. "
            "Install it with `pip install 'sparsenet[onnx]'`."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    try:
        return onnxruntime.InferenceSession(
            os.fspath(path), options, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # onnxruntime's own errors share no base but this
        raise CheckpointError(
            f"{path} must be an ONNX model that onnxruntime can load, it could not: {error}. "
            "Check the path and the file."
        ) from error


def _grid_cells(input_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(A, 2) float32 x, y of the cell and (A, 1) float32 stride of every anchor."""
    cells, strides = [], []
    for stride in _STRIDES:
        rows, columns = (side // stride for side in input_size)
        y, x = np.mgrid[:rows, :columns]
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((rows * columns, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)
