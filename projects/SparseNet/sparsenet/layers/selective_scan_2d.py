"""SS2D: the selective scan of a map in four directions (VMamba, arXiv 2401.10166, section 4.2).

In the form of SparX-Mamba (arXiv 2409.09649; https://github.com/LMMMEng/SparX, without a licence
file): no gate branch, a depthwise 5 × 5 convolution, norms over all channels and cells of an image
together. Differs from it in: maps stay channels last and in their own order through the scan; the
kernels are this project's. Parameter names are the published ones.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsenet.ops.cross_scan import NUM_DIRECTIONS
from sparsenet.ops.precision import at_least_float32
from sparsenet.ops.selective_scan import cross_selective_scan

_EXPANSION = 2  # scanned channels / channels
_CHANNELS_PER_RANK = 16
_STEP_RANGE = (1e-3, 1e-1)  # first step sizes, drawn log-uniformly (Mamba)


class SelectiveScan2d(nn.Module):
    """Projects C channels to E = 2 C, scans them in four directions, and projects back."""

    def __init__(self, channels: int, *, num_states: int = 1) -> None:
        """
        Args:
            num_states: states N per scanned channel.
        """
        super().__init__()
        inner, rank = _EXPANSION * channels, math.ceil(channels / _CHANNELS_PER_RANK)
        self.sizes = (rank, num_states, num_states)  # step, B and C of a direction
        self.in_proj = self._build_in_proj(channels, inner)
        self.conv2d = nn.Conv2d(inner, inner, 5, padding=2, groups=inner)
        self.x_proj_weight = nn.Parameter(torch.empty(NUM_DIRECTIONS * sum(self.sizes), inner, 1))
        self.dt_projs_weight = nn.Parameter(torch.empty(NUM_DIRECTIONS, inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(NUM_DIRECTIONS, inner))
        self.A_logs = nn.Parameter(torch.empty(NUM_DIRECTIONS * inner, num_states))
        self.Ds = nn.Parameter(torch.empty(NUM_DIRECTIONS * inner))
        self.out_norm = nn.GroupNorm(1, inner)
        self.out_proj = nn.Conv2d(inner, channels, 1)
        self._init_scan()

    def _build_in_proj(self, channels: int, inner: int) -> nn.Module:
        return nn.Conv2d(channels, inner, 1)

    def _init_scan(self) -> None:
        rank, num_states, _ = self.sizes
        nn.init.uniform_(self.x_proj_weight, *_symmetric(self.x_proj_weight.shape[1]))
        nn.init.uniform_(self.dt_projs_weight, *_symmetric(rank))
        low, high = (math.log(step) for step in _STEP_RANGE)
        step = torch.empty_like(self.dt_projs_bias).uniform_(low, high).exp_().clamp_(min=1e-4)
        with torch.no_grad():
            self.dt_projs_bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus⁻¹(step)
            self.A_logs.copy_(torch.arange(1, num_states + 1).log())
            self.Ds.fill_(1)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """
        Args:
            x: (B, C, H, W), normalised.
            shortcut: features of earlier blocks (B, C', H, W), for layers that take them.

        Returns:
            (B, C, H, W), the update; the caller adds it.
        """
        u = F.silu(self.conv2d(self._expand(x, shortcut)))  # (B, E, H, W)
        return self.out_proj(self.out_norm(self._scan(u)))

    def _expand(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        return self.in_proj(x)

    def _scan(self, u: Tensor) -> Tensor:
        u = u.permute(0, 2, 3, 1).contiguous()  # (B, H, W, E), a view where u is channels last
        parts = F.linear(u, self.x_proj_weight.squeeze(-1)).unflatten(-1, (NUM_DIRECTIONS, -1))
        parts = parts.permute(3, 0, 1, 2, 4)  # (4, B, H, W, R + 2 N)
        low, b, c = parts.split(self.sizes, dim=-1)
        delta = torch.bmm(low.flatten(1, 3), self.dt_projs_weight.transpose(1, 2))
        delta = delta.unflatten(1, u.shape[:3])  # (4, B, H, W, E)
        decay = -at_least_float32(self.A_logs).exp().unflatten(0, (NUM_DIRECTIONS, -1))
        skip = self.Ds.unflatten(0, (NUM_DIRECTIONS, -1))
        y = cross_selective_scan(u, delta, decay, b, c, skip, self.dt_projs_bias)
        return y.permute(0, 3, 1, 2)  # (B, E, H, W), float32


def _symmetric(fan_in: int) -> tuple[float, float]:
    return -(fan_in**-0.5), fan_in**-0.5
