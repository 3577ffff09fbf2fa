"""Published files, in all their forms, as generated state dicts."""

import pytest
import torch

timm = pytest.importorskip("timm", reason="the classification form lives in timm's registry")

from sparsenet.modeling.backbone.lsnet import LSNet  # noqa: E402
from sparsenet.modeling.backbone.lsnet_classifier import (  # noqa: E402
    LSNetClassifier,
    checkpoint_filter_fn,
)
from sparsenet.modeling.backbone.lsnet_weights import resize_biases  # noqa: E402
from sparsenet.modeling.key_conversion import convert_state  # noqa: E402

IMAGES = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))


def _nano(seed: int = 0, **options) -> LSNetClassifier:
    torch.manual_seed(seed)
    model = LSNetClassifier("nano", **{"num_classes": 5, **options}).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def _load(model: LSNetClassifier, content: dict) -> LSNetClassifier:
    model.load_state_dict(checkpoint_filter_fn(content, model), strict=True)
    return model


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"model": state, "model_ema": {}, "optimizer": {}, "epoch": 3},
    lambda state: {"state_dict": state},
    lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
])  # fmt: skip
@torch.no_grad()
def test_containers(wrap):
    source = _nano(1)
    model = _load(_nano(), wrap(source.state_dict()))
    assert torch.equal(model(IMAGES), source(IMAGES))


@torch.no_grad()
def test_counters_and_indices_may_be_missing():
    source = _nano(1)
    dropped = ("num_batches_tracked", "attention_bias_idxs")
    state = {k: v for k, v in source.state_dict().items() if not k.endswith(dropped)}
    assert torch.equal(_load(_nano(), state)(IMAGES), source(IMAGES))


@torch.no_grad()
def test_a_missing_branch_is_nothing_and_is_told(caplog):
    """The published LSNet-B was trained without the 1 × 1 branch of RepDW."""
    source = _nano(1)
    state = {k: v for k, v in source.state_dict().items() if ".mixer.conv1." not in k}
    model = _load(_nano(), {"model": state})
    assert "lack the 1 × 1 branch of 3 blocks" in caplog.text
    x = torch.randn(1, 64, 5, 6)
    mixer, expected = model.blocks2[2].mixer, source.blocks2[2].mixer
    torch.testing.assert_close(mixer(x), expected.conv(x) + x)
    torch.testing.assert_close(mixer.fuse()(x), expected.conv(x) + x)


@torch.no_grad()
def test_heads_of_distilled_files():
    source = _nano(1, distillation=True)
    model = _load(_nano(distillation=True), {"model": source.state_dict()})
    assert torch.equal(model(IMAGES), source(IMAGES))
    plain = _nano()
    report = plain.load_state_dict(checkpoint_filter_fn(source.state_dict(), plain), strict=False)
    assert not report.missing_keys and all("head_dist" in key for key in report.unexpected_keys)


@torch.no_grad()
def test_biases_are_resized_to_the_model_and_back():
    source, model = _nano(1), _nano(img_size=448)
    _load(model, source.state_dict())
    biases = model.blocks4[3].mixer.m.attention_biases
    table = source.blocks4[3].mixer.m.attention_biases.view(1, 4, 4, 4)
    expected = torch.nn.functional.interpolate(table, (7, 7), mode="bicubic")
    torch.testing.assert_close(biases.view(4, 7, 7), expected[0])
    kept = resize_biases(source.state_dict(), 4)
    assert all(torch.equal(value, kept[key]) for key, value in source.state_dict().items())


@torch.no_grad()
def test_a_projection_starts_anew_where_the_file_has_none():
    source, model = _nano(1), _nano(feature_dim=16, num_classes=3)
    head = model.head.l.weight.clone()
    _load(model, {"model": source.state_dict()})
    assert torch.equal(model.head.l.weight, head)
    assert torch.equal(model.forward_features(IMAGES), source.forward_features(IMAGES))
    trained = _nano(2, feature_dim=16, num_classes=3)
    assert torch.equal(_load(model, trained.state_dict())(IMAGES), trained(IMAGES))


@pytest.mark.parametrize("classes", [1000, 4])
def test_timm_loads_a_file_by_its_own_route(tmp_path, classes):
    source = timm.create_model("lsnet_n")
    torch.save({"model": source.state_dict()}, tmp_path / "lsnet.pth")
    model = timm.create_model(
        "lsnet_n",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "lsnet.pth")},
        num_classes=classes,
    )
    state = model.state_dict()
    for key, value in source.state_dict().items():
        if classes == 1000 or not key.startswith("head.l"):
            assert torch.equal(state[key], value), key


@pytest.mark.parametrize("prefix", ["", "backbone."])
@torch.no_grad()
def test_a_classifier_becomes_the_backbone_of_a_detector(prefix):
    source, net = _nano(1, distillation=True), LSNet(size="nano").eval()
    state = {prefix + k: v for k, v in source.state_dict().items() if ".mixer.conv1." not in k}
    state["neck.lateral_convs.0.conv.weight"] = torch.ones(1)
    conversion = convert_state(state, "lsnet", prefix="bottom_up.")
    net.load_state_dict({k.removeprefix("bottom_up."): v for k, v in conversion.state.items()})
    for block in (source.blocks2[2], source.blocks3[2], source.blocks4[2]):
        block.mixer.conv1.c.weight.zero_()
        block.mixer.conv1.bn.bias.zero_()
    expected = source.forward_features(IMAGES)
    torch.testing.assert_close(net(IMAGES)["stage4"], expected)
    assert all("head" in key or "neck" in key for key in conversion.unused)
    assert len(conversion.unused) == 15
