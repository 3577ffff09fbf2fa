"""Linear layers over the last axis, by the faster of two CPU libraries.

PyTorch runs ``F.linear`` in float32 through MKL, which reaches less than half of an AMD core's
peak, and other operations through oneDNN: 95 against 215 GFLOP/s on one core for 4000 × 384 →
1536. In inference that is the linear layer of compiled models, which has no
gradient; in training a 1 × 1 convolution of at least 16 images, about twice as fast backward, too.
The reference: ``F.linear``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Below 16 images PyTorch leaves a 1 × 1 convolution on one thread to MKL again.
_MIN_IMAGES, _MAX_IMAGES = 16, 256
_MIN_ROWS_PER_IMAGE = 4  # with less, oneDNN's convolution is slower than MKL


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` of x (..., C) and weight (C', C): (..., C')."""
    if not _suits_onednn(x, weight):
        return F.linear(x, weight, bias)
    if _HAS_FUSED_LINEAR and not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
        return torch.ops.mkldnn._linear_pointwise(
            x, weight, None if bias is None else bias.contiguous(), "none", [], ""
        )
    num_images = _num_images(x)
    if num_images is None:
        return F.linear(x, weight, bias)
    rows = x.reshape(num_images, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)  # (A, C, 1, L)
    out = F.conv2d(rows, weight[:, :, None, None], bias)  # (A, C', 1, L), channels last in memory
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)  # (..., C')


_HAS_FUSED_LINEAR = hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False  # a traced graph must not hold sizes
    if x.dtype != weight.dtype or x.shape[-1] != weight.shape[-1]:
        return False  # F.linear says what is wrong
    if x.device.type != "cpu" or x.dtype != torch.float32 or not torch.backends.mkldnn.enabled:
        return False
    return not torch.is_autocast_enabled("cpu")  # oneDNN computes bfloat16 anyway


def _num_images(x: Tensor) -> int | None:
    """Into how many images to cut the rows of ``x`` for a convolution; None: do not."""
    num_rows = x.numel() // x.shape[-1]
    last = min(_MAX_IMAGES, num_rows // _MIN_ROWS_PER_IMAGE)
    return next((n for n in range(_MIN_IMAGES, last + 1) if num_rows % n == 0), None)
