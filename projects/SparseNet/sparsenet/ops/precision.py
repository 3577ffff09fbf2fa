"""Float32 islands: geometry and losses that half precision would quantise to whole pixels.

bfloat16 resolves 1024 px in steps of 8 px, and float16 overflows at the area of a 256 x 256 box, so
decoding, matching and box losses leave autocast. Float64 inputs stay float64 (gradient checks).
"""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Casts half-precision (and integer) tensors to float32; float32 and float64 pass unchanged."""
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.float()


def without_autocast(tensor: Tensor) -> torch.autocast:
    """Context in which autocast is off on the device of ``tensor``."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)
