"""SKA and its two gradients as Triton kernels; float32 sums (float64 for float64).

A program serves a tile of BLOCK_P positions (of all images in a row), BLOCK_G kernels and all the
channels that share them, so that each kernel tap is read once and not once per channel. Every
tensor comes with its strides: channels-first maps put a tile along the positions, channels-last
ones along the kernels. Offsets are 64-bit: maps may hold more than 2³¹ elements.

Has the functions of :mod:`sparsenet.ops.ska_shift_add`, with the same shapes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsenet.ops.ska_shift_add import is_channels_last, new_map, new_weight, source_size

TILE = 1024  # sums per program: eight per thread of four warps


def aggregate(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """SKA: (A, C, H, W), of the type of ``x``."""
    out = new_map(x, weight.shape[-2:], x.dtype)
    return _launch_sum(x, weight, out, padding=padding, is_transposed=False)


def grad_x(grad: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Gradient (A, C, Hx, Wx) of SKA by the map, from ``grad`` (A, C, H, W) by its result."""
    out = new_map(grad, source_size(weight, padding), grad.dtype)
    return _launch_sum(grad, weight, out, padding=padding, is_transposed=True)


def grad_weight(grad: Tensor, x: Tensor, num_kernels: int, padding: int) -> Tensor:
    """Gradient (A, G, k², H, W) of SKA by the kernels, from ``grad`` (A, C, H, W)."""
    out = new_weight(grad, x, num_kernels, padding, grad.dtype)
    if grad.numel() == 0 or x.numel() == 0:
        return out.zero_()
    grid, blocks = _tiling(grad, num_kernels)
    with torch.cuda.device_of(grad):
        _weight_kernel[grid](
            grad, x, out, *grad.shape, *x.shape[2:], num_kernels,
            *grad.stride(), *x.stride(), *out.stride(),
            SIDE=round(out.shape[2] ** 0.5), PADDING=padding, SUM=_sum_type(grad), **blocks,
        )  # fmt: skip
    return out


def _launch_sum(
    source: Tensor, weight: Tensor, out: Tensor, *, padding: int, is_transposed: bool
) -> Tensor:
    if out.numel() == 0 or source.numel() == 0:
        return out.zero_()
    grid, blocks = _tiling(out, weight.shape[1])
    with torch.cuda.device_of(source):
        _sum_kernel[grid](
            source, weight, out, *out.shape, *source.shape[2:], weight.shape[1],
            *source.stride(), *weight.stride(), *out.stride(),
            SIDE=round(weight.shape[2] ** 0.5), PADDING=padding, IS_TRANSPOSED=is_transposed,
            SUM=_sum_type(source), **blocks,
        )  # fmt: skip
    return out


def _tiling(x: Tensor, num_kernels: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Programs along positions and kernels of (A, C, H, W), and the tile's sides."""
    batch, channels, height, width = x.shape
    block_r = triton.next_power_of_2(channels // num_kernels)
    block_g = min(triton.next_power_of_2(num_kernels), 16) if is_channels_last(x) else 1
    block_p = max(1, TILE // (block_r * block_g))
    grid = (triton.cdiv(batch * height * width, block_p), triton.cdiv(num_kernels, block_g))
    return grid, {"BLOCK_P": block_p, "BLOCK_G": block_g, "BLOCK_R": block_r}


def _sum_type(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


@triton.jit
def _sum_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    source, weight, out,
    batch, channels, height, width, source_height, source_width, num_kernels,
    source_b, source_c, source_h, source_w,
    weight_b, weight_g, weight_t, weight_h, weight_w,
    out_b, out_c, out_h, out_w,
    SIDE: tl.constexpr, PADDING: tl.constexpr, IS_TRANSPOSED: tl.constexpr, SUM: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """out(p) = Σ_t source(q) · weight(t, p), q = p + t - PADDING; transposed: q = p - t + PADDING
    and weight(t, q), whose grid is then the source's."""
    position = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None, None]
    kernel = tl.program_id(1).to(tl.int64) * BLOCK_G + tl.arange(0, BLOCK_G)[None, :, None]
    channel = tl.arange(0, BLOCK_R)[None, None, :] * num_kernels + kernel  # (1, G, R)
    image = position // width // height
    row, column = position // width % height, position % width
    is_kernel = (image < batch) & (kernel < num_kernels)  # (P, G, 1)
    is_cell = is_kernel & (channel < channels)  # (P, G, R)
    sums = tl.zeros((BLOCK_P, BLOCK_G, BLOCK_R), dtype=SUM)
    for top in range(SIDE):
        for left in tl.static_range(SIDE):
            if IS_TRANSPOSED:
                y, x = row - top + PADDING, column - left + PADDING
                kernel_y, kernel_x = y, x
            else:
                y, x = row + top - PADDING, column + left - PADDING
                kernel_y, kernel_x = row, column
            is_inside = (y >= 0) & (y < source_height) & (x >= 0) & (x < source_width)
            cell = image * source_b + channel * source_c + y * source_h + x * source_w
            tap = image * weight_b + kernel * weight_g + (top * SIDE + left) * weight_t
            tap += kernel_y * weight_h + kernel_x * weight_w  # (P, G, 1)
            values = tl.load(source + cell, mask=is_cell & is_inside, other=0).to(SUM)
            sums += values * tl.load(weight + tap, mask=is_kernel & is_inside, other=0).to(SUM)
    target = image * out_b + channel * out_c + row * out_h + column * out_w
    tl.store(out + target, sums.to(out.dtype.element_ty), mask=is_cell)


@triton.jit
def _weight_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    grad, source, out,
    batch, channels, height, width, source_height, source_width, num_kernels,
    grad_b, grad_c, grad_h, grad_w,
    source_b, source_c, source_h, source_w,
    out_b, out_g, out_t, out_h, out_w,
    SIDE: tl.constexpr, PADDING: tl.constexpr, SUM: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """out(t, p) = Σ over the channels of a kernel of grad(p) · source(p + t - PADDING)."""
    position = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None, None]
    kernel = tl.program_id(1).to(tl.int64) * BLOCK_G + tl.arange(0, BLOCK_G)[None, :, None]
    channel = tl.arange(0, BLOCK_R)[None, None, :] * num_kernels + kernel  # (1, G, R)
    image = position // width // height
    row, column = position // width % height, position % width
    is_kernel = (image < batch) & (kernel < num_kernels)  # (P, G, 1)
    is_cell = is_kernel & (channel < channels)  # (P, G, R)
    cell = image * grad_b + channel * grad_c + row * grad_h + column * grad_w
    grads = tl.load(grad + cell, mask=is_cell, other=0).to(SUM)
    for top in range(SIDE):
        for left in tl.static_range(SIDE):
            y, x = row + top - PADDING, column + left - PADDING
            is_inside = (y >= 0) & (y < source_height) & (x >= 0) & (x < source_width)
            there = image * source_b + channel * source_c + y * source_h + x * source_w
            values = tl.load(source + there, mask=is_cell & is_inside, other=0).to(SUM)
            sums = tl.sum(grads * values, axis=2, keep_dims=True)  # (P, G, 1)
            tap = image * out_b + kernel * out_g + (top * SIDE + left) * out_t
            tap += row * out_h + column * out_w
            tl.store(out + tap, sums.to(out.dtype.element_ty), mask=is_kernel)
