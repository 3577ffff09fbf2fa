"""Numbers recorded from the published LSNet with weights that are functions of their names.

Evaluation is compared in float32, gradients in float64. The recorded maps of size B, with values up
to 11, are themselves 4e-5 away from what float64 gives: tolerances of maps are shares of the
largest value.
"""

import zlib

import numpy as np
import pytest
import torch
from golden_data import load_golden
from torch import Tensor, nn

timm = pytest.importorskip("timm", reason="the classification form lives in timm's registry")

from sparsenet.layers.lsnet_blocks import offset_index  # noqa: E402
from sparsenet.modeling.backbone.lsnet import LSNet  # noqa: E402
from sparsenet.modeling.backbone.lsnet_classifier import LSNetClassifier  # noqa: E402
from sparsenet.modeling.backbone.lsnet_weights import resize_biases  # noqa: E402

pytestmark = pytest.mark.golden

DAMPED = (".pw2.bn", ".proj.1.bn", ".mixer.bn", ".mixer.conv.bn", ".mixer.conv1.bn")
LETTERS = [
    "t",
    pytest.param("s", marks=pytest.mark.slow),
    pytest.param("b", marks=pytest.mark.slow),
]


def _random(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()))


def _draw(key: str, initial: Tensor) -> Tensor:
    """A state entry as the recording rebuilt it from its name."""
    random, shape = _random(key), tuple(initial.shape)
    if key.endswith(("num_batches_tracked", "attention_bias_idxs")):
        return initial
    if key.endswith(".running_var"):
        value = random.uniform(0.5, 1.5, shape)
    elif key.endswith(".attention_biases"):
        value = random.standard_normal(shape) * 0.5
    elif key.endswith((".running_mean", ".bias")):
        value = random.standard_normal(shape) * 0.1 + 1.5 * key.endswith(".se.fc2.bias")
    elif len(shape) == 1:
        value = random.uniform(0.5, 1.5, shape)
        value *= 0.2 if key.removesuffix(".weight").endswith(DAMPED) else 1.0
    else:
        value = random.standard_normal(shape) / np.prod(shape[1:]) ** 0.5
    return torch.from_numpy(value.astype(np.float32))


def _fill(model: nn.Module) -> nn.Module:
    model.load_state_dict({key: _draw(key, value) for key, value in model.state_dict().items()})
    return model.eval()


