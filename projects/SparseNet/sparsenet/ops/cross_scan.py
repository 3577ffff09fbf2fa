"""The four scan orders of a map: by rows, by columns, and both reversed (VMamba, arXiv 2401.10166).

Plain reference; the fast scans follow these orders by index and copy nothing.
"""

import torch
from torch import Tensor

NUM_DIRECTIONS = 4


def cross_scan(x: Tensor) -> Tensor:
    """Reads one map in the four orders.

    Args:
        x: (B, C, H, W).

    Returns:
        (B, 4, C, H·W): row by row, column by column, and the two reversed.
    """
    return maps_to_sequences(x.unsqueeze(1).expand(-1, NUM_DIRECTIONS, -1, -1, -1))


def maps_to_sequences(maps: Tensor) -> Tensor:
    """Reads one map per direction, each in its own order: (B, 4, C, H, W) to (B, 4, C, H·W)."""
    rows = maps[:, 0::2].flatten(3)  # (B, 2, C, L)
    columns = maps[:, 1::2].transpose(3, 4).flatten(3)  # (B, 2, C, L)
    sequences = (rows[:, 0], columns[:, 0], rows[:, 1].flip(-1), columns[:, 1].flip(-1))
    return torch.stack(sequences, dim=1)


def cross_merge(sequences: Tensor, map_size: tuple[int, int]) -> Tensor:
    """Puts four sequences back on the map and sums them: (B, 4, C, H·W) to (B, C, H, W)."""
    height, width = map_size
    both = sequences[:, :2] + sequences[:, 2:].flip(-1)  # (B, 2, C, L)
    rows = both[:, 0].unflatten(-1, (height, width))
    columns = both[:, 1].unflatten(-1, (width, height)).transpose(-1, -2)  # (B, C, H, W)
    return rows + columns
