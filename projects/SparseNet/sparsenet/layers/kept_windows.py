"""The attention windows of a stage that are computed, as positions.

The number of windows may follow from the scores (exact), or be fixed beforehand, as accelerators,
CUDA graphs and ``torch.compile`` want it: then every image has the same number of slots, and a slot
that it does not need repeats its first kept window. Repetitions compute the same numbers again,
write them to the same place, and are cut off from the gradient.
"""

import torch
from torch import Tensor

from sparsenet.ops.windows import HaloIndex, WindowGrid, halo_index, window_cells

# Shares of the largest number of slots: a budget that depends on the content takes the next one up,
# so that a compiled graph or a captured CUDA graph is needed for five sizes and not for hundreds.
_BUCKETS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)


class KeptWindows:
    """P slots for windows of a batch of maps, and where their cells and halos lie.

    Attributes:
        grid: how the maps are cut into windows.
        index: (P,) int64 in [0, B·N), the window in each slot, images one after the other.
        batch_size: B.
        is_static: P and all sizes that follow were known without looking at ``kept``.
        covers_all: every window is known to have its slot.
    """

    def __init__(
        self,
        kept: Tensor,
        grid: WindowGrid,
        num_slots: int | None = None,
        *,
        covers_all: bool = False,
    ) -> None:
        """
        Args:
            kept: (B, N) bool; with ``num_slots``, at least one in each image.
            num_slots: per image, not fewer than any image keeps; None: just the kept windows.
            covers_all: ``kept`` is True everywhere, as the caller knows.
        """
        self.grid, self.batch_size = grid, kept.shape[0]
        self.is_static, self.covers_all = num_slots is not None, covers_all
        if num_slots is None:
            self.index, self._slot = kept.flatten().nonzero().squeeze(1), None
        else:
            self.index, self._slot = _fixed_slots(kept, num_slots)
        cells, inside = window_cells(grid, self.index)
        self._cells, self._inside = cells.flatten(), inside
        self._halos: dict[int, HaloIndex] = {}

    def __len__(self) -> int:
        return len(self.index)

    @property
    def cells(self) -> Tensor:
        """Rows of the cell table (B·H·W, C) of a map, (P·S²,); see ``window_cells``."""
        return self._cells

    def gather(self, x: Tensor) -> Tensor:
        """Fetches the windows of a map (B, H, W, C): (P, S, S, C)."""
        side = self.grid.window_size
        cells = x.reshape(-1, x.shape[-1]).index_select(0, self._cells)  # (P·S², C)
        return cells.view(-1, side, side, x.shape[-1])

    def scatter_(self, x: Tensor, windows: Tensor) -> Tensor:
        """Writes ``windows`` (P, S, S, C) over the windows of the map ``x``, in place."""
        cells = windows.to(x.dtype).reshape(-1, x.shape[-1])  # (P·S², C)
        if self.is_static or self.grid.is_padded:
            cells = self._unify(cells)
        x.view(-1, x.shape[-1]).index_copy_(0, self._cells, cells)
        return x

    def halo(self, halo: int) -> HaloIndex:
        """Where the cells of the windows grown by ``halo`` cells come from."""
        if halo not in self._halos:
            self._halos[halo] = halo_index(
                self.grid, self.index, self.batch_size, halo, is_static=self.is_static
            )
        return self._halos[halo]

    def _unify(self, cells: Tensor) -> Tensor:
        """Gives rows that go to the same cell of the map the same value, and one a gradient."""
        side = self.grid.window_size
        slot = torch.arange(len(self), device=cells.device)
        first = slot if self._slot is None else self._slot
        top = self._cells.view(-1, side, side)[:, :1, :1]
        offset = self._cells.view(-1, side, side) - top
        y, x = offset // self.grid.map_size[1], offset % self.grid.map_size[1]
        source = (first[:, None, None] * side + y) * side + x  # (P, S, S)
        same = cells.detach().index_select(0, source.flatten())
        if not torch.is_grad_enabled():
            return same
        is_own = self._inside & (first == slot)[:, None, None]
        return torch.where(is_own.view(-1, 1), cells, same)


def bucket(num_needed: int, num_most: int) -> int:
    """The smallest of a few fixed shares of ``num_most`` that is at least ``num_needed``."""
    sizes = (max(1, round(num_most * share)) for share in _BUCKETS)
    return next(size for size in sizes if size >= min(num_needed, num_most))


def _fixed_slots(kept: Tensor, num_slots: int) -> tuple[Tensor, Tensor]:
    """Window and first slot with that window, per slot: twice (B·num_slots,)."""
    order = (~kept).byte().argsort(dim=1, stable=True)[:, :num_slots]  # kept ones first
    is_kept = kept.gather(1, order)  # (B, num_slots)
    window = torch.where(is_kept, order, order[:, :1])
    start = torch.arange(len(kept), device=kept.device)[:, None]
    position = torch.arange(num_slots, device=kept.device)
    slot = start * num_slots + torch.where(is_kept, position, 0)
    return (start * kept.shape[1] + window).flatten(), slot.flatten()
