"""The three local modules of the sparse backbone: convolution, large-small (LSNet) and attention.

Each block maps cells to cells in a layout (see ``layout.py``), by updates that are added. They are
normalised per cell (LayerNorm), never over the batch or over the windows that happen to be kept.
"""

from torch import Tensor, nn

from sparsenet.layers.cellwise import CellLinear, FeedForward
from sparsenet.layers.drop_path import DropPath
from sparsenet.layers.layout import Layout, PackedLayout
from sparsenet.layers.lsconv import LSConv
from sparsenet.layers.window_attention import WindowAttention


class ConvBlock(nn.Module):
    """SparseNet's residual unit, pre-norm: x + Linear(GELU(conv 3×3 (LN(x))))."""

    def __init__(self, channels: int, expansion: float, drop_path: float) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv2d(channels, hidden, 3, padding=1)
        self.act = nn.GELU()
        self.proj = CellLinear(hidden, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        update = self.proj(self.act(layout.conv(x, self.conv, self.norm)))
        return x + self.drop_path(update)


class LSBlock(nn.Module):
    """LSNet's block: a mixer, then an FFN.

    Even blocks mix by a depth-wise 3 × 3 convolution and squeeze-excite (per window), odd blocks by
    LSConv. Without BatchNorm the 1 × 1 branch of LSNet's RepDW is redundant; it is left out.
    """

    def __init__(self, channels: int, expansion: float, drop_path: float, is_odd: bool) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.norm1 = nn.LayerNorm(channels)
        self.mixer = LSConv(channels) if is_odd else _DepthwiseExcite(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, hidden, nn.ReLU())
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = x + self.drop_path(self.mixer(x, layout, self.norm1))
        return x + self.drop_path(self.ffn.after(self.norm2, x))


class _DepthwiseExcite(nn.Module):
    """Depth-wise 3 × 3 convolution, then squeeze-excite with the mean of each window."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.excite = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor, layout: Layout, norm: nn.Module) -> Tensor:
        x = layout.conv(x, self.conv, norm)
        return x * layout.window_gate(x, self.excite)


class AttentionBlock(nn.Module):
    """Swin's block on packed windows, with keys from ``halo`` cells around each window."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        expansion: float,
        drop_path: float,
        window_size: int,
        halo: int,
    ) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, num_heads, window_size, halo)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, hidden, nn.GELU())
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, layout: PackedLayout) -> Tensor:
        x = x + self.drop_path(self.attention(x, layout, self.norm1))
        return x + self.drop_path(self.ffn.after(self.norm2, x))
