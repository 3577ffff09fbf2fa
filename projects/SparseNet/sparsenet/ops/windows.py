"""Attention windows of a feature map: cutting, pooling, gathering, scattering and their halos.

Maps are channels last. Shorthand: B images, (H, W) cells, C channels, S cells per window side,
N = rows · columns windows per image (row-major), P kept windows of the whole batch, halo h.

A map whose sides are multiples of S is, without a copy, a table of B · H · columns strips of S
cells, and a window is S rows of that table: kept windows are fetched and written back by one
one-dimensional index, and the windows that are not kept cost nothing.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


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
    | one row of zeros]; ``outside`` (R,) int64 indexes the cells of the padded map.
    """

    halo: int
    table: Tensor
    outside: Tensor


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


def gather_windows(x: Tensor, grid: WindowGrid, kept_index: Tensor) -> Tensor:
    """Fetches kept windows from a padded map.

    Args:
        x: padded map (B, Hp, Wp, C), contiguous.
        kept_index: (P,) int64 in [0, B·N).

    Returns:
        (P, S, S, C).
    """
    side, channels = grid.window_size, x.shape[-1]
    strips = x.reshape(-1, side * channels)  # (B·Hp·columns, S·C)
    return strips.index_select(0, _strip_index(grid, kept_index)).view(-1, side, side, channels)


def scatter_windows_(x: Tensor, grid: WindowGrid, kept_index: Tensor, windows: Tensor) -> Tensor:
    """Writes ``windows`` (P, S, S, C) over the kept windows of the padded map ``x``, in place."""
    side, channels = grid.window_size, x.shape[-1]
    strips = windows.reshape(-1, side * channels)
    index = _strip_index(grid, kept_index)
    x.view(-1, side * channels).index_copy_(0, index, strips)
    return x


def spread_windows(values: Tensor, grid: WindowGrid) -> Tensor:
    """Gives every cell the value of its window: (B, rows, columns, C) to (B, H, W, C)."""
    rows, columns = grid.size
    side, channels = grid.window_size, values.shape[-1]
    x = values[:, :, None, :, None].expand(-1, rows, side, columns, side, channels)
    x = x.reshape(-1, rows * side, columns * side, channels)
    return x[:, : grid.map_size[0], : grid.map_size[1]]


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
        (B, 2) int64, pixels; None where every image is full, found out from the borders alone.
    """
    last_row, last_column = images[:, :, -1] != 0, images[:, :, :, -1] != 0  # (B, C, W), (B, C, H)
    if bool((last_row.flatten(1).any(1) & last_column.flatten(1).any(1)).all()):
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


def halo_index(grid: WindowGrid, kept_index: Tensor, batch_size: int, halo: int) -> HaloIndex:
    """Finds, for each cell of each kept window grown by ``halo`` cells, the row that holds it.

    A cell of a kept window is taken from the packed windows, so that it is up to date; a cell of a
    window that was not kept from the (unchanged) map; a cell outside the map is a row of zeros,
    exactly as in a convolution of the whole map with zero padding.

    Args:
        kept_index: (P,) int64 in [0, B·N).
        halo: cells, >= 0.
    """
    side, (rows, columns), width = grid.window_size, grid.size, grid.padded_size[1]
    image, y, x = _grown_cells(grid, kept_index, halo)  # (P, 1, 1), (P, G, 1), (P, 1, G)
    inside = _is_inside(y, grid.map_size[0]) & _is_inside(x, grid.map_size[1])  # (P, G, G)
    y, x = y.clamp(0, grid.padded_size[0] - 1), x.clamp(0, width - 1)
    slots = torch.full((batch_size * rows * columns,), -1, device=kept_index.device)
    slots[kept_index] = torch.arange(len(kept_index), device=kept_index.device)
    slot = slots[(image * rows + y // side) * columns + x // side]  # (P, G, G)
    packed = slot * (side * side) + (y % side) * side + x % side
    is_outside = inside & (slot < 0)
    cell = (image * grid.padded_size[0] + y) * width + x
    outside = cell[is_outside]  # (R,)
    num_packed = len(kept_index) * side * side
    rank = is_outside.flatten().cumsum(0).view_as(slot) - 1
    table = torch.where(is_outside, num_packed + rank, packed)
    table = torch.where(inside, table, num_packed + len(outside))
    return HaloIndex(halo, table.flatten(), outside)


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


def _strip_index(grid: WindowGrid, kept_index: Tensor) -> Tensor:
    """Rows of the strip table that make up the kept windows: (P·S,) int64."""
    columns = grid.size[1]
    image_row, column = kept_index // columns, kept_index % columns  # image · rows + row
    offset = torch.arange(grid.window_size, device=kept_index.device)
    strip_row = image_row[:, None] * grid.window_size + offset  # (P, S), image · Hp + y
    return (strip_row * columns + column[:, None]).flatten()


def _grown_cells(grid: WindowGrid, kept_index: Tensor, halo: int) -> tuple[Tensor, Tensor, Tensor]:
    """Image (P, 1, 1), y (P, G, 1) and x (P, 1, G) of the cells of grown windows, G = S + 2h."""
    columns, side = grid.size[1], grid.window_size
    image, window = kept_index // grid.num_windows, kept_index % grid.num_windows
    offset = torch.arange(-halo, side + halo, device=kept_index.device)
    y = (window // columns * side)[:, None] + offset
    x = (window % columns * side)[:, None] + offset
    return image[:, None, None], y[:, :, None], x[:, None, :]


def _is_inside(position: Tensor, length: int) -> Tensor:
    return (position >= 0) & (position < length)
