"""Stands in for detectron2.layers.blocks: has CNNBlockBase; lacks DepthwiseSeparableConv2d."""

from detectron2.layers.batch_norm import FrozenBatchNorm2d
from torch import nn


class CNNBlockBase(nn.Module):
    """A block that says how many channels go in and out and by what it divides the size."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self):
        """Stops training of all parameters, turns batch norms into frozen ones, returns itself."""
        for parameter in self.parameters():
            parameter.requires_grad = False
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self
