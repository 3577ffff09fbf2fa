"""Stands in for detectron2.layers.batch_norm: has FrozenBatchNorm2d, LayerNorm, get_norm; lacks
NaiveSyncBatchNorm and CycleBatchNormList."""

import torch
from detectron2._lacking import lacks
from detectron2.layers.wrappers import BatchNorm2d
from torch import nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine values are buffers and never change."""

    _version = 3  # goes into state_dict metadata; files below version 2 have no running statistics

    def __init__(self, num_features, eps=1e-5):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.requires_grad:
            moments = (self.running_mean, self.running_var)
            return F.batch_norm(x, *moments, self.weight, self.bias, training=False, eps=self.eps)
        # F.batch_norm would keep memory for the gradients of weight and bias, which nobody needs.
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if (local_metadata.get("version") or 0) < 2:
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def __repr__(self):
        return f"FrozenBatchNorm2d(num_features={self.num_features}, eps={self.eps})"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replaces every BatchNorm2d and SyncBatchNorm inside; returns the new or same module."""
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            frozen = cls(module.num_features, module.eps)
            if module.affine:
                frozen.weight.data = module.weight.detach().clone()
                frozen.bias.data = module.bias.detach().clone()
            frozen.running_mean.data = module.running_mean.data
            frozen.running_var.data = module.running_var.data
            frozen.num_batches_tracked = module.num_batches_tracked
            return frozen
        for name, child in module.named_children():
            converted = cls.convert_frozen_batchnorm(child)
            if converted is not child:
                module.add_module(name, converted)
        return module


class LayerNorm(nn.Module):
    """Normalises the channels of each cell of an (N, C, H, W) map."""

    def __init__(self, normalized_shape, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps = eps
        self.normalized_shape = (normalized_shape,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)  # (N, 1, H, W)
        x = (x - mean) / torch.sqrt(variance + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


_NORMS = {
    "BN": BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
    "LN": LayerNorm,
}


def get_norm(norm, out_channels):
    """Returns a norm module for ``out_channels`` channels.

    Args:
        norm: "BN", "SyncBN", "FrozenBN", "GN" (32 groups), "LN", a function of the number of
            channels, or None or "" for no norm (then the result is None).
    """
    if norm is None or norm == "":
        return None
    if isinstance(norm, str):
        if norm.startswith("naiveSyncBN"):
            raise lacks(f"layers.get_norm({norm!r})")
        norm = _NORMS[norm]
    return norm(out_channels)
