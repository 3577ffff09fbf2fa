"""Attention windows of a feature map: cutting, pooling, gathering, scattering and their halos.

Maps are channels last. Shorthand: B images, (H, W) cells, C channels, S cells per window side,
N = rows · columns windows per image (row-major), P kept windows of the whole batch, halo h.

A map is, without a copy, a table of B · H · W cells: kept windows are fetched and written back by
one one-dimensional index of its rows, and the windows that are not kept cost nothing.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsenet.ops.precision import at_least_float32

# Values of the widest intermediate that a CPU computes at once: 4 MB stay in the cache, and large
# blocks come from the system page by page on every call (GELU of 98 MB: 74 instead of 10 ms).
CACHED_VALUES = 1 << 20


@dataclass(frozen=True)
class WindowGrid:
    """How a map of ``map_size`` (h, w) cells is cut into windows of ``window_size`` cells a side.

    The last row and column of windows may reach beyond the map: those cells are padding.
    """

    map_size: tuple[int, int]
    window_size: int

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        height, width = self.map_size
        return -(-height // self.window_size), -(-width // self.window_size)

    @property
    def num_windows(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def padded_size(self) -> tuple[int, int]:
        """Size (h, w) of the map with its padding, cells."""
        return self.size[0] * self.window_size, self.size[1] * self.window_size

    @property
    def is_padded(self) -> bool:
        return self.padded_size != self.map_size


@dataclass(frozen=True)
class HaloIndex:
    """Where the cells of P kept windows and of their halos come from; see :func:`halo_index`.

    ``table`` (P·(S+2h)²,) int64 indexes the rows of [cells of the kept windows | ``outside`` cells
    | one row of zeros]; ``outside`` (R,) int64 indexes the cells of the map; ``inside``
    (P, S+2h, S+2h) bool tells which cells lie in the map.
    """

    halo: int
    table: Tensor
    outside: Tensor
    inside: Tensor


def pad_to_windows(x: Tensor, grid: WindowGrid) -> Tensor:
    """Zero-pads a map (B, H, W, C) at the right and bottom to whole windows."""
    if not grid.is_padded:
        return x
    height, width = grid.map_size
    padded_height, padded_width = grid.padded_size
    return F.pad(x, (0, 0, 0, padded_width - width, 0, padded_height - height))


def partition_windows(x: Tensor, grid: WindowGrid) -> Tensor:
    """Cuts a map (B, H, W, C) into all its windows: (B·N, S, S, C)."""
    rows, columns = grid.size
    side = grid.window_size
    x = pad_to_windows(x, grid)
    x = x.reshape(x.shape[0], rows, side, columns, side, x.shape[-1])  # (B, rows, S, columns, S, C)
    return x.transpose(2, 3).reshape(-1, side, side, x.shape[-1])  # (B·N, S, S, C)


def merge_windows(windows: Tensor, grid: WindowGrid) -> Tensor:
    """Inverse of :func:`partition_windows`: (B·N, S, S, C) to (B, H, W, C), without the padding."""
    rows, columns = grid.size
    side, channels = grid.window_size, windows.shape[-1]
    x = windows.reshape(-1, rows, columns, side, side, channels).transpose(2, 3)
    x = x.reshape(-1, rows * side, columns * side, channels)  # (B, H + pad, W + pad, C)
    return x[:, : grid.map_size[0], : grid.map_size[1]]


def window_cells(grid: WindowGrid, window_index: Tensor, halo: int = 0) -> tuple[Tensor, Tensor]:
    """Cells of windows grown by ``halo`` cells, as rows of the table (B·H·W, C) of a map.

    Args:
        window_index: (P,) int64 in [0, B·N).

    Returns:
        (P, G, G) int64 with G = S + 2h, and (P, G, G) bool: which of them lie in the map. The
        others hold the row of the nearest cell of the map.
    """
    columns, side = grid.size[1], grid.window_size
    height, width = grid.map_size
    image, window = window_index // grid.num_windows, window_index % grid.num_windows
    offset = torch.arange(-halo, side + halo, device=window_index.device)
    y = ((window // columns * side)[:, None] + offset)[:, :, None]  # (P, G, 1)
    x = ((window % columns * side)[:, None] + offset)[:, None]  # (P, 1, G)
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)  # (P, G, G)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    return (image[:, None, None] * height + y) * width + x, inside


def coarser_cells(cells: Tensor, coarse_size: tuple[int, int]) -> Tensor:
    """Rows of the cell table of a map of half the size that lie over cells of the finer map.

    Args:
        cells: (n,) int64, rows of the table (B·2h·2w, C).
        coarse_size: (h, w).
    """
    width = coarse_size[1]
    image_row, x = cells // (2 * width), cells % (2 * width)  # image · 2h + y
    # 2h is even: halving image · 2h + y gives image · h + y // 2
    return image_row // 2 * width + x // 2


def spread_windows(values: Tensor, grid: WindowGrid) -> Tensor:
    """Gives every cell the value of its window: (B, rows, columns, C) to (B, H, W, C)."""
    rows, columns = grid.size
    side, channels = grid.window_size, values.shape[-1]
    x = values[:, :, None, :, None].expand(-1, rows, side, columns, side, channels)
    x = x.reshape(-1, rows * side, columns * side, channels)
    return x[:, : grid.map_size[0], : grid.map_size[1]]


def add_to_windows(x: Tensor, values: Tensor, grid: WindowGrid) -> Tensor:
    """Adds to every cell of ``x`` (B, H, W, C) the value (B, rows, columns, C) of its window.

    The result is contiguous. Where :func:`may_overwrite` allows, it is written over ``x`` if that
    is contiguous, and ``values`` are not spread first.
    """
    if not may_overwrite(x):
        return (x + spread_windows(values, grid)).contiguous()
    x = x.contiguous()
    for row, height in _whole_and_rest(grid.map_size[0], grid.window_size):
        for column, width in _whole_and_rest(grid.map_size[1], grid.window_size):
            y = slice(row * grid.window_size, row * grid.window_size + height)
            z = slice(column * grid.window_size, column * grid.window_size + width)
            num = (-(-height // grid.window_size), -(-width // grid.window_size))
            part = values[:, row:, column:][:, : num[0], None, : num[1], None]  # (B, r, 1, c, 1, C)
            cells = x[:, y, z].unflatten(2, (num[1], -1)).unflatten(1, (num[0], -1))
            cells += part  # (B, r, ·, c, ·, C)
    return x


def window_moments(
    x: Tensor, grid: WindowGrid, cell_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean of each window's cells and of their squares, at least float32; see `pool_windows`.

    In inference on a CPU, strip by strip: the squares of a whole map would leave the cache.
    """
    if torch.is_grad_enabled() or not runs_eagerly_on_cpu(x):
        x = at_least_float32(x)
        return pool_windows(x, grid, cell_mask), pool_windows(x.square(), grid, cell_mask)
    values_per_row = x.shape[0] * x.shape[2] * x.shape[3] * grid.window_size
    height = max(1, CACHED_VALUES // max(1, values_per_row)) * grid.window_size
    strips = [slice(top, top + height) for top in range(0, x.shape[1], height)]
    moments = []
    for strip in strips:
        part = at_least_float32(x[:, strip])
        mask = None if cell_mask is None else cell_mask[:, strip]
        part_grid = WindowGrid((part.shape[1], part.shape[2]), grid.window_size)
        moments.append([pool_windows(v, part_grid, mask) for v in (part, part.square())])
    mean, mean_square = (torch.cat(parts, dim=1) for parts in zip(*moments))
    return mean, mean_square  # (B, rows, columns, C) each


def pool_windows(x: Tensor, grid: WindowGrid, cell_mask: Tensor | None = None) -> Tensor:
    """Mean of each window over the cells that are neither padding nor masked out.

    Args:
        x: map (B, H, W, C).
        cell_mask: (B, H, W, 1), 1 for cells that count, 0 for the rest; None: all count.

    Returns:
        (B, rows, columns, C); 0 for windows without any cell that counts.
    """
    if cell_mask is None:
        return _mean_in_map(x, grid.window_size)
    cell_mask = cell_mask.to(x.dtype)
    share = _mean_in_map(cell_mask, grid.window_size)  # (B, rows, columns, 1)
    return _mean_in_map(x * cell_mask, grid.window_size) / share.clamp_min(1e-6)


def content_size(images: Tensor) -> Tensor | None:
    """Size (h, w) of each image of a batch without the zeros that fill it up to the batch's size.

    Trailing rows and columns whose every value is exactly 0 are filling; an image that is all zeros
    counts as full.

    Args:
        images: (B, C, H, W).

    Returns:
        (B, 2) int64, pixels; None where every image is full, found out from the borders alone. An
        accelerator or a compiled graph would have to stop for that: there, it is never None.
    """
    last_row, last_column = images[:, :, -1] != 0, images[:, :, :, -1] != 0  # (B, C, W), (B, C, H)
    is_full = last_row.flatten(1).any(1) & last_column.flatten(1).any(1)  # (B,)
    if runs_eagerly_on_cpu(images) and bool(is_full.all()):
        return None
    occupied = (images != 0).any(dim=1)  # (B, H, W)
    height = _last_true(occupied.any(dim=2))
    width = _last_true(occupied.any(dim=1))
    return torch.stack([height, width], dim=1)


def cell_mask(content: Tensor, map_size: tuple[int, int], stride: int) -> Tensor:
    """Cells of a map with the given stride that overlap the content (B, 2): (B, H, W, 1) float."""
    y = torch.arange(map_size[0], device=content.device) * stride
    x = torch.arange(map_size[1], device=content.device) * stride
    rows = y < content[:, :1]  # (B, H)
    columns = x < content[:, 1:]  # (B, W)
    return (rows[:, :, None] & columns[:, None, :]).unsqueeze(-1).float()


def halo_index(
    grid: WindowGrid, window_index: Tensor, batch_size: int, halo: int, *, is_static: bool = False
) -> HaloIndex:
    """Finds, for each cell of each kept window grown by ``halo`` cells, the row that holds it.

    A cell of a kept window is taken from the packed windows, so that it is up to date; a cell of a
    window that was not kept from the (unchanged) map; a cell outside the map is a row of zeros,
    exactly as in a convolution of the whole map with zero padding.

    Args:
        window_index: (P,) int64 in [0, B·N); of equal ones, the first is up to date.
        halo: cells, >= 0.
        is_static: the number R of outside cells must not depend on values: all halo cells are.
    """
    side, num_slots = grid.window_size, len(window_index)
    cell, inside = window_cells(grid, window_index, halo)  # (P, G, G)
    slot = _slots(grid, window_index, batch_size)[_window_of(grid, cell)]  # (P, G, G)
    y, x = cell // grid.map_size[1] % grid.map_size[0] % side, cell % grid.map_size[1] % side
    packed = (slot * side + y) * side + x
    if is_static:
        is_ring = torch.ones_like(cell[0], dtype=torch.bool)  # (G, G)
        is_ring[halo : halo + side, halo : halo + side] = False
        num_ring = is_ring.numel() - side * side
        ring = (~is_ring).flatten().int().argsort(stable=True)[:num_ring]
        outside = cell.flatten(1).index_select(1, ring).flatten()  # (R,)
        rank = (is_ring.flatten().cumsum(0) - 1).view_as(is_ring)  # (G, G)
        rank = rank + num_ring * torch.arange(num_slots, device=cell.device)[:, None, None]
    else:
        is_outside = inside & (slot >= num_slots)
        outside = cell[is_outside]  # (R,)
        rank = is_outside.flatten().cumsum(0).view_as(cell) - 1
    num_packed = num_slots * side * side
    table = torch.where(slot < num_slots, packed, num_packed + rank)
    table = torch.where(inside, table, num_packed + len(outside))
    return HaloIndex(halo, table.flatten(), outside, inside)


def gather_halo(windows: Tensor, outside: Tensor, index: HaloIndex) -> Tensor:
    """Grows packed windows by their halo.

    Args:
        windows: (P, S, S, C), the kept windows.
        outside: (R, C), the map's values at ``index.outside``.

    Returns:
        (P, S + 2h, S + 2h, C).
    """
    side, channels = windows.shape[1] + 2 * index.halo, windows.shape[-1]
    zero = windows.new_zeros(1, channels)
    table = torch.cat([windows.reshape(-1, channels), outside, zero])
    return table.index_select(0, index.table).view(-1, side, side, channels)


def runs_eagerly_on_cpu(x: Tensor) -> bool:
    """Whether sizes may depend on values: reading one stalls an accelerator and breaks a graph."""
    is_recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    return x.device.type == "cpu" and not is_recorded


def may_overwrite(x: Tensor) -> bool:
    """Whether a result may take the place of ``x``: inference on a CPU.

    A tensor that requires a gradient in a pass without is kept by somebody who will need it again,
    as in reentrant activation checkpointing.
    """
    return not torch.is_grad_enabled() and not x.requires_grad and runs_eagerly_on_cpu(x)


def _whole_and_rest(length: int, side: int) -> list[tuple[int, int]]:
    """First window and length in cells of the run of whole windows and of what is left."""
    whole = length // side
    runs = [(0, whole * side), (whole, length - whole * side)]
    return [run for run in runs if run[1]]


def _mean_in_map(x: Tensor, side: int) -> Tensor:
    """Mean over windows without the cells beyond the map: (B, H, W, C) to (B, rows, columns, C)."""
    x = x.permute(0, 3, 1, 2)  # (B, C, H, W)
    x = F.avg_pool2d(x, side, ceil_mode=True, count_include_pad=False)
    return x.permute(0, 2, 3, 1)  # (B, rows, columns, C)


def _last_true(flags: Tensor) -> Tensor:
    """One past the last True along dim 1 of (B, L); L where there is none. Returns (B,) int64."""
    length = flags.shape[1]
    position = torch.arange(1, length + 1, device=flags.device)
    last = (flags * position).amax(dim=1)
    return torch.where(last == 0, length, last)


def _slots(grid: WindowGrid, window_index: Tensor, batch_size: int) -> Tensor:
    """Position of each window of the batch in ``window_index`` (P,); P where it is missing."""
    num_slots = len(window_index)
    order = torch.arange(num_slots, device=window_index.device)
    slots = order.new_full((batch_size * grid.num_windows,), num_slots)
    return slots.scatter_reduce(0, window_index, order, "amin")


def _window_of(grid: WindowGrid, cell: Tensor) -> Tensor:
    """The window in [0, B·N) of rows of the table (B·H·W, C)."""
    height, width = grid.map_size
    image_row, x = cell // width, cell % width  # image · H + y
    image, y = image_row // height, image_row % height
    row = image * grid.size[0] + y // grid.window_size
    return row * grid.size[1] + x // grid.window_size
