"""Weights of other projects: names, order of columns, and a whole Swin in the faithful net."""

import pytest
import timm
import torch
from golden_data import load_golden
from torchvision.models import swin_t
from torchvision.models.swin_transformer import SwinTransformer

from sparsenet.errors import CheckpointError
from sparsenet.modeling.backbone import FaithfulSparseNet
from sparsenet.modeling.backbone.sparsenet_faithful import SIZES, FaithfulSize
from sparsenet.modeling.checkpoint import copy_state
from sparsenet.modeling.key_conversion import convert_state

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
