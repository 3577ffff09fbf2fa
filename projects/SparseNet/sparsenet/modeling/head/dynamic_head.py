"""The cascade of dynamic instance heads of Sparse R-CNN.

Paper: Sparse R-CNN: End-to-End Object Detection with Learnable Proposals, section 3, arXiv
2011.12450. Upstream: PeizeSun/SparseR-CNN (MIT); state_dict keys are the same.
Differs from it in: proposals keep the layout (images, proposals, channels) throughout; boxes are
decoded and pooled in float32 under autocast; the bias prior is set on ``class_logits`` by module,
where upstream fills every tensor whose last side equals the number of classes.
"""

import logging
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes
from torch import Tensor, nn

from sparsenet.errors import ConfigError
from sparsenet.modeling.head.box_pooler import BoxPooler
from sparsenet.ops.boxes import apply_deltas
from sparsenet.ops.precision import at_least_float32, without_autocast
from sparsenet.ops.roi_pool import FeatureTable

logger = logging.getLogger(__name__)

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "glu": F.glu}


@dataclass(frozen=True)
class StageOptions:
    """Sizes of one stage; the names follow MODEL.SparseRCNN.

    Attributes:
        num_logits: classes, plus one for the background in the softmax variant.
        hidden_dim: channels d of proposals and of the feature pyramid.
        dim_dynamic: inner width of the two generated layers.
        dim_feedforward: width of the feed-forward network.
        num_attention_heads: must divide ``hidden_dim``.
        pooler_resolution: side of the pooled grid.
    """

    num_logits: int
    hidden_dim: int = 256
    dim_dynamic: int = 64
    dim_feedforward: int = 2048
    num_attention_heads: int = 8
    num_cls_layers: int = 1
    num_reg_layers: int = 3
    dropout: float = 0.0
    activation: str = "relu"
    pooler_resolution: int = 7

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"MODEL.SparseRCNN.ACTIVATION must be one of {sorted(ACTIVATIONS)}, got "
                f"{self.activation!r}. Choose one of them."
            )
        if self.hidden_dim % self.num_attention_heads:
            raise ConfigError(
                "MODEL.SparseRCNN.NHEADS must divide HIDDEN_DIM, got "
                f"NHEADS {self.num_attention_heads} and HIDDEN_DIM {self.hidden_dim}. Change one."
            )
        if self.activation == "glu" and self.dim_feedforward % 2:
            raise ConfigError(
                "MODEL.SparseRCNN.DIM_FEEDFORWARD must be even with ACTIVATION 'glu', which halves "
                f"it, got {self.dim_feedforward}. Use an even width."
            )


class HeadOutput(NamedTuple):
    """What the head predicts.

    Attributes:
        logits: ``(S, N, P, K)``; S is 1 without deep supervision.
        boxes_xyxy: ``(S, N, P, 4)`` in pixels of the network input.
        features: ``(N, P, d)`` object features of the last stage.
    """

    logits: Tensor
    boxes_xyxy: Tensor
    features: Tensor


