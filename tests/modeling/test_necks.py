"""PANet and BiFPN on any backbone: structure, agreement with FPN, and what must fit."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.fpn import FPN

from sparsenet.config import load_config
from sparsenet.errors import ConfigError
from sparsenet.modeling.neck import BiFPN, PANet
from sparsenet.modeling.neck.bifpn import FUSION_EPS, Fusion

R18 = (
    "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", "build_neck_backbone",
    "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
    "MODEL.FPN.OUT_CHANNELS", "16",
)  # fmt: skip
CONFIG = "configs/coco/Base-SparseRCNN.yaml"
NECKS = {"fpn": FPN, "panet": PANet, "bifpn": BiFPN}


def build(neck: str, *opts: str):
    torch.manual_seed(0)
    return build_backbone(load_config(CONFIG, [*R18, "MODEL.NECK.NAME", neck, *opts])).eval()


def images(size=(64, 96)) -> torch.Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("neck", NECKS)
def test_levels_of_every_neck(neck):
    model = build(neck)
    assert type(model) is NECKS[neck] and model.size_divisibility == 32
    maps, shapes = model(images()), model.output_shape()
    assert list(maps) == list(shapes) == ["p2", "p3", "p4", "p5", "p6"]
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32, 64]
    torch.testing.assert_close(maps["p6"], maps["p5"][:, :, ::2, ::2])


def test_fpn_weights_fill_the_first_half_of_panet():
    fpn, panet = build("fpn"), build("panet")
    report = panet.load_state_dict(fpn.state_dict(), strict=False)
    assert not report.unexpected_keys
    assert all(key.startswith("panet_") for key in report.missing_keys)
    expected, maps = fpn(images()), panet(images())
    torch.testing.assert_close(maps["p2"], expected["p2"])
    down = panet.panet_down_p3(expected["p2"])
    torch.testing.assert_close(maps["p3"], panet.panet_output_p3(expected["p3"] + down))
    down = panet.panet_down_p4(maps["p3"])
    torch.testing.assert_close(maps["p4"], panet.panet_output_p4(expected["p4"] + down))


@pytest.mark.parametrize("neck", ["panet", "bifpn"])
def test_what_is_fine_reaches_what_is_coarse_and_back(neck):
    """Both directions: every output level depends on every input level."""
    model = build(neck, *(["MODEL.NECK.NUM_LAYERS", "1"] if neck == "bifpn" else []))
    maps = {
        name: torch.randn(1, shape.channels, 64 // shape.stride, 64 // shape.stride)
        for name, shape in model.bottom_up.output_shape().items()
    }
    inputs = {name: x.requires_grad_() for name, x in maps.items()}
    model.bottom_up.forward = lambda _: inputs
    for level, result in model(images()).items():
        total = result.square().sum()
        grads = torch.autograd.grad(total, list(inputs.values()), retain_graph=True)
        assert all(grad.abs().sum() > 0 for grad in grads), level


def test_fusion_is_the_weighted_mean():
    fusion = Fusion(3, 8, "")
    with torch.no_grad():
        fusion.weights.copy_(torch.tensor([1.0, -2.0, 3.0]))  # ReLU: the second has no say
    maps = [torch.randn(1, 8, 4, 4) for _ in range(3)]
    mean = (maps[0] + 3 * maps[2]) / (4 + FUSION_EPS)
    expected = fusion.pointwise(fusion.depthwise(F.silu(mean)))
    torch.testing.assert_close(fusion(maps), expected)
    maps[1] += 5
    torch.testing.assert_close(fusion(maps), expected)


def test_layers_of_a_bifpn_are_repeated():
    one, three = (
        sum(p.numel() for p in build("bifpn", "MODEL.NECK.NUM_LAYERS", n).layers.parameters())
        for n in "13"
    )
    # Six fusions of 16 channels: 3 × 3 depthwise, 1 × 1 with bias; two or three weights each.
    assert one == 6 * (16 * 9 + 16 * 16 + 16) + (3 * 2 + 2 * 3 + 2) and three == 3 * one


@pytest.mark.parametrize("neck", NECKS)
def test_norms_take_the_place_of_biases(neck):
    model = build(neck, "MODEL.FPN.NORM", "BN")
    keys = [key for key in model.state_dict() if not key.startswith("bottom_up")]
    assert any("running_mean" in key for key in keys)
    with_bias = [
        m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None
    ]
    assert not with_bias


@pytest.mark.parametrize("bottom_up", ["build_sparsenet_backbone", "build_lsnet_backbone"])
def test_backbones_of_this_project_take_any_neck(bottom_up):
    maps = build("bifpn", "MODEL.NECK.BOTTOM_UP", bottom_up, "MODEL.FPN.IN_FEATURES", "[]")(
        images((128, 128))
    )
    first = 2 if "sparsenet" in bottom_up else 3
    assert list(maps) == [f"p{level}" for level in range(first, first + 5)]


def test_what_does_not_fit():
    with pytest.raises(ConfigError, match=r"NECK.NAME must be one of fpn, panet, bifpn, got 'nas'"):
        build("nas")
    with pytest.raises(ConfigError, match="BOTTOM_UP must be a registered backbone"):
        build("fpn", "MODEL.NECK.BOTTOM_UP", "build_vgg_backbone")
    with pytest.raises(ConfigError, match="without a neck"):
        build("fpn", "MODEL.NECK.BOTTOM_UP", "build_neck_backbone")
    with pytest.raises(ConfigError, match="FUSE_TYPE must be sum for a bifpn"):
        build("bifpn", "MODEL.FPN.FUSE_TYPE", "avg")
    with pytest.raises(ConfigError, match="NUM_LAYERS is of a bifpn alone"):
        build("panet", "MODEL.NECK.NUM_LAYERS", "2")
    for names in ("['res2', 'res4']", "['res5']", "['res2', 'c3']"):
        with pytest.raises(ConfigError, match=r"two or more maps .* There are res2 \(stride 4\)"):
            build("panet", "MODEL.FPN.IN_FEATURES", names)
