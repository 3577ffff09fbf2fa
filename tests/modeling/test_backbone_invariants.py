"""What must hold for every backbone that this project registers."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from torch.nn.modules.batchnorm import _BatchNorm

import sparsenet.modeling.backbone as backbones
from sparsenet.config import add_sparsenet_config

VARIANTS = {"sparsenet": ("attention", "conv", "ls"), "neck": ("fpn", "panet", "bifpn")}
CASES = [
    (name, variant)
    for name in backbones.__all__
    if name.startswith("build_")
    for variant in VARIANTS.get(name.split("_")[1], ("",))
]
FAITHFUL_CASES = [
    ("build_sparsenet_backbone", f"faithful {module}") for module in ("attention", "conv", "ls")
]
every_backbone = pytest.mark.parametrize("name, local_module", CASES + FAITHFUL_CASES)
# The faithful design normalises over the batch, can keep no window, and has parameters without use.
every_sound_backbone = pytest.mark.parametrize("name, local_module", CASES)


def _build(name: str, local_module: str):
    cfg = get_cfg()
    add_sparsenet_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.SPARX_MAMBA.SIZE = "nano"
    cfg.MODEL.TIMM.NAME = "mobilenetv3_small_050"
    cfg.MODEL.NECK.NAME = local_module if "neck" in name else "fpn"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.LSNET.SIZE = "nano"
    cfg.MODEL.SPARSENET.LOCAL_MODULE = local_module.removeprefix("faithful ")
    cfg.MODEL.SPARSENET.DESIGN = "faithful" if "faithful" in local_module else "corrected"
    cfg.MODEL.SPARSENET.SIZE = "nano"
    cfg.MODEL.SPARSENET.KEEP_RATIO = (0.5, 0.5, 0.5, 0.5)
    cfg.MODEL.SPARSENET.EXPLORATION = 0.0  # the only randomness of a training pass
    torch.manual_seed(0)
    return build_backbone(cfg)


def _images(batch: int = 1, height: int = 64, width: int = 128) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@every_backbone
def test_is_registered(name, local_module):
    assert BACKBONE_REGISTRY.get(name) is getattr(backbones, name)


@every_backbone
@pytest.mark.parametrize("size", [(96, 128), (75, 101), (33, 32), (7, 5)])
def test_declared_strides_and_channels_hold(name, local_module, size):
    model = _build(name, local_module).eval()
    divisor = max(1, model.size_divisibility)
    height, width = (-(-v // divisor) * divisor for v in size)
    with torch.no_grad():
        features = model(_images(1, height, width))
    shapes = model.output_shape()
    assert set(features) == set(shapes)
    for key, feature in features.items():
        stride = shapes[key].stride
        expected = (1, shapes[key].channels, -(-height // stride), -(-width // stride))
        assert feature.shape == expected and feature.isfinite().all()


@every_sound_backbone
@pytest.mark.parametrize("training", [False, True])
def test_an_image_does_not_see_its_batch(name, local_module, training):
    model = _build(name, local_module).train(training)
    batch_norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    assert bool(batch_norms) == any(kind in name for kind in ("sparx", "lsnet", "timm"))
    if any(m.training for m in batch_norms):
        pytest.skip("batch norms share statistics in training, as published")
    images = _images(3)
    with torch.no_grad():
        together = model(images)
        for i in range(3):
            for key, feature in model(images[i : i + 1]).items():
                torch.testing.assert_close(feature, together[key][i : i + 1], atol=1e-4, rtol=1e-4)


@every_sound_backbone
def test_every_parameter_gets_a_gradient(name, local_module):
    model = _build(name, local_module)
    for parameter in model.parameters():
        if not parameter.any():  # a factor 0 keeps gradients from what it multiplies
            torch.nn.init.normal_(parameter, std=0.1)
    features = model(_images(2))
    generator = torch.Generator().manual_seed(2)
    sum(
        (f * torch.randn(f.shape, generator=generator)).mean() for f in features.values()
    ).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, key


@every_backbone
def test_state_dict_round_trip(name, local_module):
    model = _build(name, local_module).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    torch.manual_seed(5)
    twin = _build(name, local_module).eval()
    twin.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        first, second = model(_images()), twin(_images())
    assert all(torch.equal(first[key], second[key]) for key in first)


@every_sound_backbone
def test_is_finite_under_bfloat16(name, local_module):
    model = _build(name, local_module)
    with torch.autocast("cpu", torch.bfloat16):
        features = model(_images(2))
        loss = sum(f.float().square().mean() for f in features.values())
    loss.backward()
    assert all(f.isfinite().all() for f in features.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())


@every_backbone
def test_eval_is_deterministic_and_ignores_memory_format(name, local_module):
    model = _build(name, local_module).eval()
    with torch.no_grad():
        first = model(_images())
        second = model(_images().contiguous(memory_format=torch.channels_last))
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=1e-4, rtol=1e-4)
