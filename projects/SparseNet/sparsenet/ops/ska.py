"""Small-kernel aggregation of LSNet (arXiv 2503.23135, section 3.2): the plain-torch reference.

Every position has its own k × k kernels; kernel g serves the channels g, g + G, g + 2G, …
(interleaved, not contiguous groups). Shift-add: one product per tap, memory O(C·H·W); autograd
gives both gradients.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def ska(x: Tensor, weight: Tensor) -> Tensor:
    """Aggregates the k × k surroundings of each position with that position's own kernels.

    y[b, c, i, j] = Σ_t weight[b, c mod G, t, i, j] · x[b, c, i - p + t // k, j - p + t % k], with
    p = (k - 1) / 2 and zeros outside the map (cross-correlation).

    Args:
        x: (B, C, H, W).
        weight: (B, G, k², H, W), k odd, G divides C.

    Returns:
        (B, C, H, W).
    """
    padding = kernel_side(weight.shape[2]) // 2
    grown = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    return ska_channels_last(grown, weight.permute(0, 3, 4, 2, 1)).permute(0, 3, 1, 2)


def ska_channels_last(grown: Tensor, weight: Tensor) -> Tensor:
    """The same on channels-last maps whose surroundings are already there (zeros or a halo).

    Args:
        grown: (A, H + k - 1, W + k - 1, C).
        weight: (A, H, W, k², G).

    Returns:
        (A, H, W, C).
    """
    height, width, num_taps, num_kernels = weight.shape[1:]
    side = kernel_side(num_taps)
    x = grown.unflatten(-1, (-1, num_kernels))  # (A, H + k - 1, W + k - 1, C/G, G)
    taps = weight.unsqueeze(3).unbind(4)  # k² times (A, H, W, 1, G)
    out = None
    for tap, kernel in enumerate(taps):
        top, left = divmod(tap, side)
        cells = x[:, top : top + height, left : left + width]
        out = cells * kernel if out is None else torch.addcmul(out, cells, kernel)
    assert out is not None, "a kernel has at least one tap"
    return out.flatten(-2)  # (A, H, W, C)


def kernel_side(num_taps: int) -> int:
    """Side k of a square kernel with an odd side; ValueError for any other number of taps."""
    side = round(num_taps**0.5)
    if side * side != num_taps or side % 2 == 0:
        raise ValueError(
            "the number of taps must be the square of an odd kernel side (1, 9, 25, …), "
            f"got {num_taps}"
        )
    return side
