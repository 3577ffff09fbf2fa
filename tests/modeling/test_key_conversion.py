"""Weights of other projects: names, order of columns, and a whole Swin in the faithful net."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model, build_resnet_backbone
from golden_data import load_golden
from torchvision.models import swin_t
from torchvision.models.swin_transformer import SwinTransformer

from sparsenet.config import load_config
from sparsenet.errors import CheckpointError
from sparsenet.modeling.backbone import FaithfulSparseNet
from sparsenet.modeling.backbone.sparsenet_faithful import SIZES, FaithfulSize
from sparsenet.modeling.checkpoint import copy_state
from sparsenet.modeling.key_conversion import convert_state

ROOT = Path(__file__).resolve().parents[2]
# Two windows or more per side in the last stage, as Swin needs to shift. Whole windows for timm:
# it rolls first and pads then, torchvision and the published code pad first.
TORCHVISION_CASE = ((256, 288), 7)
TIMM_CASE = ((256, 256), 4)
SMALL = FaithfulSize((32, 64, 128, 256), (2, 2, 2, 2))


def _torchvision(image_size, window_size):
    net = SwinTransformer([4, 4], 32, [2] * 4, [1, 2, 4, 8], [window_size] * 2)
    return net, lambda images: [net.features[: 2 * i + 2](images) for i in range(4)]


def _timm(image_size, window_size):
    options = {"img_size": image_size, "window_size": window_size, "embed_dim": 32}
    net = timm.models.swin_transformer.SwinTransformer(
        **options, depths=(2,) * 4, num_heads=(1, 2, 4, 8)
    )

    def stages(images):
        maps = [net.patch_embed(images)]
        for layer in net.layers:
            maps.append(layer(maps[-1]))
        return maps[1:]

    return net, stages


@pytest.mark.parametrize("build, case", [(_torchvision, TORCHVISION_CASE), (_timm, TIMM_CASE)])
def test_without_the_global_branch_all_windows_are_swin(build, case):
    torch.manual_seed(0)
    theirs, stages = build(*case)
    for parameter in theirs.parameters():  # fresh biases and norms would hide mistakes
        torch.nn.init.normal_(parameter, std=0.2)
    ours = FaithfulSparseNet(
        local_module="attention",
        size=SMALL,
        keep_ratio=(1.0,) * 4,
        window_size=case[1],
        out_features=("stage0", "stage1", "stage2", "stage3"),
    )
    conversion = convert_state(theirs.state_dict(), "swin")
    report = copy_state(ours, conversion.state, source="Swin")
    assert not report.unexpected and not report.wrong_shape
    assert {key.split(".")[-2] for key in report.missing} == {
        "score_net", "score_norm", "norm0", "norm1", "norm2",
    }  # fmt: skip
    assert all(key.startswith("head.") for key in conversion.unused)
    for stage in ours.stages:
        torch.nn.init.zeros_(stage.score_norm.weight)  # what the global branch adds
    images = torch.randn(1, 3, *case[0])
    ours, theirs = ours.double().eval(), theirs.double().eval()
    with torch.no_grad():
        expected = stages(images.double())
        features = ours(images.double())
    for i, (feature, reference) in enumerate(zip(features.values(), expected)):
        reference = theirs.norm(reference) if i == 3 else ours.get_submodule(f"norm{i}")(reference)
        torch.testing.assert_close(feature.permute(0, 2, 3, 1), reference)


def test_global_blocks_take_the_local_ones_without_position_bias():
    with torch.device("meta"):
        source = swin_t().state_dict()
        ours = FaithfulSparseNet(
            local_module="attention", size=SIZES["attention"]["tiny"], keep_ratio=(0.5,) * 4
        ).state_dict()
    state = convert_state(source, "swin").state
    assert all(state[key].shape == ours[key].shape for key in state)
    missing = {key for key in ours if key not in state}
    assert not [key for key in missing if "blocks" in key or "downsample" in key]
    local = state["stages.2.local_blocks.3.attn.w_msa.qkv.weight"]
    assert state["stages.2.global_blocks.3.attn.qkv.weight"] is local


def test_authors_swin_merges_after_a_stage():
    state = {f"layers.{i}.downsample.reduction.weight": torch.randn(8, 16) for i in range(3)}
    state["layers.3.blocks.1.norm1.weight"] = torch.ones(4)
    converted = convert_state(state | {"norm.bias": torch.zeros(4)}, "swin").state
    assert {key[:19] for key in converted if "downsample" in key} == {
        f"stages.{i}.downsample" for i in range(3)
    }
    assert "norm3.bias" in converted


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_original_checkpoints_fit_completely(prefix):
    golden = load_golden("sparsenet_ls.npz")
    shapes = [tuple(map(int, s.split("x"))) if s else () for s in golden["shapes"].tolist()]
    state = {
        prefix + key: torch.empty(shape, device="meta")
        for key, shape in zip(golden["keys"].tolist(), shapes)
    }
    state["neck.convs.0.conv.weight"] = torch.empty(1)
    conversion = convert_state(state, "sparseformer", prefix="backbone.bottom_up.")
    assert conversion.unused == ("neck.convs.0.conv.weight",)
    with torch.device("meta"):
        net = FaithfulSparseNet(local_module="ls", size=SIZES["ls"]["tiny"], keep_ratio=(0.5,) * 4)
    own = {f"backbone.bottom_up.{key}": value.shape for key, value in net.state_dict().items()}
    assert {key: value.shape for key, value in conversion.state.items()} == own


def test_files_that_say_layers_are_in_swins_order():
    value = torch.arange(8.0)  # two channels: (x, y, channel)
    state = {"layers.0.downsample.norm.weight": value, "stages.1.downsample.norm.weight": value}
    state["layers.0.local_blocks.0.ffn.layers.1.bias"] = value
    converted = convert_state(state, "sparseformer").state
    channel_first = [0, 4, 2, 6, 1, 5, 3, 7]  # of each channel: (0, 0), (0, 1), (1, 0), (1, 1)
    assert converted["stages.0.downsample.norm.weight"].tolist() == channel_first
    assert torch.equal(converted["stages.1.downsample.norm.weight"], value)
    assert "stages.0.local_blocks.0.ffn.layers.1.bias" in converted


@pytest.mark.parametrize(
    "state, source, message",
    [
        ({"a": torch.zeros(1)}, "vit", "must be one of .*sparseformer.*; got 'vit'"),
        ({"fc.weight": torch.zeros(1)}, "swin", r"keys that 'swin' writes, found \['fc.weight'\]"),
        ({"layers.0.blocks.0.attn.logit_scale": torch.zeros(1)}, "swin", "Swin V2"),
    ],
)
def test_weights_of_something_else_are_refused(state, source, message):
    with pytest.raises(CheckpointError, match=message):
        convert_state(state, source)


@pytest.mark.parametrize("depth", [50, 101])
def test_torchvisions_resnet_computes_the_same_under_detectron2s_names(depth):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"resnet{depth}")()
    for name, tensor in theirs.state_dict().items():  # fresh norms would hide mistakes
        if "bn" in name or "downsample.1" in name:
            tensor.uniform_(0.5, 1.5) if tensor.is_floating_point() else None
    cfg = load_config()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    ours = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    conversion = convert_state(theirs.state_dict(), "torchvision")
    assert conversion.unused == ("fc.weight", "fc.bias")
    assert copy_state(ours, conversion.state, source="torchvision").is_complete
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        found = ours.eval()(x)
        x = theirs.eval().maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for i in range(1, 5):
            x = getattr(theirs, f"layer{i}")(x)
            torch.testing.assert_close(found[f"res{i + 1}"], x, rtol=1e-4, atol=1e-4)


def official_state():
    """Names and shapes of a released Sparse R-CNN with ResNet-50; the values take no memory."""
    golden = load_golden("sparsercnn_full_r50fpn.npz")
    shapes = [tuple(int(n) for n in str(s).strip("()").split(",") if n.strip())
              for s in golden["state_dict_shapes"]]  # fmt: skip
    return {str(k): torch.ones(()).expand(s) for k, s in zip(golden["state_dict_keys"], shapes)}


def test_official_sparse_rcnn_loads_as_it_is():
    state = official_state()
    assert len(state) == 523
    conversion = convert_state(state, "sparsercnn", prefix="backbone.bottom_up.")
    assert conversion.state.keys() == state.keys() and not conversion.unused
    cfg = load_config(ROOT / "configs/coco/sparsercnn.res50.100pro.3x.yaml")
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):  # names and shapes are enough
        model = build_model(cfg)
    report = copy_state(model, conversion.state, source="the official weights")
    assert report.is_complete, str(report)


def test_a_resnet_is_no_sparse_rcnn():
    state = {"backbone.bottom_up.stem.conv1.weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match="keys that 'sparsercnn' writes"):
        convert_state(state, "sparsercnn")
