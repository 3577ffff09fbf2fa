"""Small-kernel aggregation (SKA) of LSNet (arXiv 2503.23135, section 3.2).

Every position has its own k × k kernels; kernel g serves the channels g, g + G, g + 2G, …
(interleaved, not contiguous groups).

The sum is linear in the map and in the kernels, so each of its two gradients is again linear in two
tensors, and the derivatives of the three are one another. They are three operators of
``torch.library``, ``sparsenet::ska``, ``sparsenet::ska_grad_x`` and ``sparsenet::ska_grad_weight``:
each saves its two inputs alone (autograd through the plain sum also keeps the padded map, and makes
a gradient of full size per tap), all can be differentiated as often as wanted, and whoever counts
or traces operators meets one named node of :func:`ska_macs` multiply-adds. They run as Triton
kernels on CUDA where Triton is installed, and by shifting and adding in place elsewhere.

torch.compile, torch.export and the ONNX exporters see :func:`ska_plain` instead: their graphs
hold standard operators, and Inductor fuses the taps into one loop. That is the compiled CPU path.
Nothing else compiles for a CPU: with fixed shapes compiled code was between as fast and about 2.8
times as fast as shift-add in place (best where rows are short, timed on a busy machine), but takes
seconds to a minute per form of the inputs, in somebody's first batch, and a C++ compiler.
On CUDA, Triton compiles at the first call of each form of the inputs; the log says so once.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsenet.ops import ska_shift_add

logger = logging.getLogger(__name__)

_wants_plain_ops: ContextVar[bool] = ContextVar("wants_plain_ops", default=False)


def ska(x: Tensor, weight: Tensor) -> Tensor:
    """Aggregates the k × k surroundings of each position with that position's own kernels.

    y[b, c, i, j] = Σ_t weight[b, c mod G, t, i, j] · x[b, c, i - p + t // k, j - p + t % k], with
    p = (k - 1) / 2 and zeros outside the map (cross-correlation). Sums are in float32 or wider.
    Under autocast both inputs are cast to its type, as a convolution's are.

    Args:
        x: (B, C, H, W), any strides; a channels-last map gives a channels-last result.
        weight: (B, G, k², H, W), k odd, G divides C.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    return _aggregate(x, weight, padding=kernel_side(_num_taps(weight)) // 2)


def ska_channels_last(grown: Tensor, weight: Tensor) -> Tensor:
    """The same on channels-last maps whose surroundings are already there (zeros or a halo).

    Args:
        grown: (A, H + k - 1, W + k - 1, C).
        weight: (A, H, W, k², G).

    Returns:
        (A, H, W, C).

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    x = grown.movedim(-1, 1)  # (A, C, H + k - 1, W + k - 1)
    kernels = weight.movedim((-1, -2), (1, 2))  # (A, G, k², H, W)
    return _aggregate(x, kernels, padding=0).movedim(1, -1)  # (A, H, W, C)


def ska_plain(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """The reference, in out-of-place standard operators, differentiated by autograd.

    Args:
        x: (A, C, H + k - 1 - 2 · padding, W + k - 1 - 2 · padding).
        weight: (A, G, k², H, W).
        padding: zeros around the map, cells.

    Returns:
        (A, C, H, W).
    """
    num_kernels, _, height, width = weight.shape[1:]
    side = kernel_side(_num_taps(weight))
    grown = F.pad(x, (padding,) * 4).unflatten(1, (x.shape[1] // num_kernels, num_kernels))
    out = None
    for tap in range(side * side):
        top, left = divmod(tap, side)
        cells = grown[..., top : top + height, left : left + width]  # (A, C/G, G, H, W)
        kernel = weight[:, None, :, tap]  # (A, 1, G, H, W)
        out = cells * kernel if out is None else torch.addcmul(out, cells, kernel)
    assert out is not None, "a kernel has at least one tap"
    return out.flatten(1, 2)  # (A, C, H, W)


@contextmanager
def plain_ska() -> Iterator[None]:
    """Within it SKA runs as :func:`ska_plain`, for ``torch.jit.trace`` files that others load."""
    token = _wants_plain_ops.set(True)
    try:
        yield
    finally:
        _wants_plain_ops.reset(token)


def ska_macs(x_shape: Sequence[int], weight_shape: Sequence[int]) -> int:
    """Multiply-adds of one aggregation, and of each of its two gradients: A·C·H·W·k².

    Args:
        x_shape: (A, C, ·, ·), with or without the surroundings.
        weight_shape: (A, G, k², H, W).
    """
    return math.prod(x_shape[:2]) * math.prod(weight_shape[2:])


def kernel_side(num_taps: int) -> int:
    """Side k of a square kernel with an odd side; ValueError for any other number of taps."""
    side = round(num_taps**0.5)
    if side * side != num_taps or side % 2 == 0:
        raise ValueError(
            "the number of taps must be the square of an odd kernel side (1, 9, 25, …), "
            f"got {num_taps}"
        )
    return side


def _aggregate(x: Tensor, weight: Tensor, *, padding: int) -> Tensor:
    if not torch.jit.is_tracing():  # type: ignore[attr-defined]
        _check_shapes(x, weight, padding)
    dtype = _common_dtype(x, weight)
    x, weight = x.to(dtype), weight.to(dtype)
    if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export() or _wants_plain_ops.get():
        return ska_plain(x, weight, padding)
    return _ska(x, weight, padding)


def _common_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    dtype = torch.promote_types(x.dtype, weight.dtype)
    device = x.device.type
    if device == "meta":  # knows no autocast
        return dtype
    if dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return dtype


def _num_taps(weight: Tensor) -> int:
    if weight.dim() != 5:
        raise ValueError(
            f"the kernels must have five axes, (B, G, k², H, W), got {tuple(weight.shape)}"
        )
    return int(weight.shape[2])  # a tensor under torch.jit.trace, where it becomes a constant


def _check_shapes(x: Tensor, weight: Tensor, padding: int) -> None:
    margin = kernel_side(_num_taps(weight)) - 1 - 2 * padding
    batch, num_kernels, _, height, width = weight.shape
    expected = (batch, height + margin, width + margin)
    if x.dim() != 4 or (x.shape[0], *x.shape[2:]) != expected:
        raise ValueError(
            f"kernels {tuple(weight.shape)}, written (B, G, k², H, W), need a map (B, C, H, W) of "
            f"{batch} x C x {height + margin} x {width + margin}, got {tuple(x.shape)}"
        )
    if num_kernels == 0 or x.shape[1] % num_kernels:
        raise ValueError(
            f"the number of kernels must divide the map's {x.shape[1]} channels, got {num_kernels}"
        )


@torch.library.custom_op("sparsenet::ska", mutates_args=())
def _ska(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    return _kernels(x).aggregate(x, weight, padding)


@torch.library.custom_op("sparsenet::ska_grad_x", mutates_args=())
def _ska_grad_x(grad: Tensor, weight: Tensor, padding: int) -> Tensor:
    return _kernels(grad).grad_x(grad, weight, padding)


@torch.library.custom_op("sparsenet::ska_grad_weight", mutates_args=())
def _ska_grad_weight(grad: Tensor, x: Tensor, num_kernels: int, padding: int) -> Tensor:
    return _kernels(grad).grad_weight(grad, x, num_kernels, padding)


def _kernels(tensor: Tensor) -> ModuleType:
    """The implementation for this device; all have the same three functions."""
    triton = _triton_kernels() if tensor.is_cuda else None
    return triton or ska_shift_add


@cache
def _triton_kernels() -> ModuleType | None:
    try:
        from sparsenet.ops import ska_triton
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        logger.info("SKA runs on CUDA without Triton, several times slower: triton is missing.")
        return None
    logger.info("SKA runs on CUDA by Triton kernels, compiled for each new form of the inputs.")
    return ska_triton


_ska.register_fake(lambda x, weight, padding: ska_shift_add.new_map(x, weight.shape[-2:], x.dtype))
_ska_grad_x.register_fake(
    lambda grad, weight, padding: ska_shift_add.new_map(
        grad, ska_shift_add.source_size(weight, padding), grad.dtype
    )
)
_ska_grad_weight.register_fake(
    lambda grad, x, num_kernels, padding: ska_shift_add.new_weight(
        grad, x, num_kernels, padding, grad.dtype
    )
)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    first, second, *rest = inputs
    ctx.save_for_backward(first, second)
    ctx.padding = rest[-1]


def _ska_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, _ = ctx.needs_input_grad
    return (
        _ska_grad_x(grad, weight, ctx.padding) if needs_x else None,
        _ska_grad_weight(grad, x, weight.shape[1], ctx.padding) if needs_weight else None,
        None,
    )


def _ska_grad_x_backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    grad, weight = ctx.saved_tensors
    needs_grad, needs_weight, _ = ctx.needs_input_grad
    return (
        _ska(cotangent, weight, ctx.padding) if needs_grad else None,
        _ska_grad_weight(grad, cotangent, weight.shape[1], ctx.padding) if needs_weight else None,
        None,
    )


def _ska_grad_weight_backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    grad, x = ctx.saved_tensors
    needs_grad, needs_x, *_ = ctx.needs_input_grad
    return (
        _ska(x, cotangent, ctx.padding) if needs_grad else None,
        _ska_grad_x(grad, cotangent, ctx.padding) if needs_x else None,
        None,
        None,
    )


_ska.register_autograd(_ska_backward, setup_context=_save)
_ska_grad_x.register_autograd(_ska_grad_x_backward, setup_context=_save)
_ska_grad_weight.register_autograd(_ska_grad_weight_backward, setup_context=_save)
