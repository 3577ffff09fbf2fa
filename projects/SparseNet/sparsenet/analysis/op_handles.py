"""What each operator costs, in fvcore's convention: a multiply-add is one FLOP.

A handle maps the operator's inputs and outputs (:class:`OpValue` each) to a number. To count a new
operator, add its dispatcher name ("namespace::name") to ``FLOP_HANDLES``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from fvcore.nn import jit_handles
from torch import Tensor


class OpValue:
    """One argument or result of an operator, with the interface that fvcore's handles read."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def isCompleteTensor(self) -> bool:
        """Whether it has a shape."""
        return isinstance(self.value, Tensor)

    def type(self) -> OpValue:
        return self

    def sizes(self) -> list[int]:
        return [int(length) for length in self.value.shape]

    def toIValue(self) -> Any:
        return self.value


Handle = Callable[[Sequence[OpValue], Sequence[OpValue]], float]


def _convolution(inputs: Sequence[OpValue], outputs: Sequence[OpValue]) -> float:
    is_transposed = inputs[6].value
    shapes = inputs[0].sizes(), inputs[1].sizes(), outputs[0].sizes()
    return jit_handles.conv_flop_count(*shapes, transposed=is_transposed)


def _baddbmm(inputs: Sequence[OpValue], outputs: Sequence[OpValue]) -> float:
    return math.prod(inputs[1].sizes()) * inputs[2].sizes()[-1]


def _attention(inputs: Sequence[OpValue], outputs: Sequence[OpValue]) -> float:
    """Query · key and probability · value; inputs (..., L, d), (..., S, d), (..., S, d')."""
    query, key, value = (argument.sizes() for argument in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _normalisation(affine_index: int) -> Handle:
    """As fvcore's, which fails on inputs of one dimension or of more than five."""

    def count(inputs: Sequence[OpValue], outputs: Sequence[OpValue]) -> float:
        return math.prod(inputs[0].sizes()) * (5 if inputs[affine_index].isCompleteTensor() else 4)

    return count


def _batch_norm(inputs: Sequence[OpValue], outputs: Sequence[OpValue]) -> float:
    return math.prod(inputs[0].sizes()) * (2 if inputs[1].isCompleteTensor() else 1)


def _roi_align(inputs: Sequence[OpValue], outputs: Sequence[OpValue]) -> float:
    """Four multiply-adds per bilinear sample; a sampling ratio of 0 takes one per cell."""
    _, rois, scale, height, width, sampling_ratio = (argument.value for argument in inputs[:6])
    channels = outputs[0].sizes()[1]
    if sampling_ratio > 0:
        num_samples = len(rois) * height * width * sampling_ratio**2
    else:
        sides = (rois[:, 3:5] - rois[:, 1:3]) * scale  # width, height in cells
        per_bin = (sides / torch.tensor([width, height], device=rois.device)).ceil().clamp_min(1)
        num_samples = height * width * int(per_bin.prod(dim=1).sum())
    return 4 * channels * num_samples


def _linear(inputs: Sequence[OpValue], outputs: Sequence[OpValue]) -> float:
    """Inputs x (..., C) and weight (C', C)."""
    return math.prod(inputs[0].sizes()) * inputs[1].sizes()[0]


def _small_kernel_aggregation(inputs: Sequence[OpValue], outputs: Sequence[OpValue]) -> float:
    """k² multiply-adds per output; inputs x (A, C, H, W) and weight (A, G, k², H, W)."""
    return math.prod(outputs[0].sizes()) * inputs[1].sizes()[2]


def _grid_scan(inputs: Sequence[OpValue], outputs: Sequence[OpValue]) -> float:
    """9 N + 1 per cell, channel and direction, as the papers on state-space models count a scan.

    Args:
        inputs: the second is delta (K, batch, H, W, E), the third A (K, E, N).
    """
    return math.prod(inputs[1].sizes()) * (9 * inputs[2].sizes()[-1] + 1)


FLOP_HANDLES: dict[str, Handle] = {
    "aten::addmm": jit_handles.addmm_flop_jit,
    "aten::mm": jit_handles.matmul_flop_jit,
    "aten::bmm": jit_handles.bmm_flop_jit,
    "aten::baddbmm": _baddbmm,
    "aten::convolution": _convolution,
    "aten::_scaled_dot_product_flash_attention": _attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_efficient_attention": _attention,
    "aten::_scaled_dot_product_cudnn_attention": _attention,
    "aten::native_layer_norm": _normalisation(2),
    "aten::native_group_norm": _normalisation(1),
    "aten::native_batch_norm": _batch_norm,
    "aten::cudnn_batch_norm": _batch_norm,
    "aten::_native_batch_norm_legit_no_training": _batch_norm,
    "aten::upsample_nearest2d": jit_handles.elementwise_flop_counter(0, 1),
    "aten::upsample_bilinear2d": jit_handles.elementwise_flop_counter(0, 4),
    "aten::_adaptive_avg_pool2d": jit_handles.elementwise_flop_counter(1, 0),
    "aten::grid_sampler_2d": jit_handles.elementwise_flop_counter(0, 4),
    "torchvision::roi_align": _roi_align,
    "mkldnn::_linear_pointwise": _linear,
    "sparsenet::ska": _small_kernel_aggregation,
    "sparsenet::grid_scan": _grid_scan,
}

# Operators that compute nothing: copies, indexing, comparisons, sorting, random numbers. Views are
# recognised by themselves.
FREE_OPS = frozenset(
    f"aten::{name}"
    for name in (
        "_local_scalar_dense _to_copy _unsafe_view alias all any arange argmax argsort as_strided_ "
        "bitwise_and bitwise_not bitwise_or cat clamp clamp_min clamp_max clone constant_pad_nd "
        "copy_ empty empty_like empty_strided eq fill_ floor floor_divide full full_like gather ge "
        "gt index index_copy_ index_put index_put_ index_select isfinite isnan le lift_fresh "
        "logical_and logical_not logical_or lt masked_fill masked_fill_ masked_select max maximum "
        "min minimum ne new_empty new_full new_ones new_zeros nonzero ones ones_like rand "
        "rand_like randint randn relu relu_ remainder repeat repeat_interleave roll scalar_tensor "
        "scatter scatter_ searchsorted sort stack topk unique where zero_ zeros zeros_like"
    ).split()
)
