"""LSConv of LSNet (CVPR 2025, arXiv 2503.23135): see large, focus small.

A large-kernel branch looks at 7 × 7 cells and predicts, for each cell, the 3 × 3 kernels that mix
its surroundings. Differs from https://github.com/THU-MIG/lsnet in: channels last; no BatchNorm
(the caller normalises the input, and kernels are normalised per cell over all groups and taps
rather than over the whole map, so that neither the batch nor the selection of windows changes a
result); the cells around come from a layout, hence it also runs on packed windows; no own residual.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from sparsenet.layers.layout import Layout, Pointwise
from sparsenet.ops.ska import ska_channels_last


class LSConv(nn.Module):
    """Predicts a 3 × 3 kernel per cell and channel group, and applies it."""

    def __init__(
        self, channels: int, *, large_kernel: int = 7, small_kernel: int = 3, share: int = 8
    ) -> None:
        """
        Args:
            channels: a multiple of 2 and of ``share``.
            large_kernel, small_kernel: odd sides, cells.
            share: channels that share a predicted kernel.
        """
        super().__init__()
        hidden = channels // 2
        self.num_taps = small_kernel**2
        self.halo = small_kernel // 2
        num_kernels = channels // share
        self.reduce = nn.Linear(channels, hidden)
        self.large = nn.Conv2d(
            hidden, hidden, large_kernel, padding=large_kernel // 2, groups=hidden
        )
        self.mix = nn.Linear(hidden, hidden)
        self.predict = nn.Linear(hidden, self.num_taps * num_kernels)
        self.norm = nn.LayerNorm(self.num_taps * num_kernels)

    def forward(self, x: Tensor, layout: Layout, pointwise: Pointwise) -> Tensor:
        """
        Args:
            x: cells (A, ·, ·, C) in ``layout``.
            pointwise: applied to every cell first, the caller's normalisation.

        Returns:
            (A, ·, ·, C), the update; the caller adds it.
        """
        weight = layout.conv(x, self.large, lambda cells: F.relu(self.reduce(pointwise(cells))))
        weight = self.norm(self.predict(F.relu(self.mix(weight))))
        weight = weight.unflatten(-1, (self.num_taps, -1))  # (A, ·, ·, k², G)
        return ska_channels_last(layout.neighbourhood(x, self.halo, pointwise), weight)