def _image(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(_random(name).standard_normal(shape).astype(np.float32))


IMAGE = _image("lsnet/input", (1, 3, 224, 224))


def _net(letter: str = "t", **options) -> LSNetClassifier:
    return _fill(timm.create_model(f"lsnet_{letter}", **options))


def _assert_close(ours: Tensor, recorded: np.ndarray, name: str = "", atol: float = 1e-5) -> None:
    expected = torch.from_numpy(recorded).to(ours)
    torch.testing.assert_close(ours, expected, atol=atol, rtol=1e-5, msg=lambda m: f"{name}: {m}")


def _assert_sampled(ours: Tensor, golden: np.lib.npyio.NpzFile, name: str) -> None:
    assert ours.shape == tuple(golden[f"{name}_shape"])
    assert ours.mean().item() == pytest.approx(float(golden[f"{name}_mean"]), abs=1e-6)
    assert ours.std(correction=0).item() == pytest.approx(float(golden[f"{name}_std"]), rel=1e-5)
    sample, step = golden[f"{name}_sample"], int(golden[f"{name}_stride"])
    _assert_close(ours.flatten()[::step], sample, name, atol=1e-5 * max(1.0, np.abs(sample).max()))


@pytest.mark.parametrize("letter", LETTERS)
@torch.no_grad()
def test_keys_weights_stages_and_logits(letter):
    golden, net = load_golden(f"lsnet_{letter}.npz"), _net(letter)
    state = net.state_dict()
    shapes = {key: "x".join(map(str, value.shape)) for key, value in state.items()}
    assert shapes == dict(zip(golden["keys"].tolist(), golden["shapes"].tolist()))
    for key, total in zip(golden["weight_keys"].tolist(), golden["weight_sum"]):
        assert float(state[key].double().sum()) == pytest.approx(total, abs=1e-6), key
    _assert_sampled(net.patch_embed(IMAGE), golden, "stem")
    last, stages = net.forward_intermediates(IMAGE)
    for i, stage in enumerate(stages):
        _assert_sampled(stage, golden, f"stage{i + 1}")
    _assert_sampled(net.forward_head(last, pre_logits=True), golden, "pooled")
    _assert_close(net.forward_head(last)[0], golden["logits"])
    larger = _image("lsnet/input256", (1, 3, 256, 256))
    _assert_close(net(larger)[0], golden["logits_256"])


@pytest.mark.parametrize("letter", LETTERS)
@torch.no_grad()
def test_fused_and_distilled_forms(letter):
    golden = load_golden(f"lsnet_{letter}.npz")
    fused, net = _net(letter).fuse(), _net(f"{letter}_distill")
    assert sorted(fused.state_dict()) == sorted(golden["fused_keys"].tolist())
    _assert_close(fused(IMAGE)[0], golden["logits_fused"])
    extra = sorted(key for key in net.state_dict() if key not in set(golden["keys"].tolist()))
    assert extra == sorted(golden["distill_extra_keys"].tolist())
    pooled = net.forward_head(net.forward_features(IMAGE), pre_logits=True)
    _assert_close(net.head(pooled)[0], golden["logits_head_only"])
    _assert_close(net.head_dist(pooled)[0], golden["logits_head_dist_only"])
    _assert_close(net(IMAGE)[0], golden["logits_distill"])
    _assert_close(net.fuse()(IMAGE)[0], golden["logits_distill"])


@pytest.mark.parametrize("letter", LETTERS)
@torch.no_grad()
def test_float64_logits(letter):
    golden, net = load_golden(f"lsnet_{letter}.npz"), _net(letter).double()
    _assert_close(net(IMAGE.double())[0], golden["logits_f64"], atol=1e-12)


def test_lsconv_with_gradients():
    golden, mixer = load_golden("lsnet_blocks.npz"), _net().blocks2[3].mixer
    x = torch.from_numpy(golden["lsconv_x"]).requires_grad_()
    _assert_close(mixer.lkp(x), golden["lsconv_w"], "kernels")
    out = mixer(x)
    _assert_close(out, golden["lsconv_y"])
    out.backward(torch.from_numpy(golden["lsconv_go"]))
    _assert_close(x.grad, golden["lsconv_gx"])
    recorded = {k.partition("/")[2]: golden[k] for k in golden if k.startswith("lsconv_grad/")}
    gradients = {key: parameter.grad for key, parameter in mixer.named_parameters()}
    assert set(gradients) == set(recorded)
    for key, value in recorded.items():
        _assert_close(gradients[key], value, key, atol=1e-5 * np.abs(value).max())


@torch.no_grad()
def test_blocks():
    golden, net = load_golden("lsnet_blocks.npz"), _net()
    inputs = {key: torch.from_numpy(golden[key]) for key in golden if key.endswith("_x")}
    even, odd, attention = net.blocks2[2], net.blocks2[3], net.blocks4[3]
    mixed = even.mixer(inputs["block_even_x"])
    _assert_close(mixed, golden["block_even_mixer"])
    _assert_close(even.se(mixed), golden["block_even_se"])
    _assert_close(even(inputs["block_even_x"]), golden["block_even_y"])
    _assert_close(odd(inputs["block_odd_x"]), golden["block_odd_y"])
    _assert_close(attention.mixer(inputs["block_attn_x"]), golden["block_attn_mixer"])
    _assert_close(attention(inputs["block_attn_x"]), golden["block_attn_y"])
    _assert_close(attention.mixer.m.position_bias((4, 4)), golden["attn_bias"])
    assert np.array_equal(offset_index((4, 4)).numpy(), golden["attn_bias_idxs"])
    _assert_close(net.blocks2[:2](inputs["down_x"]), golden["down_y"])


@pytest.mark.parametrize("size", ["224", "256x320", "193x417"])
@torch.no_grad()
def test_published_dense_form(size):
    """Biases for 14 × 14 cells, resized like a picture, as the released detectors have them."""
    golden = load_golden("lsnet_t_det.npz")
    state = resize_biases(_fill(LSNet(size="tiny")).state_dict(), 14)
    _assert_close(state[str(golden["attention_bias_key"])], golden["attention_biases_196"])
    net = LSNet(size="tiny", grid_side=14, bias_resize="image").eval()
    report = net.load_state_dict(state, strict=False)
    assert all(key.endswith("attention_bias_idxs") for key in report.missing_keys)
    height, width = (int(side) for side in (size.split("x") * 2)[:2])
    outputs = net(_image(f"lsnet/det_input/{size}", (1, 3, height, width)))
    for i, output in enumerate(outputs.values()):
        _assert_sampled(output, golden, f"{size}/out{i}")


def test_one_training_step():
    golden = load_golden("lsnet_t_train.npz")
    net = _net().double().train()
    images = _image("lsnet/train_input", (4, 3, 224, 224)).double()
    logits = net(images)
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(golden["targets"]))
    assert loss.item() == pytest.approx(float(golden["loss_f64"]), abs=1e-12)
    _assert_close(logits.detach().float(), golden["logits_f64"])
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in net.named_parameters()}
    assert sorted(gradients) == sorted(golden["grad_keys"].tolist())
    norms = [gradients[key].norm().item() for key in golden["grad_keys"].tolist()]
    sums = [gradients[key].sum().item() for key in golden["grad_keys"].tolist()]
    np.testing.assert_allclose(norms, golden["grad_norm_f64"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(sums, golden["grad_sum_f64"], rtol=1e-6, atol=1e-7)
    state = net.state_dict()
    after = [state[key].sum().item() for key in golden["bn_keys"].tolist()]
    np.testing.assert_allclose(after, golden["bn_sum_after_f64"], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_artist_model():
    golden = load_golden("lsnet_artist.npz")
    width, num_classes = int(golden["feature_dim"]), int(golden["num_classes"])
    net = _fill(timm.create_model(str(golden["model"]), num_classes=num_classes, feature_dim=width))
    shapes = {key: "x".join(map(str, value.shape)) for key, value in net.state_dict().items()}
    assert shapes == dict(zip(golden["keys"].tolist(), golden["shapes"].tolist()))
    last = net.forward_features(IMAGE)
    _assert_close(net.forward_head(last, pre_logits=True)[0], golden["features"])
    logits = net.forward_head(last)[0]
    _assert_close(logits, golden["logits"])
    _assert_close(logits.softmax(0), golden["probs"])
