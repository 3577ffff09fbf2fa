"""Published weights of LSNet (https://github.com/THU-MIG/lsnet) made to fit a model of ours.

Names are the same. What can differ: containers and prefixes, a branch that some published files
lack, and the grid that the position biases are stored for.
"""

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparsenet.layers.lsnet_blocks import resize_bicubic

logger = logging.getLogger(__name__)

_BIASES = "attention_biases"
_INDEX = "attention_bias_idxs"  # computed from the grid
_DEPTHWISE = re.compile(r"(.*\.mixer)\.conv\.c\.weight")


def unpack_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of a file's content: bare, or under "model" or "state_dict"; without "module."."""
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return {key.removeprefix("module."): value for key, value in content.items()}


def add_missing_branches(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds the 1 × 1 branch where a 3 × 3 one has none, with the effect of nothing.

    The published LSNet-B was trained without it. Random values would be worse than none.
    """
    added = {}
    for key, weight in state.items():
        match = _DEPTHWISE.fullmatch(key)
        branch = f"{match[1]}.conv1" if match else ""
        if not match or f"{branch}.c.weight" in state:
            continue
        zeros = weight.new_zeros(len(weight))
        added |= {
            f"{branch}.c.weight": zeros.view(-1, 1, 1, 1),
            f"{branch}.bn.weight": torch.ones_like(zeros),
            f"{branch}.bn.bias": zeros,
            f"{branch}.bn.running_mean": zeros,
            f"{branch}.bn.running_var": torch.ones_like(zeros),
        }
    if added:
        logger.warning(
            "The weights lack the 1 × 1 branch of %d blocks; it is set to zero.", len(added) // 5
        )
    return {**state, **added}


def resize_biases(state: Mapping[str, Tensor], grid_side: int) -> dict[str, Tensor]:
    """Resizes tables of position biases to a square grid, and drops indices of another grid."""
    resized = {}
    for key, value in state.items():
        side = math.isqrt(value.shape[-1]) if value.dim() else 0
        if key.endswith(_BIASES) and side != grid_side:
            tables = value.unflatten(1, (side, side))  # (heads, R, R)
            value = resize_bicubic(tables, (grid_side, grid_side)).flatten(1)
        if not key.endswith(_INDEX) or side == grid_side:
            resized[key] = value
    return resized