class DynamicConv(nn.Module):
    """Dynamic instance interaction: two 1 x 1 layers with weights that each proposal generates."""

    def __init__(self, hidden_dim: int, dim_dynamic: int, pooler_resolution: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.dim_dynamic = dim_dynamic
        self.dynamic_layer = nn.Linear(hidden_dim, 2 * hidden_dim * dim_dynamic)
        self.norm1 = nn.LayerNorm(dim_dynamic)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.out_layer = nn.Linear(hidden_dim * pooler_resolution**2, hidden_dim)
        self.norm3 = nn.LayerNorm(hidden_dim)

    def forward(self, proposals: Tensor, roi_features: Tensor) -> Tensor:
        """Filters the features of each region by its own proposal.

        Args:
            proposals: ``(B, d)``.
            roi_features: ``(B, d, s, s)``.

        Returns:
            ``(B, d)``.
        """
        d, inner = self.hidden_dim, self.dim_dynamic
        weights1, weights2 = self.dynamic_layer(proposals).split(d * inner, dim=1)
        x = roi_features.flatten(2).transpose(1, 2)  # (B, s*s, d)
        x = torch.bmm(x, weights1.reshape(-1, d, inner))  # (B, s*s, inner)
        x = F.relu(self.norm1(x))
        x = torch.bmm(x, weights2.reshape(-1, inner, d))  # (B, s*s, d)
        x = F.relu(self.norm2(x))
        x = self.out_layer(x.flatten(1))  # (B, d)
        return F.relu(self.norm3(x))


class RCNNStage(nn.Module):
    """One stage: attention between proposals, dynamic interaction, feed-forward, two towers."""

    def __init__(self, options: StageOptions) -> None:
        super().__init__()
        d, dropout = options.hidden_dim, options.dropout
        self.self_attn = nn.MultiheadAttention(
            d, options.num_attention_heads, dropout=dropout, batch_first=True
        )
        self.inst_interact = DynamicConv(d, options.dim_dynamic, options.pooler_resolution)
        is_gated = options.activation == "glu"
        self.linear1 = nn.Linear(d, options.dim_feedforward)
        self.linear2 = nn.Linear(options.dim_feedforward // (2 if is_gated else 1), d)
        self.activation = ACTIVATIONS[options.activation]
        self.dropout = nn.Dropout(dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d) for _ in range(3))
        self.dropout1, self.dropout2, self.dropout3 = (nn.Dropout(dropout) for _ in range(3))
        self.cls_module = _tower(d, options.num_cls_layers)
        self.reg_module = _tower(d, options.num_reg_layers)
        self.class_logits = nn.Linear(d, options.num_logits)
        self.bboxes_delta = nn.Linear(d, 4)

    def forward(
        self, roi_features: Tensor, boxes_xyxy: Tensor, proposals: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Refines every proposal of every image once.

        Args:
            roi_features: ``(N*P, d, s, s)``, image-major.
            boxes_xyxy: ``(N, P, 4)`` boxes that the features were pooled from.
            proposals: ``(N, P, d)``.

        Returns:
            logits ``(N, P, K)``, boxes ``(N, P, 4)`` and object features ``(N, P, d)``.
        """
        attended = self.self_attn(proposals, proposals, proposals, need_weights=False)[0]
        x = self.norm1(proposals + self.dropout1(attended))
        interacted = self.inst_interact(x.flatten(0, 1), roi_features)  # (N*P, d)
        x = self.norm2(x + self.dropout2(interacted.view_as(x)))  # (N, P, d)
        hidden = self.linear2(self.dropout(self.activation(self.linear1(x))))
        features = self.norm3(x + self.dropout3(hidden))
        logits = self.class_logits(self.cls_module(features))  # (N, P, K)
        deltas = self.bboxes_delta(self.reg_module(features))  # (N, P, 4)
        with without_autocast(deltas):
            boxes = apply_deltas(at_least_float32(deltas), at_least_float32(boxes_xyxy))
        return logits, boxes, features


def _tower(width: int, num_layers: int) -> nn.Sequential:
    """``num_layers`` times Linear without bias, LayerNorm, ReLU."""
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        layers += [nn.Linear(width, width, bias=False), nn.LayerNorm(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class DynamicHead(nn.Module):
    """A cascade of stages with their own weights; each refines the boxes of the one before."""

    @configurable
    def __init__(
        self,
        *,
        pooler: BoxPooler,
        options: StageOptions,
        num_stages: int,
        deep_supervision: bool = True,
        prior_prob: float | None = 0.01,
    ) -> None:
        """
        Args:
            pooler: maps the pyramid and a list of ``Boxes`` to ``(N*P, d, s, s)``.
            options: sizes of every stage.
            num_stages: stages S of the cascade.
            deep_supervision: return the predictions of all stages, not of the last alone.
            prior_prob: initial class probability, set by the bias; None leaves the bias alone.
        """
        super().__init__()
        self.box_pooler = pooler
        self.head_series = nn.ModuleList(RCNNStage(options) for _ in range(num_stages))
        self.return_all_stages = deep_supervision
        self._initialise(prior_prob)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Reads MODEL.SparseRCNN and MODEL.ROI_BOX_HEAD; ``input_shape`` holds IN_FEATURES."""
        node = cfg.MODEL.SparseRCNN
        _check_config(node, input_shape)
        return {
            "pooler": _build_pooler(cfg, input_shape),
            "options": StageOptions(
                num_logits=node.NUM_CLASSES + (0 if node.USE_FOCAL else 1),
                hidden_dim=node.HIDDEN_DIM,
                dim_dynamic=node.DIM_DYNAMIC,
                dim_feedforward=node.DIM_FEEDFORWARD,
                num_attention_heads=node.NHEADS,
                num_cls_layers=node.NUM_CLS,
                num_reg_layers=node.NUM_REG,
                dropout=node.DROPOUT,
                activation=node.ACTIVATION,
                pooler_resolution=cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION,
            ),
            "num_stages": node.NUM_HEADS,
            "deep_supervision": node.DEEP_SUPERVISION,
            "prior_prob": node.PRIOR_PROB if node.USE_FOCAL else None,
        }

    def _initialise(self, prior_prob: float | None) -> None:
        for parameter in self.head_series.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        if prior_prob is not None:
            for stage in self.head_series:
                nn.init.constant_(stage.class_logits.bias, -math.log((1 - prior_prob) / prior_prob))

    def forward(self, features: list[Tensor], boxes_xyxy: Tensor, proposals: Tensor) -> HeadOutput:
        """Runs the cascade.

        Args:
            features: maps ``(N, d, h, w)`` of the pyramid, finest first.
            boxes_xyxy: ``(N, P, 4)`` first boxes, pixels of the network input. Gradient reaches
                them through the decoding of the first stage alone.
            proposals: ``(N, P, d)`` first proposal features.
        """
        # The pooler casts boxes to the dtype of the features: half would move them by whole pixels.
        pyramid = self.box_pooler.prepare([at_least_float32(feature) for feature in features])
        all_logits, all_boxes = [], []
        for stage in self.head_series:
            roi_features = self._pool(pyramid, boxes_xyxy)  # (N*P, d, s, s)
            logits, boxes, proposals = stage(roi_features, boxes_xyxy, proposals)
            boxes_xyxy = boxes.detach()
            all_logits.append(logits)
            all_boxes.append(boxes)
        if not self.return_all_stages:
            all_logits, all_boxes = all_logits[-1:], all_boxes[-1:]
        return HeadOutput(torch.stack(all_logits), torch.stack(all_boxes), proposals)

    def _pool(self, pyramid: list[Tensor] | FeatureTable, boxes_xyxy: Tensor) -> Tensor:
        with without_autocast(boxes_xyxy):
            return self.box_pooler(pyramid, [Boxes(boxes) for boxes in boxes_xyxy.detach()])


def _check_config(node: CfgNode, input_shape: dict[str, ShapeSpec]) -> None:
    if node.NUM_DYNAMIC != 2:
        raise ConfigError(
            "MODEL.SparseRCNN.NUM_DYNAMIC must be 2: the interaction has exactly two generated "
            f"layers, got {node.NUM_DYNAMIC}. Leave it at 2; DIM_DYNAMIC sets their width."
        )
    channels = {name: shape.channels for name, shape in input_shape.items()}
    if set(channels.values()) != {node.HIDDEN_DIM}:
        raise ConfigError(
            "MODEL.SparseRCNN.HIDDEN_DIM must equal the channels of every feature in "
            f"MODEL.ROI_HEADS.IN_FEATURES, got {node.HIDDEN_DIM} and {channels}. Set HIDDEN_DIM "
            "and MODEL.FPN.OUT_CHANNELS to the same number."
        )


def _build_pooler(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> BoxPooler:
    node = cfg.MODEL.ROI_BOX_HEAD
    return BoxPooler(
        output_size=node.POOLER_RESOLUTION,
        scales=tuple(1.0 / shape.stride for shape in input_shape.values()),
        sampling_ratio=node.POOLER_SAMPLING_RATIO,
        pooler_type=node.POOLER_TYPE,
    )
