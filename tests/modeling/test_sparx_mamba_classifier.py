import pytest
import torch

timm = pytest.importorskip("timm", reason="the classification form lives in timm's registry")

from sparsenet.errors import ConfigError  # noqa: E402
from sparsenet.modeling.backbone.sparx_mamba_classifier import (  # noqa: E402
    SparXMambaClassifier,
    checkpoint_filter_fn,
)


def _nano(**options) -> SparXMambaClassifier:
    torch.manual_seed(0)
    return SparXMambaClassifier("nano", **{"num_classes": 5, **options}).eval()


@pytest.mark.parametrize(
    "letter, expected", [("t", 27_051_794), ("s", 47_444_712), ("b", 83_536_168)]
)
def test_timm_knows_the_published_sizes(letter, expected):
    with torch.device("meta"):
        model = timm.create_model(f"sparx_mamba_{letter}")
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model.default_cfg["crop_pct"] == (0.90 if letter == "t" else 0.95)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": "huge"}, "size of .* must be one of nano, tiny, small, base; got 'huge'"),
        ({"drop_path_rate": 1.5}, r"drop_path_rate of .* must be in \[0, 1\); got 1.5"),
    ],
)
def test_settings_that_cannot_work_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        SparXMambaClassifier(**options)


def test_features_only_has_the_chosen_stages():
    model = timm.create_model("sparx_mamba_t", features_only=True, out_indices=(0, 1)).eval()
    assert model.feature_info.channels() == [96, 192]
    assert model.feature_info.reduction() == [4, 8]
    with torch.no_grad():
        shapes = [f.shape for f in model(torch.randn(1, 3, 33, 50))]
    assert shapes == [(1, 96, 9, 13), (1, 192, 5, 7)]
    assert sum(p.numel() for p in model.parameters()) < 3_000_000  # later stages are gone


@pytest.mark.parametrize("size", [(64, 64), (33, 70), (5, 7)])
def test_any_input_size_and_batch(size):
    model, images = _nano(), torch.randn(3, 3, *size)
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    assert together.shape == (3, 5)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_head_can_be_replaced_and_removed():
    model, images = _nano(), torch.randn(2, 3, 32, 32)
    features = model.forward_features(images)
    assert features.shape == (2, 160, 1, 1)
    torch.testing.assert_close(model.forward_head(features), model(images))
    model.reset_classifier(9)
    assert model(images).shape == (2, 9) and model.get_classifier().out_features == 9
    model.reset_classifier(0)
    torch.testing.assert_close(model(images), model.forward_head(features, pre_logits=True))


def test_intermediates_are_the_stages():
    model, images = _nano(), torch.randn(1, 3, 64, 32)
    last, maps = model.forward_intermediates(images)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (32, 16, 8), (64, 8, 4), (96, 4, 2), (160, 2, 1)
    ]  # fmt: skip
    torch.testing.assert_close(last, model.forward_features(images))
    (normed,) = model.forward_intermediates(images, [3], norm=True, intermediates_only=True)
    torch.testing.assert_close(normed, last)
    with pytest.raises(ValueError, match="must be 'NCHW', got 'NLC'"):
        model.forward_intermediates(images, output_fmt="NLC")


def test_trains_with_checkpointing_and_every_parameter_gets_a_gradient():
    model = _nano().train()
    model.set_grad_checkpointing()
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.no_weight_decay() == {n for n, _ in model.named_parameters() if "A_logs" in n}


def test_published_files_hold_the_weights_under_a_key():
    model = _nano()
    for key in ("state_dict", "model", "state_dict_ema"):
        model.load_state_dict(checkpoint_filter_fn({key: model.state_dict()}, model), strict=True)
    assert checkpoint_filter_fn({"a": 1}, model) == {"a": 1}
