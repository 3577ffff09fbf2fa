"""SKA and its two gradients by shifting and adding in place: one pass over the map per tap.

Taps that reach beyond the map are cut short, so that no padded copy is made. Half-precision inputs
are summed in float32. Shapes are those of :mod:`sparsenet.ops.ska`: x (A, C, Hx, Wx), weight
(A, G, k², H, W), result (A, C, H, W), with Hx = H + k - 1 - 2 · padding.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sparsenet.ops.precision import at_least_float32

# On channels-last maps the innermost loop runs over the kernels. Where they are fewer than this, it
# pays to repeat them for all channels, tap by tap: 1.5 to 1.7 times faster with 8 kernels,
# 1.3 times with 16, slower with 32 (timed on a busy machine).
LONG_LOOP = 32


def aggregate(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """SKA: (A, C, H, W), of the type of ``x``."""
    out = new_map(x, weight.shape[-2:], _sum_dtype(x)).zero_()
    cells, sums = _by_kernel(x, weight.shape[1]), _by_kernel(out, weight.shape[1])
    for tap, here, there in _shifts(weight.shape[2], padding, out, x):
        sums[here].addcmul_(cells[there], _kernels_of_tap(weight, tap, x)[here])
    return out.to(x.dtype)


def grad_x(grad: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Gradient (A, C, Hx, Wx) of SKA by the map, from ``grad`` (A, C, H, W) by its result."""
    out = new_map(grad, source_size(weight, padding), _sum_dtype(grad)).zero_()
    cells, sums = _by_kernel(grad, weight.shape[1]), _by_kernel(out, weight.shape[1])
    for tap, here, there in _shifts(weight.shape[2], padding, grad, out):
        sums[there].addcmul_(cells[here], _kernels_of_tap(weight, tap, grad)[here])
    return out.to(grad.dtype)


def grad_weight(grad: Tensor, x: Tensor, num_kernels: int, padding: int) -> Tensor:
    """Gradient (A, G, k², H, W) of SKA by the kernels, from ``grad`` (A, C, H, W)."""
    out = new_weight(grad, x, num_kernels, padding, grad.dtype).zero_()
    cells, sources = _by_kernel(grad, num_kernels), _by_kernel(x, num_kernels)
    for tap, here, there in _shifts(out.shape[2], padding, grad, x):
        product = at_least_float32(cells[here]) * sources[there]  # (A, C/G, G, h, w)
        out[:, :, tap][here] = product.sum(dim=1)
    return out


def new_map(like: Tensor, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An empty map of ``size`` (h, w), channels last in memory if ``like`` (A, C, ·, ·) is."""
    form = torch.channels_last if is_channels_last(like) else torch.contiguous_format
    shape = (*like.shape[:2], *size)
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=form)


def new_weight(
    grad: Tensor, x: Tensor, num_kernels: int, padding: int, dtype: torch.dtype
) -> Tensor:
    """Empty kernels (A, G, k², H, W) for the result ``grad`` of ``x``; taps follow its memory."""
    batch, _, height, width = grad.shape
    num_taps = (x.shape[2] - height + 2 * padding + 1) ** 2
    if is_channels_last(grad):
        out = grad.new_empty((batch, height, width, num_taps, num_kernels), dtype=dtype)
        return out.permute(0, 4, 3, 1, 2)
    return grad.new_empty((batch, num_kernels, num_taps, height, width), dtype=dtype)


def source_size(weight: Tensor, padding: int) -> tuple[int, int]:
    """Size (h, w) of the map that kernels (A, G, k², H, W) read."""
    margin = round(weight.shape[2] ** 0.5) - 1 - 2 * padding
    return weight.shape[3] + margin, weight.shape[4] + margin


def is_channels_last(x: Tensor) -> bool:
    """Whether neighbours in memory are channels of one cell of (A, C, H, W)."""
    return x.stride(1) == 1 and x.shape[1] > 1


def _sum_dtype(x: Tensor) -> torch.dtype:
    return at_least_float32(x.new_empty(0)).dtype


def _by_kernel(x: Tensor, num_kernels: int) -> Tensor:
    return x.unflatten(1, (x.shape[1] // num_kernels, num_kernels))  # (A, C/G, G, ·, ·)


def _kernels_of_tap(weight: Tensor, tap: int, x: Tensor) -> Tensor:
    """One number per kernel and cell, to be multiplied with ``_by_kernel(x)``."""
    kernels = weight[:, None, :, tap]  # (A, 1, G, H, W)
    if not is_channels_last(x) or weight.shape[1] >= LONG_LOOP:
        return kernels
    share = x.shape[1] // weight.shape[1]
    repeated = torch.cat([kernels.movedim((1, 2), (3, 4))] * share, dim=3)  # (A, H, W, C/G, G)
    return repeated.movedim((3, 4), (1, 2))  # (A, C/G, G, H, W)


def _shifts(num_taps: int, padding: int, result: Tensor, source: Tensor) -> Iterator[tuple]:
    """Each tap with the cells of the result that it serves, and the source's cells it reads."""
    side = round(num_taps**0.5)
    for tap in range(num_taps):
        top, left = divmod(tap, side)
        rows = _overlap(top - padding, result.shape[2], source.shape[2])
        columns = _overlap(left - padding, result.shape[3], source.shape[3])
        yield tap, (..., rows[0], columns[0]), (..., rows[1], columns[1])


def _overlap(shift: int, length: int, source_length: int) -> tuple[slice, slice]:
    """Positions whose shifted position lies in the source, and those shifted positions."""
    start = max(0, -shift)
    stop = max(start, min(length, source_length - shift))
    return slice(start, stop), slice(start + shift, stop + shift)
