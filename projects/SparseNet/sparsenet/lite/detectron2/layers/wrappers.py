"""Stands in for detectron2.layers.wrappers: has Conv2d with norm and activation and small tensor
functions; lacks TorchScript variants."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

BatchNorm2d = nn.BatchNorm2d
ConvTranspose2d = nn.ConvTranspose2d
Linear = nn.Linear
interpolate = F.interpolate


class Conv2d(nn.Conv2d):
    """A convolution followed by an optional norm module and an optional activation function."""

    def __init__(self, *args, **kwargs):
        """Takes nn.Conv2d's arguments, and the keywords ``norm`` and ``activation``."""
        norm = kwargs.pop("norm", None)
        activation = kwargs.pop("activation", None)
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def shapes_to_tensor(x: list[int], device: torch.device | None = None) -> torch.Tensor:
    """Returns the sizes as a vector; while tracing they are tensors and stay in the graph."""
    if torch.jit.is_tracing():
        return torch.stack(x).to(device=device)
    return torch.as_tensor(x, device=device)


def cat(tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """torch.cat that returns a single tensor as it is."""
    assert isinstance(tensors, list | tuple), type(tensors)
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def empty_input_loss_func_wrapper(loss_func: Callable) -> Callable:
    """Makes the mean of an empty loss 0, with a gradient, where torch gives NaN."""

    def wrapped(input, target, *, reduction="mean", **kwargs):
        if target.numel() == 0 and reduction == "mean":
            return input.sum() * 0.0
        return loss_func(input, target, reduction=reduction, **kwargs)

    return wrapped


cross_entropy = empty_input_loss_func_wrapper(F.cross_entropy)


def nonzero_tuple(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Returns one index vector per dimension."""
    return x.nonzero(as_tuple=True)


def move_device_like(src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
    """Returns ``src`` on the device of ``dst``."""
    return src.to(dst.device)
