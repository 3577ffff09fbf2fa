"""The head of Sparse R-CNN step by step, as the paper's project lays it out: to compare with.

Paper: Sparse R-CNN, section 3, arXiv 2011.12450. Upstream: PeizeSun/SparseR-CNN (MIT).
Differs from it in: written anew from a description, not its code; weights are those of our
``DynamicHead``. Against that one, proposals of all images are one row (1, N·P, d) that is
re-arranged for each step, regions are pooled per level by Detectron2's ``ROIPooler``, positions
lead in the pooled maps, and attention also returns its weights.

Shorthand: N images, P proposals each, d channels, s × s cells per region.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor

from sparsenet.modeling.head.dynamic_head import DynamicConv, DynamicHead, HeadOutput, RCNNStage
from sparsenet.ops.boxes import apply_deltas


class ReferenceHead(DynamicHead):
    """Computes what ``DynamicHead`` computes, for ``tools/benchmark_detector.py --peer``."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """As ``DynamicHead``, with Detectron2's pooler."""
        node = cfg.MODEL.ROI_BOX_HEAD
        pooler = ROIPooler(
            output_size=node.POOLER_RESOLUTION,
            scales=tuple(1.0 / shape.stride for shape in input_shape.values()),
            sampling_ratio=node.POOLER_SAMPLING_RATIO,
            pooler_type=node.POOLER_TYPE,
        )
        return {**super().from_config(cfg, input_shape), "pooler": pooler}

    def forward(self, features: list[Tensor], boxes_xyxy: Tensor, proposals: Tensor) -> HeadOutput:
        """See ``DynamicHead.forward``."""
        num_images, num_proposals = boxes_xyxy.shape[:2]
        objects = proposals.reshape(1, num_images * num_proposals, -1)  # (1, N*P, d)
        all_logits, all_boxes = [], []
        for stage in self.head_series:
            regions = self.box_pooler(features, [Boxes(boxes) for boxes in boxes_xyxy])
            regions = regions.flatten(2).permute(2, 0, 1)  # (s*s, N*P, d)
            logits, boxes, objects = _run_stage(stage, regions, boxes_xyxy, objects)
            boxes_xyxy = boxes.detach()
            all_logits.append(logits)
            all_boxes.append(boxes)
        if not self.return_all_stages:
            all_logits, all_boxes = all_logits[-1:], all_boxes[-1:]
        objects = objects.view(num_images, num_proposals, -1)  # (N, P, d)
        return HeadOutput(torch.stack(all_logits), torch.stack(all_boxes), objects)


def _run_stage(
    stage: RCNNStage, regions: Tensor, boxes_xyxy: Tensor, objects: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, P, K), boxes (N, P, 4) and objects (1, N·P, d) of one stage."""
    num_images, num_proposals = boxes_xyxy.shape[:2]
    x = objects.view(num_images, num_proposals, -1)  # (N, P, d)
    x = stage.norm1(x + stage.dropout1(stage.self_attn(x, x, x)[0]))
    x = x.reshape(1, num_images * num_proposals, -1)  # (1, N*P, d)
    x = stage.norm2(x + stage.dropout2(_interact(stage.inst_interact, x, regions)))
    hidden = stage.linear2(stage.dropout(stage.activation(stage.linear1(x))))
    objects = stage.norm3(x + stage.dropout3(hidden))
    rows = objects[0]  # (N*P, d)
    logits = stage.class_logits(stage.cls_module(rows))  # (N*P, K)
    deltas = stage.bboxes_delta(stage.reg_module(rows))  # (N*P, 4)
    boxes = apply_deltas(deltas, boxes_xyxy.view(-1, 4))  # (N*P, 4)
    shape = (num_images, num_proposals, -1)
    return logits.view(shape), boxes.view(shape), objects


def _interact(module: DynamicConv, objects: Tensor, regions: Tensor) -> Tensor:
    """Two products with generated weights per object: (1, N·P, d)."""
    d, inner = module.hidden_dim, module.dim_dynamic
    x = regions.permute(1, 0, 2)  # (N*P, s*s, d)
    weights = module.dynamic_layer(objects).permute(1, 0, 2)  # (N*P, 1, 2*d*inner)
    weights1 = weights[:, :, : d * inner].reshape(-1, d, inner)
    weights2 = weights[:, :, d * inner :].reshape(-1, inner, d)
    x = F.relu(module.norm1(torch.bmm(x, weights1)))  # (N*P, s*s, inner)
    x = F.relu(module.norm2(torch.bmm(x, weights2)))  # (N*P, s*s, d)
    x = module.out_layer(x.flatten(1))  # (N*P, d)
    return F.relu(module.norm3(x)).unsqueeze(0)  # (1, N*P, d)
