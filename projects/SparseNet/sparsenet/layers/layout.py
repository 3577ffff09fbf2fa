"""Where the local blocks find the cells around a cell: on the whole map, or in packed kept windows.

A local block is written once, against ``conv``, ``neighbourhood`` and ``window_gate``; the layout
decides whether it runs on a dense map (every window is kept) or on the kept windows alone. Both
give the same numbers for the same kept windows: a cell of a window that was not kept enters with
its unchanged value, a cell outside the map as zero.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from sparsenet.layers.kept_windows import KeptWindows
from sparsenet.ops.windows import WindowGrid, gather_halo, pool_windows, spread_windows

Pointwise = Callable[[Tensor], Tensor]


class Layout(ABC):
    """Cells in the form (A, ·, ·, C), where A is images (dense) or kept windows (packed)."""

    @abstractmethod
    def neighbourhood(self, x: Tensor, halo: int, pointwise: Pointwise) -> Tensor:
        """``pointwise(x)`` grown by ``halo`` cells on each side, zeros outside the map.

        ``pointwise`` maps (..., C) to (..., C') cell by cell.
        """

    @abstractmethod
    def conv(self, x: Tensor, conv: nn.Conv2d, pointwise: Pointwise) -> Tensor:
        """Convolves ``pointwise(x)``, stride 1, as on the whole map with zero padding."""

    @abstractmethod
    def window_gate(self, x: Tensor, gate: Pointwise) -> Tensor:
        """``gate`` of the mean of each cell's window, broadcastable to ``x``."""


class DenseLayout(Layout):
    """The whole map (B, H, W, C): every window is kept."""

    def __init__(self, grid: WindowGrid) -> None:
        self.grid = grid

    def neighbourhood(self, x: Tensor, halo: int, pointwise: Pointwise) -> Tensor:
        return F.pad(pointwise(x), (0, 0, halo, halo, halo, halo))  # (B, H + 2h, W + 2h, C')

    def conv(self, x: Tensor, conv: nn.Conv2d, pointwise: Pointwise) -> Tensor:
        padding = conv.kernel_size[0] // 2
        return _conv_channels_last(pointwise(x), conv, padding)

    def window_gate(self, x: Tensor, gate: Pointwise) -> Tensor:
        return spread_windows(gate(pool_windows(x, self.grid)), self.grid)  # (B, H, W, C)


class PackedLayout(Layout):
    """The kept windows (P, S, S, C) of a map (B, H, W, C)."""

    def __init__(self, source: Tensor, windows: KeptWindows) -> None:
        """
        Args:
            source: the map that the windows are taken from.
            windows: which ones.
        """
        self.grid, self.windows = windows.grid, windows
        self._source = source
        self._outside: dict[int, Tensor] = {}

    def gather(self) -> Tensor:
        """The kept windows of the source map: (P, S, S, C)."""
        return self.windows.gather(self._source)

    def scatter_(self, windows: Tensor) -> Tensor:
        """Writes windows back into the source map, in place; the layout is used up after that."""
        return self.windows.scatter_(self._source, windows)

    def outside(self, halo: int) -> Tensor:
        """Values of the halos' cells whose windows were not kept: (R, C)."""
        if halo not in self._outside:
            cells = self._source.reshape(-1, self._source.shape[-1])  # (B·H·W, C)
            self._outside[halo] = cells.index_select(0, self.windows.halo(halo).outside)
        return self._outside[halo]

    def is_inside(self, halo: int) -> Tensor:
        """Which cells of the grown windows lie in the map: (P, (S + 2h)²) bool."""
        return self.windows.halo(halo).inside.flatten(1)

    def neighbourhood(self, x: Tensor, halo: int, pointwise: Pointwise) -> Tensor:
        index, outside = self.windows.halo(halo), self.outside(halo)
        return gather_halo(pointwise(x), pointwise(outside), index)  # (P, S + 2h, S + 2h, C')

    def conv(self, x: Tensor, conv: nn.Conv2d, pointwise: Pointwise) -> Tensor:
        grown = self.neighbourhood(x, conv.kernel_size[0] // 2, pointwise)
        return _conv_channels_last(grown, conv, 0)

    def window_gate(self, x: Tensor, gate: Pointwise) -> Tensor:
        if not self.grid.is_padded:
            return gate(x.mean(dim=(1, 2), keepdim=True))  # (P, 1, 1, C)
        inside = self.is_inside(0).view(*x.shape[:3], 1).to(x.dtype)
        total = (x * inside).sum(dim=(1, 2), keepdim=True)
        return gate(total / inside.sum(dim=(1, 2), keepdim=True))  # (P, 1, 1, C)


def _conv_channels_last(x: Tensor, conv: nn.Conv2d, padding: int) -> Tensor:
    x = x.permute(0, 3, 1, 2)  # (A, C, ·, ·), channels last in memory
    x = F.conv2d(x, conv.weight, conv.bias, padding=padding, groups=conv.groups)
    return x.permute(0, 2, 3, 1)  # (A, ·, ·, C')
