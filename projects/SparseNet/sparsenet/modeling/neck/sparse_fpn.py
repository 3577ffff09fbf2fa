"""FPN that computes a level only in the windows that the sparse backbone kept there.

Follows *Feature Pyramid Networks for Object Detection* (arXiv 1612.03144) with Detectron2's modules
and state_dict keys, so that weights fit both. Differs from it in: outside the kept windows of a
level, its map repeats the next coarser one, which costs a copy: there is no lateral convolution
(nothing is added to what comes from above) and no output convolution. The coarsest level is
computed everywhere. The maps are ordinary maps; where every window is kept they equal the FPN's.
"""

import torch.nn.functional as F
from detectron2.modeling.backbone.fpn import FPN
from torch import Tensor, nn

from sparsenet.layers.kept_windows import KeptWindows
from sparsenet.ops.linear import linear
from sparsenet.ops.windows import coarser_cells, gather_halo


class SparseFPN(FPN):
    """Takes the arguments of :class:`detectron2.modeling.FPN`; ``norm`` must be "".

    ``bottom_up`` has ``selections``, one per stage "stage0" … "stage3". Stages without kept
    windows, those that ran on the map as a whole, are computed densely.
    """

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: (B, 3, H, W), sides a multiple of ``size_divisibility``.

        Returns:
            name → (B, D, H / stride, W / stride), finest first.
        """
        features = self.bottom_up(images)
        results: list[Tensor] = []  # finest first
        merged: Tensor | None = None
        for lateral, output, name in zip(
            self.lateral_convs, self.output_convs, reversed(self.in_features)
        ):
            windows = self._kept_windows(name)
            if merged is None or windows is None:
                merged = self._merge(lateral(features[name]), merged)  # (B, D, h, w)
                results.insert(0, output(merged))
                continue
            inside = self._merge_windows(features[name], lateral, merged, windows)
            values = _convolve(inside, merged, output, windows)
            results.insert(0, _write(_upsample(results[0]), windows, values))  # (B, D, h, w)
            if name != self.in_features[0]:  # nothing finer needs it
                merged = _write(_upsample(merged), windows, inside)
        names = dict(zip(self._out_features, results))
        if self.top_block is not None:
            results.extend(self.top_block({**features, **names}[self.top_block.in_feature]))
        return dict(zip(self._out_features, results))

    def _kept_windows(self, name: str) -> KeptWindows | None:
        """The windows in which to compute a level; None: everywhere."""
        windows = self.bottom_up.selections[int(name.removeprefix("stage"))].windows
        return None if windows is None or windows.covers_all else windows

    def _merge(self, fine: Tensor, coarse: Tensor | None) -> Tensor:
        if coarse is None:
            return fine
        merged = fine + _upsample(coarse)
        return merged / 2 if self._fuse_type == "avg" else merged

    def _merge_windows(
        self, feature: Tensor, lateral: nn.Conv2d, coarse: Tensor, windows: KeptWindows
    ) -> Tensor:
        """Lateral map plus the coarser one in the kept windows: (P, S, S, D)."""
        cells = windows.gather(feature.permute(0, 2, 3, 1))  # (P, S, S, C)
        fine = linear(cells, lateral.weight.flatten(1), lateral.bias)  # (P, S, S, D)
        merged = fine + _from_coarser(coarse, windows.cells).view_as(fine)
        return merged / 2 if self._fuse_type == "avg" else merged


def _convolve(inside: Tensor, coarse: Tensor, conv: nn.Conv2d, windows: KeptWindows) -> Tensor:
    """Output convolution of the merged map in the kept windows: (P, S, S, D)."""
    halo = windows.halo(conv.kernel_size[0] // 2)
    outside = _from_coarser(coarse, halo.outside)  # (R, D)
    grown = gather_halo(inside, outside.to(inside.dtype), halo)  # (P, S + 2, S + 2, D)
    out = F.conv2d(grown.permute(0, 3, 1, 2), conv.weight, conv.bias)  # (P, D, S, S)
    return out.permute(0, 2, 3, 1)  # (P, S, S, D)


def _from_coarser(coarse: Tensor, cells: Tensor) -> Tensor:
    """Values of the upsampled map (B, D, h / 2, w / 2) at cells of the fine one: (n, D)."""
    size = (coarse.shape[2], coarse.shape[3])
    table = coarse.permute(0, 2, 3, 1).reshape(-1, coarse.shape[1])  # (B·h/2·w/2, D)
    return table.index_select(0, coarser_cells(cells, size))


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _write(x: Tensor, windows: KeptWindows, values: Tensor) -> Tensor:
    """Writes ``values`` (P, S, S, D) over the windows of ``x`` (B, D, h, w), in place if it can."""
    cells = x.permute(0, 2, 3, 1).contiguous()  # (B, h, w, D)
    return windows.scatter_(cells, values).permute(0, 3, 1, 2)
