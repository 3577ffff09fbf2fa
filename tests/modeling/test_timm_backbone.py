"""Models of timm as backbones."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone

from sparsenet.config import add_sparsenet_config
from sparsenet.errors import CheckpointError, ConfigError
from sparsenet.modeling.backbone import TimmBackbone

timm = pytest.importorskip("timm")

# Maps as (B, C, h, w) and as (B, h, w, C); plain norms, layer norms, norms with activations.
MODELS = {
    "mobilenetv3_small_050": {},
    "pvt_v2_b0": {},
    "test_convnext": {},
    "swin_tiny_patch4_window7_224": {"strict_img_size": False, "depths": (1, 1, 1, 1)},
}


def images(size=(64, 96)) -> torch.Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
def test_maps_are_those_of_timm(name):
    torch.manual_seed(0)
    backbone = TimmBackbone(name, options=MODELS[name]).eval()
    maps, shapes = backbone(images()), backbone.output_shape()
    assert list(maps) == ["c2", "c3", "c4", "c5"] and backbone.size_divisibility == 32
    for (key, x), stride in zip(maps.items(), (4, 8, 16, 32)):
        assert shapes[key].stride == stride
        assert x.shape == (1, shapes[key].channels, 64 // stride, 96 // stride)
    torch.manual_seed(0)
    reference = timm.create_model(name, features_only=True, **MODELS[name]).eval()
    expected = reference(images())[-1]
    if "swin" in name:
        expected = expected.permute(0, 3, 1, 2)
    reference_state = reference.state_dict()
    assert set(backbone.model.state_dict()) <= set(reference_state)
    backbone.model.load_state_dict(
        {key: reference_state[key] for key in backbone.model.state_dict()}
    )
    torch.testing.assert_close(backbone(images())["c5"], expected)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "pvt_v2_b0"])
def test_layers_that_no_map_needs_do_not_learn(name):
    backbone = TimmBackbone(name, out_features=("c3", "c4"))
    maps = backbone(images())
    assert list(maps) == ["c3", "c4"] and backbone.size_divisibility == 16
    sum(x.square().mean() for x in maps.values()).backward()
    for key, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    whole = TimmBackbone(name)
    num_learning, num_all = (
        sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (backbone, whole)
    )
    assert 0 < num_learning < 0.8 * num_all


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "pvt_v2_b0", "test_convnext"])
def test_frozen_layers_are_those_up_to_a_stride(name):
    backbone = TimmBackbone(name, freeze_at=3).train()
    maps = backbone(images())
    assert [x.requires_grad for x in maps.values()] == [False, False, True, True]
    assert all(module.training for module in backbone.modules())
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(norm.weight.requires_grad for norm in norms)


def test_frozen_norms_keep_statistics_and_activations():
    torch.manual_seed(0)
    plain = TimmBackbone("mobilenetv3_small_050").eval()
    torch.manual_seed(0)
    frozen = TimmBackbone("mobilenetv3_small_050", norm="FrozenBN").train()
    expected, maps = plain(images()), frozen(images())
    for key in expected:
        torch.testing.assert_close(maps[key], expected[key], atol=1e-5, rtol=1e-4)
    batch_norm = torch.nn.modules.batchnorm._BatchNorm
    assert not any(isinstance(module, batch_norm) for module in frozen.modules())


def test_reads_its_keys():
    cfg = get_cfg()
    add_sparsenet_config(cfg)
    cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.NAME = "cpu", "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_FEATURES = "pvt_v2_b0", ("c3", "c4")
    cfg.MODEL.TIMM.OPTIONS.drop_path_rate = 0.1
    cfg.MODEL.NECK.NAME, cfg.MODEL.FPN.OUT_CHANNELS = "panet", 16
    model = build_backbone(cfg).eval()
    assert list(model(images())) == ["p3", "p4", "p5"]


def test_what_does_not_fit():
    with pytest.raises(ConfigError, match=r"got 'mobilenetv3_smal'. Near: mobilenetv3_"):
        TimmBackbone("mobilenetv3_smal")
    with pytest.raises(ConfigError, match="among the maps of pvt_v2_b0, c2, c3, c4, c5, got"):
        TimmBackbone("pvt_v2_b0", out_features=("c1", "c2"))
    with pytest.raises(ConfigError, match=r"takes MODEL.TIMM.OPTIONS \{'shape': 3\}"):
        TimmBackbone("pvt_v2_b0", options={"shape": 3})
    with pytest.raises(ConfigError, match="NORM must be one of FrozenBN, SyncBN or empty"):
        TimmBackbone("pvt_v2_b0", norm="GN")
    with pytest.raises(ConfigError, match="FREEZE_AT must be 0, or at least the power of two"):
        TimmBackbone("pvt_v2_b0", freeze_at=1)


def test_weights_out_of_reach_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/nonexistent")
    with pytest.raises(CheckpointError, match=r"MODEL\.TIMM\.PRETRAINED False"):
        TimmBackbone("resnet10t", pretrained=True)
