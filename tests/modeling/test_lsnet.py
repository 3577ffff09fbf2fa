import pytest
import torch
from detectron2.modeling import build_backbone
from torch import nn

from sparsenet.analysis.flops import FlopCount
from sparsenet.config import load_config
from sparsenet.errors import ConfigError
from sparsenet.layers.lsnet_blocks import (
    BiasedAttention,
    ConvNorm,
    LSConvBlock,
    NormLinear,
    RepDWConv,
    SqueezeExcite,
    offset_index,
)
from sparsenet.modeling.backbone.lsnet import LSNet


def _net(size="nano", **options) -> LSNet:
    torch.manual_seed(0)
    return LSNet(size=size, **options)


def _stir(module: nn.Module) -> nn.Module:
    """Random values in place of all that starts as 0 or 1, statistics too."""
    generator = torch.Generator().manual_seed(3)
    for value in module.state_dict().values():
        if value.is_floating_point() and value.dim() == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return module


def _macs(net: LSNet) -> float:
    """Of a classifier at 224², in G: its head has 1000 multiply-adds per channel."""
    head = 1000 * net.output_shape()["stage4"].channels
    return (FlopCount(net, (torch.zeros(1, 3, 224, 224),)).total() + head) / 1e9


@pytest.mark.parametrize(
    "size, plain, fused",
    [("tiny", 0.3193, 0.3163), ("small", 0.5434, 0.5385), ("base", 1.2586, 1.2475)],
)
def test_multiply_adds(size, plain, fused):
    """The published code's numbers, norms included."""
    net = LSNet(size=size)
    assert _macs(net) == pytest.approx(plain, abs=6e-5)
    assert _macs(net.fuse()) == pytest.approx(fused, abs=6e-5)


@pytest.mark.parametrize(
    "module, channels",
    [
        (ConvNorm(8, 12, 3, stride=2), 8),
        (ConvNorm(8, 8, 7, groups=8), 8),
        (RepDWConv(8), 8),
    ],
)
def test_fused_convolutions_compute_the_same(module, channels):
    _stir(module).eval()
    x = torch.randn(2, channels, 9, 6)
    fused = module.fuse()
    assert isinstance(fused, nn.Conv2d)
    torch.testing.assert_close(fused(x), module(x))


def test_fused_linear_computes_the_same():
    module = _stir(NormLinear(6, 4)).eval()
    x = torch.randn(5, 6)
    torch.testing.assert_close(module.fuse()(x), module(x))


