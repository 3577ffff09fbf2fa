"""FLOPs: equal to fvcore's where fvcore can count, right where it cannot."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis, flop_count_str
from torch import nn

from sparsenet.analysis.backbone_speed import BackboneCase, set_keep_ratio
from sparsenet.analysis.flops import ActivationCount, FlopCount
from sparsenet.analysis.op_handles import FLOP_HANDLES, OpValue


class Mixed(nn.Module):
    """Convolutions (grouped, strided, transposed), norms, products, resampling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, groups=4), nn.BatchNorm2d(8), nn.ReLU())
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.norm = nn.GroupNorm(2, 4)
        self.linear = nn.Linear(4, 6)
        self.layer_norm = nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.up(self.block(self.conv(x))))
        x = F.interpolate(x, scale_factor=2, mode="bilinear")
        x = self.layer_norm(self.linear(x.flatten(2).transpose(1, 2)))
        return x @ x.transpose(1, 2)


def fvcore_of(kind, model, x):
    return kind(model.eval(), (x,)).unsupported_ops_warnings(False).uncalled_modules_warnings(False)


@pytest.mark.parametrize("batch", [1, 3])
def test_equal_to_fvcore_module_by_module(batch: int) -> None:
    model, x = Mixed(), torch.rand(batch, 3, 20, 28)
    ours, reference = FlopCount(model, [x]), fvcore_of(FlopCountAnalysis, model, x)
    assert ours.by_module() == reference.by_module()
    activations = fvcore_of(ActivationCountAnalysis, model, x)
    # A transposed product is a view and a product: fvcore counts `matmul` only as `bmm`, too.
    assert ActivationCount(model, [x]).by_module()["block"] == activations.by_module()["block"]


def small_swin() -> nn.Module:
    sides = {"patch_size": [4, 4], "window_size": [4, 4]}
    widths = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
    return torchvision.models.SwinTransformer(**sides, **widths, num_classes=5)


@pytest.mark.parametrize("build", [torchvision.models.resnet18, small_swin])
def test_equal_to_fvcore_on_known_networks(build) -> None:
    model, x = build(), torch.rand(1, 3, 64, 64)
    reference = fvcore_of(FlopCountAnalysis, model, x)
    # A pooling to one value runs as a mean, which fvcore would not count either.
    pooled = reference.by_operator()["adaptive_avg_pool2d"]
    assert FlopCount(model, [x]).total() == reference.total() - pooled
    activations = fvcore_of(ActivationCountAnalysis, model, x)
    assert ActivationCount(model, [x]).total() == activations.total()


class Attention(nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("local_module", ["attention", "conv", "ls"])
def test_a_linear_layer_of_onednn_counts_as_any_other(local_module: str) -> None:
    backbone = BackboneCase(local_module, "nano").build()
    set_keep_ratio(backbone, 0.5)
    images = [torch.randn(1, 3, 96, 128)]
    with torch.backends.mkldnn.flags(enabled=False):
        expected = FlopCount(backbone, images).by_operator()
    found = FlopCount(backbone, images)
    assert sum(found.by_operator().values()) == sum(expected.values())
    assert not any("linear" in name or "mm" in name for name in found.unsupported_ops())
    with torch.backends.mkldnn.flags(enabled=False):
        values = ActivationCount(backbone, images).total()
    assert ActivationCount(backbone, images).total() == values


def test_fused_attention_counts_both_products() -> None:
    q, k, v = torch.rand(2, 3, 5, 8), torch.rand(2, 3, 7, 8), torch.rand(2, 3, 7, 8)
    assert FlopCount(Attention(), [q, k, v]).total() == 2 * 3 * 5 * 7 * (8 + 8)


def test_multi_head_attention_is_not_hidden_by_its_fast_path() -> None:
    model = nn.MultiheadAttention(16, 4, batch_first=True)
    x = torch.rand(2, 5, 16)
    expected = 2 * 5 * 16 * (4 * 16) + 2 * 5 * 5 * (16 + 16)  # four projections, two products
    assert FlopCount(model, [x, x, x]).total() == expected
    assert torch.backends.mha.get_fastpath_enabled()


class Pool(nn.Module):
    def __init__(self, sampling_ratio: int) -> None:
        super().__init__()
        self.sampling_ratio = sampling_ratio

    def forward(self, x: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return torchvision.ops.roi_align(x, boxes, (2, 2), 0.5, self.sampling_ratio, aligned=True)


def test_roi_align_counts_its_samples() -> None:
    x = torch.rand(1, 3, 16, 16)
    boxes = torch.tensor([[0.0, 0.0, 0.0, 12.0, 4.0], [0.0, 0.0, 0.0, 1.0, 1.0]])
    assert FlopCount(Pool(2), [x, boxes]).total() == 2 * 2 * 2 * 2 * 2 * 3 * 4
    # Adaptive: cells of 6 × 2 pixels over 2 × 2 bins are 3 × 1 samples a bin; the small box 1 × 1.
    assert FlopCount(Pool(0), [x, boxes]).total() == (3 * 1 + 1) * 2 * 2 * 3 * 4


def test_small_kernel_aggregation_costs_its_taps() -> None:
    x, weight = torch.empty(2, 16, 6, 7), torch.empty(2, 4, 9, 6, 7)
    handle = FLOP_HANDLES["sparsenet::ska"]
    assert handle([OpValue(x), OpValue(weight)], [OpValue(x)]) == 2 * 16 * 6 * 7 * 9


def test_a_scan_costs_its_states() -> None:
    u, delta, a = torch.empty(1, 2, 5, 6, 8), torch.empty(4, 2, 5, 6, 8), torch.empty(4, 8, 3)
    inputs = [OpValue(tensor) for tensor in (u, delta, a)]
    expected = 9 * (5 * 6) * 8 * 4 * 3 + (5 * 6) * 8 * 4  # 9·L·E·K·N + L·E·K for one image
    assert FLOP_HANDLES["sparsenet::grid_scan"](inputs, [OpValue(u)]) == 2 * expected


def test_what_is_not_counted_is_told() -> None:
    analysis = FlopCount(
        nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Softmax(-1)), [torch.rand(2, 4)]
    )
    assert analysis.total() == 32
    assert analysis.unsupported_ops() == {"aten::gelu": 1, "aten::_softmax": 1}
    assert analysis.unsupported_ops("1") == {"aten::gelu": 1}
    assert analysis.by_operator("0") == {"addmm": 32}


def test_the_model_is_left_as_it_was() -> None:
    model = Mixed().train()
    FlopCount(model, [torch.rand(1, 3, 8, 8)]).total()
    assert model.training and not model.conv._forward_hooks and not model.conv._forward_pre_hooks
    assert torch.equal(model.block[1].running_mean, torch.zeros(8))


def test_the_structure_has_numbers_of_every_module() -> None:
    x = torch.rand(1, 3, 20, 28)
    model = Mixed()
    text = flop_count_str(FlopCount(model, [x]), ActivationCount(model, [x]))
    assert "(conv): Conv2d" in text and "#flops: 30.24K" in text  # 8·10·14 outputs · 27 products
