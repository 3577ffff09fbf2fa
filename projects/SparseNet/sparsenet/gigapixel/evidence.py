"""Where a coarse look at an image expects objects, of which size, and how surely.

What decides on finer tiles: the detections of coarser ones and, from models with dense first
proposals (``PROPOSAL_INIT: dense``), their objectness, which also sees objects that are still too
small to be detected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsenet.gigapixel.options import TileOptions
from sparsenet.gigapixel.tile_batch import reaches_seam
from sparsenet.modeling.head.dense_proposals import DenseOutput, DenseProposals
from sparsenet.tiling import Tile, boxes_to_image

# Locations of the objectness map kept per tile, best first: a dense crowd has fewer objects.
_MAX_LOCATIONS = 200


@dataclass(frozen=True, eq=False)
class Evidence:
    """N expected objects.

    Args:
        centres_xy: (N, 2) float64, full-image pixels.
        sides: (N,) float64, longer side, full-image pixels.
        scores: (N,) float64 in [0, 1].
    """

    centres_xy: np.ndarray
    sides: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: np.ndarray) -> Evidence:
        return Evidence(self.centres_xy[index], self.sides[index], self.scores[index])

    @staticmethod
    def empty() -> Evidence:
        """No expected objects."""
        return Evidence(np.zeros((0, 2)), np.zeros(0), np.zeros(0))

    @staticmethod
    def cat(parts: Sequence[Evidence]) -> Evidence:
        """All expected objects of several parts, in order."""
        parts = [Evidence.empty(), *parts]
        return Evidence(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in _FIELDS))

    @staticmethod
    def from_boxes(
        boxes_in_tile: np.ndarray, scores: np.ndarray, tile: Tile, options: TileOptions
    ) -> Evidence:
        """The boxes of one tile that are sure enough and not cut by a seam.

        What a seam cuts looks smaller than it is, and is seen whole by the neighbour, or is too
        large to want a finer look.

        Args:
            boxes_in_tile: (N, 4) XYXY, tile pixels.
            scores: (N,).
            tile: Where the tile lies.
            options: ``select.threshold`` and the seam margins.
        """
        window = np.array(tile.window.xyxy, dtype=np.float64)
        boxes = boxes_to_image(boxes_in_tile.astype(np.float64), tile.window, tile.downsample)
        boxes = boxes.clip(np.tile(window[:2], 2), np.tile(window[2:], 2))
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        is_cut = reaches_seam(boxes, tile, options.seam_margin, options.seam_margin_share)
        keep = has_area & ~is_cut & (scores >= options.select.threshold)
        boxes = boxes[keep]
        return Evidence(
            centres_xy=(boxes[:, :2] + boxes[:, 2:]) / 2,
            sides=(boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0.0),
            scores=scores[keep].astype(np.float64),
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, for ``np.savez``."""
        return {field.name: getattr(self, field.name) for field in _FIELDS}

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> Evidence:
        """Undoes :meth:`to_arrays`."""
        return Evidence(**{field.name: arrays[field.name] for field in _FIELDS})


_FIELDS = fields(Evidence)


class ObjectnessTap:
    """Reads the objectness that a model's dense branch computes anyway in a forward pass.

    It reads within a ``with`` block; otherwise the model is as it was.

    Args:
        dense: The branch.
    """

    def __init__(self, dense: DenseProposals) -> None:
        self._dense = dense
        self._boxes = np.zeros((0, 0, 4))
        self._scores = np.zeros((0, 0))

    def __enter__(self) -> None:
        self._hook = self._dense.register_forward_hook(self._read)

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    @staticmethod
    def of_model(model: Any) -> ObjectnessTap | None:
        """A tap on a model's dense branch; None where it has none."""
        modules = model.modules() if isinstance(model, nn.Module) else ()
        dense = next((m for m in modules if isinstance(m, DenseProposals)), None)
        return ObjectnessTap(dense) if dense is not None else None

    def _read(self, module: nn.Module, inputs: Any, output: DenseOutput) -> None:
        prob = output.logits.detach().masked_fill(~output.is_inside, -torch.inf).sigmoid()
        scores, index = prob.topk(min(_MAX_LOCATIONS, prob.shape[1]))  # (N, K)
        boxes = output.boxes_xyxy.detach().gather(1, index[..., None].expand(-1, -1, 4))
        self._scores, self._boxes = scores.float().cpu().numpy(), boxes.float().cpu().numpy()

    def evidence(self, index: int, tile: Tile, options: TileOptions) -> Evidence:
        """What was seen in image ``index`` of the last forward pass, which showed ``tile``."""
        return Evidence.from_boxes(self._boxes[index], self._scores[index], tile, options)