def test_fused_net_has_no_norm_but_those_of_predicted_kernels():
    net = _stir(_net()).eval()
    images = torch.randn(1, 3, 70, 96)
    with torch.no_grad():
        plain = net(images)
        fused = net.fuse()(images)
    for name in plain:
        torch.testing.assert_close(fused[name], plain[name], atol=1e-4, rtol=1e-4)
    norms = [k for k, m in net.named_modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    assert norms and all(k.endswith(("mixer.bn", "lkp.norm")) for k in norms)


@pytest.mark.parametrize("channels, hidden", [(64, 16), (128, 32), (96, 24), (320, 80), (448, 112)])
def test_hidden_channels_of_squeeze_excite(channels, hidden):
    assert SqueezeExcite(channels).fc1.out_channels == hidden


@torch.no_grad()
def test_attention_is_the_written_one_with_bias_by_absolute_offset():
    """Against loops over heads and cells; a 2 × 3 map needs the table of 3 × 3 resized."""
    torch.manual_seed(0)
    layer = _stir(BiasedAttention(32, 2, grid_side=3)).eval()
    layer.attention_biases.normal_()
    x = torch.randn(1, 32, 2, 3)
    bias = layer.position_bias((2, 3))
    table = nn.functional.interpolate(
        layer.attention_biases.view(1, 2, 3, 3), (2, 3), mode="bicubic"
    )[0]
    cells = [(i, j) for i in range(2) for j in range(3)]
    for a, (ya, xa) in enumerate(cells):
        for b, (yb, xb) in enumerate(cells):
            torch.testing.assert_close(bias[:, a, b], table[:, abs(ya - yb), abs(xa - xb)])
    q, k, v = layer.qkv(x).split((32, 32, 32), dim=1)
    q = layer.dw(q)
    out = torch.zeros(32, 6)
    for head in range(2):
        rows = slice(16 * head, 16 * head + 16)
        queries, keys, values = (t[0, rows].flatten(1) for t in (q, k, v))
        for cell in range(6):
            share = ((keys * queries[:, cell, None]).sum(0) / 4 + bias[head, cell]).softmax(0)
            out[rows, cell] = values @ share
    torch.testing.assert_close(layer(x), layer.proj(out.view(1, 32, 2, 3)))


def test_the_native_grid_takes_the_table_as_it_is():
    layer = BiasedAttention(32, 2, grid_side=4)
    nn.init.normal_(layer.attention_biases)
    expected = layer.attention_biases[:, offset_index((4, 4))]
    assert torch.equal(layer.position_bias((4, 4)), expected)


def test_biases_follow_weights_that_are_loaded_after_eval():
    net, twin = _net().eval(), _net().eval()
    nn.init.normal_(twin.blocks4[3].mixer.m.attention_biases)
    nn.init.ones_(twin.blocks4[3].mixer.m.proj[1].bn.weight)
    images = torch.randn(1, 3, 130, 70)
    net(images)
    net.load_state_dict(twin.state_dict())
    torch.testing.assert_close(net(images), twin(images))


def test_lsconv_gradients_in_float64():
    torch.manual_seed(0)
    layer = _stir(LSConvBlock(16)).double().eval()
    x = torch.randn(1, 16, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_frozen_statistics_stay_and_can_learn():
    for norm_eval in (True, False):
        net = _net(norm_eval=norm_eval).train()
        before = {k: v.clone() for k, v in net.named_buffers() if "running_var" in k}
        net(torch.randn(2, 3, 64, 64))
        changed = [not torch.equal(v, before[k]) for k, v in net.named_buffers() if k in before]
        assert not any(changed) if norm_eval else all(changed)


def test_drop_path_grows_and_later_stages_are_not_built():
    net = _net(drop_path_rate=0.3)
    rates = [layer.ffn.drop_path.rate for stage in net.stages() for layer in stage[-2:]]
    assert len(rates) == 6 and rates == sorted(rates) and rates[-1] == pytest.approx(0.3)
    short = _net(out_features=("stage2",)).eval()
    assert not hasattr(short, "blocks3")
    assert list(short(torch.randn(1, 3, 32, 32))) == ["stage2"]


def test_trains_in_bfloat16_close_to_float32():
    """One step from the same start; differences are those of the number format."""
    images = torch.randn(2, 3, 64, 64)
    losses = []
    for is_enabled in (False, True):
        net = _stir(_net()).train()
        optimizer = torch.optim.SGD(net.parameters(), 1e-3)
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16, enabled=is_enabled):
                loss = net(images)["stage4"].float().square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in net.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": "huge"}, "SIZE must be one of nano, tiny, small, base, large, xlarge"),
        ({"out_features": ("stage0",)}, "at least one of stage1, stage2, stage3, stage4"),
        ({"out_features": ()}, "OUT_FEATURES"),
        ({"drop_path_rate": 1.0}, r"DROP_PATH_RATE must be in \[0, 1\)"),
        ({"grid_side": 0}, "BIAS_GRID must be a number of cells"),
        ({"bias_resize": "nearest"}, "BIAS_RESIZE must be one of table, image; got 'nearest'"),
    ],
)
def test_settings_that_cannot_work_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        LSNet(**{"size": "nano", **options})


def test_the_fpn_has_levels_of_strides_8_to_128():
    opts = ["MODEL.BACKBONE.NAME", "build_lsnet_fpn_backbone", "MODEL.LSNET.SIZE", "nano",
            "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.DEVICE", "cpu"]  # fmt: skip
    shapes = build_backbone(load_config(None, opts)).output_shape()
    assert {k: s.stride for k, s in shapes.items()} == {f"p{i}": 2**i for i in range(3, 8)}
    opts += ["MODEL.FPN.IN_FEATURES", "['stage1', 'stage2']"]
    fpn = build_backbone(load_config(None, opts))
    assert list(fpn.output_shape()) == ["p3", "p4"]
    with pytest.raises(ConfigError, match="IN_FEATURES must be among"):
        build_backbone(load_config(None, [*opts[:-1], "['res2']"]))
