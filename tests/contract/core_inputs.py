"""Inputs and weights of the core's contract cases; the same on every machine."""

import math
import zlib
from typing import Any

import numpy as np
import torch
from torch import nn

BOXES = [
    [10.0, 20.0, 50.0, 90.0],
    [0.0, 0.0, 320.0, 256.0],
    [5.5, 7.25, 6.5, 300.0],
    [100.0, 100.0, 100.0, 140.0],
    [-30.0, -20.0, 400.0, 500.0],
    [200.0, 40.0, 312.0, 152.0],
    [1.0, 2.0, 449.0, 450.0],
    [60.0, 60.0, 40.0, 80.0],
]


def outcome(call) -> Any:
    """The value of a call, or "raises <type>": both packages must agree on it."""
    try:
        return call()
    except Exception as error:
        return f"raises {type(error).__name__}"


def numbers(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers that depend on the key only."""
    return np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)


def set_weights(model: nn.Module) -> nn.Module:
    """Fills the model with numbers that depend on each key only, whatever the order of creation."""
    state = model.state_dict()
    for key, value in state.items():
        noise = numbers(key, tuple(value.shape))
        if key.endswith("running_var") or (key.endswith("weight") and value.dim() == 1):
            noise = 1 + 0.3 * np.tanh(noise)
        elif value.dim() > 1:
            noise = noise / math.sqrt(noise[0].size)
        else:
            noise = 0.1 * noise
        state[key] = torch.from_numpy(np.asarray(noise, dtype=np.float32))
    model.load_state_dict(state)
    return model
