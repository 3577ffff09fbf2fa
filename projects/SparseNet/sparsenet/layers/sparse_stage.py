"""One stage of the corrected sparse backbone: score windows, keep some, compute those packed."""

import torch
from torch import Tensor, nn

from sparsenet.layers.global_branch import GlobalBranch
from sparsenet.layers.kept_windows import KeptWindows, bucket
from sparsenet.layers.layout import DenseLayout, PackedLayout
from sparsenet.layers.local_blocks import AttentionBlock
from sparsenet.layers.score_net import (
    ScoreNet,
    WindowSelection,
    largest_budget,
    select_windows,
    straight_through_score,
)
from sparsenet.ops.windows import (
    WindowGrid,
    add_to_windows,
    cell_mask,
    pool_windows,
    runs_eagerly_on_cpu,
    spread_windows,
    window_moments,
)

CHANNELS_PER_HEAD = 32  # as in Swin; the global branch, too


class SparseStage(nn.Module):
    """Scores windows, adds the global branch everywhere, runs local blocks on the kept windows."""

    def __init__(
        self,
        channels: int,
        blocks: list[nn.Module],
        *,
        stride: int,
        window_size: int,
        keep_ratio: float,
        keep_threshold: float | None,
        exploration: float,
    ) -> None:
        """
        Args:
            channels: C.
            blocks: local blocks, applied one after the other.
            stride: input pixels per cell.
            window_size: cells per window side.
            keep_ratio: share of the windows that is kept; with a threshold, at most.
            keep_threshold: score from which a window is kept; None: the best by ratio.
            exploration: share of windows added at random in training.
        """
        super().__init__()
        self.stride, self.window_size = stride, window_size
        self.keep_ratio, self.keep_threshold = keep_ratio, keep_threshold
        self.exploration = exploration
        self.score_net = ScoreNet(channels)
        self.global_branch = GlobalBranch(channels, channels // CHANNELS_PER_HEAD, depth=1)
        self.blocks = nn.ModuleList(blocks)
        # Attention needs its cells in windows; convolutions run on the map where all are kept.
        self.can_run_dense = not any(isinstance(block, AttentionBlock) for block in blocks)

    @property
    def keeps_all(self) -> bool:
        """Whether every window is kept whatever the scores are."""
        return self.keep_ratio >= 1 and self.keep_threshold is None

    def forward(self, x: Tensor, content: Tensor | None) -> tuple[Tensor, WindowSelection]:
        """
        Args:
            x: (B, H, W, C); in inference on a CPU it may be overwritten.
            content: (B, 2), sizes of the images without filling, input pixels; None: all are full.

        Returns:
            The stage's map (B, H, W, C) and its selection.
        """
        grid = WindowGrid((x.shape[1], x.shape[2]), self.window_size)
        mask = None if content is None else cell_mask(content, grid.map_size, self.stride)
        mean, mean_square = window_moments(x, grid, mask)  # (B, rows, columns, C) each
        valid = _valid_windows(mask, mean, grid)  # (B, rows, columns)
        logits = self.score_net(mean, mean_square, valid)
        valid = valid.flatten(1)  # (B, N)
        exploration = self.exploration if self.training else 0.0
        kept = select_windows(logits, valid, self.keep_ratio, exploration, self.keep_threshold)
        coarse = self.global_branch(mean.to(x.dtype), None if mask is None else valid)
        x = add_to_windows(x, coarse.to(x.dtype), grid)  # (B, H, W, C)
        if self.keeps_all and self.can_run_dense:
            windows, x = None, self._run_dense(x, grid, logits.sigmoid())
        else:
            computed, num_slots = self._slots(kept, x, exploration)
            windows = KeptWindows(computed, grid, num_slots, covers_all=self.keeps_all)
            x = self._run_packed(x, windows, logits.sigmoid())
        selection = WindowSelection(
            logits, kept, grid.size, self.stride * self.window_size, valid, windows
        )
        return x, selection

    def _run_dense(self, x: Tensor, grid: WindowGrid, score: Tensor) -> Tensor:
        layout, out = DenseLayout(grid), x
        for block in self.blocks:
            out = block(out, layout)
        if not torch.is_grad_enabled():
            return out
        score = spread_windows(score.view(-1, *grid.size, 1), grid)  # (B, H, W, 1)
        return straight_through_score(out, x, score)

    def _run_packed(self, x: Tensor, kept: KeptWindows, score: Tensor) -> Tensor:
        layout = PackedLayout(x, kept)
        before = windows = layout.gather()  # (P, S, S, C)
        for block in self.blocks:
            windows = block(windows, layout)
        if torch.is_grad_enabled():
            score = score.flatten()[kept.index].view(-1, 1, 1, 1)
            windows = straight_through_score(windows, before, score)
        return layout.scatter_(windows)

    def _slots(self, kept: Tensor, x: Tensor, exploration: float) -> tuple[Tensor, int | None]:
        """Windows to compute (B, N), and how many slots an image gets; None: as many as it keeps.

        A budget by threshold costs an accelerator one look at the largest count; a recorded graph
        cannot look and takes the most that the ratio allows.
        """
        num_windows = kept.shape[1]
        if self.keeps_all:
            return torch.ones_like(kept), None if runs_eagerly_on_cpu(x) else num_windows
        if runs_eagerly_on_cpu(x):
            return kept, None
        most = largest_budget(num_windows, self.keep_ratio, exploration)
        is_captured = x.is_cuda and torch.cuda.is_current_stream_capturing()
        if self.keep_threshold is None or torch.compiler.is_compiling() or is_captured:
            return kept, most
        return kept, bucket(int(kept.sum(dim=1).amax()), most)


def _valid_windows(mask: Tensor | None, mean: Tensor, grid: WindowGrid) -> Tensor:
    """Windows with at least one cell of content: (B, rows, columns) bool."""
    if mask is None:  # a window starts inside the map, so it always holds a cell of it
        return torch.ones(mean.shape[:3], dtype=torch.bool, device=mean.device)
    return pool_windows(mask, grid).squeeze(-1) > 0
