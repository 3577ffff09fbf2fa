"""The published sparse backbones: figures of the papers, invariants, place in a detector."""

import copy
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import Boxes, Instances
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock

from sparsenet.config import load_config
from sparsenet.errors import ConfigError
from sparsenet.modeling.backbone import FaithfulSparseNet
from sparsenet.modeling.backbone.sparsenet_faithful import (
    SIZES,
    FaithfulSize,
    FaithfulStage,
    PatchMerging,
)
from sparsenet.modeling.losses import find_window_selector
from sparsenet.ops.windows import WindowGrid, spread_windows

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LOCAL_MODULES = ["attention", "conv", "ls"]
ATTENTION, CONV, LS = (SIZES[name]["tiny"] for name in LOCAL_MODULES)
TILE, FRAME = (667, 1333), (800, 1280)
SHIPPED = (0.7, 0.5, 0.3, 0.2)


def _net(local_module: str, size="nano", keep=0.5, **options) -> FaithfulSparseNet:
    torch.manual_seed(0)
    size = SIZES[local_module][size] if isinstance(size, str) else size
    keep_ratio = (keep,) * 4 if isinstance(keep, float) else keep
    return FaithfulSparseNet(local_module=local_module, size=size, keep_ratio=keep_ratio, **options)


def _two_stages(local_module: str) -> FaithfulSparseNet:
    size = FaithfulSize((32, 32, 32, 32), (2, 2, 1, 1))
    return _net(local_module, size, keep=0.6, out_features=("stage0", "stage1"))


def _meta_net(*args, **options) -> FaithfulSparseNet:
    with torch.device("meta"):
        return _net(*args, **options).eval()


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- figures of the papers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "local_module, size, total, stages",
    [
        ("attention", ATTENTION, 53_529_886, (527_767, 2_087_725, 22_508_041, 28_398_769)),
        ("conv", CONV, 126_480_388, (628_673, 2_502_529, 85_550_849, 37_793_281)),
        (
            "conv",
            replace(CONV, layers=(3, 4, 6, 3)),
            148_022_276,
            (924_609, 4_865_921, 85_550_849, 56_675_841),
        ),
        ("ls", LS, 19_364_628, (199_473, 780_897, 8_190_017, 10_189_185)),
        ("ls", replace(LS, depths=(2, 2, 4, 2)), 16_814_420, None),
        ("ls", replace(LS, depths=(2, 2, 16, 2)), 32_115_668, None),
    ],
)
def test_number_of_parameters(local_module, size, total, stages):
    net = _meta_net(local_module, size)
    assert _count(net) == total
    assert stages is None or tuple(_count(stage) for stage in net.stages) == stages


@pytest.mark.parametrize(
    "local_module, local, coarse, dead",
    [
        ("attention", 25_959_258, 25_935_936 - 1_104, 16_516_896),
        ("conv", 62_870_272 - 2 * (128 + 256 + 3 * 512 + 1024), 62_864_384, 45_600_000),
        ("ls", 1_354_768, 17_264_128, 10_990_000),
    ],
)
def test_parameters_of_the_two_branches_and_the_dead_ones(local_module, local, coarse, dead):
    net = _meta_net(local_module, "tiny")
    globals_ = [stage.global_blocks for stage in net.stages]
    dead_now = sum(_count(block) for blocks in globals_ for block in blocks[:-1])
    assert dead_now == pytest.approx(dead, rel=2e-3)
    assert sum(map(_count, globals_)) == pytest.approx(coarse, rel=2e-4)
    assert sum(_count(s.local_blocks) for s in net.stages) == pytest.approx(local, rel=2e-4)
    for blocks in globals_:
        assert not any(p.requires_grad for block in blocks[:-1] for p in block.parameters())
        assert all(p.requires_grad for p in blocks[-1].parameters())


@pytest.mark.parametrize(
    "image_size, keep, grids, kept",
    [
        (FRAME, SHIPPED, [(29, 46), (15, 23), (8, 12), (4, 6)], [933, 172, 28, 4]),
        (FRAME, 0.7, [(29, 46), (15, 23), (8, 12), (4, 6)], [933, 241, 67, 16]),
        (TILE, SHIPPED, [(24, 48), (12, 24), (6, 12), (3, 6)], [806, 144, 21, 3]),
        (TILE, 0.1, [(24, 48), (12, 24), (6, 12), (3, 6)], [115, 28, 7, 1]),
    ],
)
def test_windows_and_kept_ones(image_size, keep, grids, kept):
    net = _net("conv", FaithfulSize((8, 8, 8, 8), (1, 1, 1, 1)), keep).eval()
    with torch.no_grad():
        net(torch.randn(1, 3, *image_size))
    assert [s.grid_size for s in net.unsupervised_selections] == grids
    assert [s.kept.sum().item() for s in net.unsupervised_selections] == kept
    assert [s.window_stride for s in net.unsupervised_selections] == [28, 56, 112, 224]


def _giga_macs(local_module: str, size: FaithfulSize, keep, image_size: tuple[int, int]) -> float:
    """Multiply-adds by fvcore's rules, on shapes alone.

    fvcore counts the graph of a trace. That has no dead computations, so neither have its numbers
    (nor the published ones) the global blocks whose result nobody uses.
    """
    aten = torch.ops.aten

    def per_input(cost: float) -> Callable[..., float]:
        return lambda shape, *_, **__: 2 * cost * math.prod(shape)

    def per_output(*_, out_shape, **__) -> float:
        return 2 * 4 * math.prod(out_shape)

    rules = {
        aten.native_layer_norm: per_input(5),
        aten.native_group_norm: per_input(5),
        aten.native_batch_norm: per_input(2),
        aten.avg_pool2d: per_input(1),
        aten.upsample_bilinear2d: per_output,
    }
    counter = FlopCounterMode(display=False, custom_mapping=rules)
    net = _meta_net(local_module, size, keep)  # initialisation looks at values, which fakes lack
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        net.to_empty(device="cpu")
        for stage in net.stages:
            stage.global_blocks = stage.global_blocks[-1:]
        with counter:
            net(torch.zeros(1, 3, *image_size))
    return counter.get_total_flops() / 2e9


HEADLINES = [
    ("attention", ATTENTION, TILE, SHIPPED, 33.837),
    ("conv", CONV, TILE, 0.7, 141.25),
    ("ls", LS, TILE, 0.1, 2.390),
    ("attention", ATTENTION, FRAME, 1.0, 104.46),
]
OTHER_BUDGET = (0.7, 0.6, 0.3, 0.2)
TABLE = [
    ("attention", ATTENTION, TILE, (1.0, 0.7, 0.5, 0.3, 0.1), (82.03, 58.13, 43.31, 27.2, 11.63)),
    ("attention", ATTENTION, FRAME, (0.7, 0.5, 0.3, 0.1), (74.03, 54.88, 34.49, 14.63)),
    ("attention", ATTENTION, FRAME, (SHIPPED, OTHER_BUDGET), (41.78, 43.36)),
    ("attention", ATTENTION, TILE, (OTHER_BUDGET,), (35.10,)),
    ("conv", CONV, TILE, (1.0, 0.1), (202.7, 21.48)),
    ("conv", CONV, FRAME, (1.0, 0.7, 0.1), (264.7, 185.0, 27.69)),
    ("conv", replace(CONV, layers=(3, 4, 6, 3)), FRAME, (0.7,), (213.6,)),
    ("ls", LS, FRAME, (1.0, 0.7, 0.5, 0.1), (7.73, 6.07, 5.02, 2.83)),
    ("ls", replace(LS, depths=(2, 2, 4, 2)), FRAME, (1.0, 0.7, 0.5, 0.1), (6.84, 5.45, 4.58, 2.74)),
    (
        "ls",
        replace(LS, depths=(2, 2, 16, 2)),
        FRAME,
        (1.0, 0.7, 0.5, 0.1),
        (12.20, 9.19, 7.26, 3.25),
    ),
]


@pytest.mark.parametrize("local_module, size, image_size, keep, expected", HEADLINES)
def test_published_cost(local_module, size, image_size, keep, expected):
    macs = _giga_macs(local_module, size, keep, image_size)
    assert macs == pytest.approx(expected, rel=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("local_module, size, image_size, keeps, expected", TABLE)
def test_table_of_costs(local_module, size, image_size, keeps, expected):
    macs = [_giga_macs(local_module, size, keep, image_size) for keep in keeps]
    assert macs == pytest.approx(expected, rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("local_module, size, image_size, keep, expected", HEADLINES[:3])
def test_published_cost_by_fvcore(local_module, size, image_size, keep, expected):
    fvcore_nn = pytest.importorskip("fvcore.nn")
    net = _net(local_module, size, keep).eval()
    counter = fvcore_nn.FlopCountAnalysis(net, torch.zeros(1, 3, *image_size))
    macs = counter.unsupported_ops_warnings(False).total() / 1e9
    assert macs == pytest.approx(expected, rel=5e-3)


# --- what the design does -------------------------------------------------------------------------


def test_merging_orders_columns_as_unfold():
    merging = PatchMerging(6, 12).double()
    x = torch.randn(2, 7, 5, 6, dtype=torch.float64)
    padded = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (0, 1, 0, 1))
    columns = torch.nn.functional.unfold(padded, 2, stride=2).transpose(1, 2)
    expected = merging.reduction(merging.norm(columns)).view(2, 4, 3, 12)
    torch.testing.assert_close(merging(x), expected)


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_the_score_factor_does_not_change_the_value(local_module):
    stage = _net(local_module).eval().stages[1]
    x = torch.randn(2, 15, 22, 64)
    out, selection = stage(x)
    grid = WindowGrid((15, 22), 7)
    prob = selection.logits.softmax(dim=1)
    pooled = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(x, (0, 0, 0, 6, 0, 6)).permute(0, 3, 1, 2), 7
    ).permute(0, 2, 3, 1)
    coarse = stage.global_blocks[-1](pooled)  # the others have no say
    coarse = stage.score_norm(coarse) if local_module == "attention" else coarse
    score = spread_windows(prob.view(2, *grid.size, 1), grid)
    expected = x + spread_windows(coarse, grid) * (1 - score)
    kept_index = prob.topk(6, dim=1).indices + torch.tensor([[0], [12]])
    for block in stage.local_blocks:
        expected = block(expected, grid, kept_index.flatten())
    assert torch.equal(out, expected)
    assert torch.equal(selection.kept.flatten().nonzero()[:, 0], kept_index.flatten().sort()[0])


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_gradients_reach_all_but_what_the_design_leaves_dead(local_module):
    net = _two_stages(local_module)
    features = net(torch.randn(2, 3, 64, 96))
    sum((f * torch.randn_like(f)).mean() for f in features.values()).backward()
    for key, parameter in net.named_parameters():
        if key.endswith("score_net.bias"):  # a softmax does not see what all its inputs share
            assert parameter.grad is not None
        elif parameter.requires_grad:
            assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, key
        else:
            assert parameter.grad is None
            assert any(part in key for part in ("global_blocks", "score_norm", "norm1")), key
    assert all(stage.score_net.weight.grad.abs().sum() > 0 for stage in net.stages)


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_a_ratio_can_keep_nothing(local_module):
    stage = _net(local_module, keep=0.1).stages[0]
    out, selection = stage(torch.randn(2, 14, 14, 32))
    assert not selection.kept.any() and out.isfinite().all()
    out.square().mean().backward()
    used = {name.split(".")[2] for name, p in stage.local_blocks.named_parameters(prefix="b")
            if p.grad is not None}  # fmt: skip
    assert used == ({"norm1", "norm2"} if local_module == "attention" else set())


def test_a_convolutional_stage_of_one_window_is_a_resnet_stage():
    stage: FaithfulStage = _net("conv", keep=1.0).stages[0].double().eval()
    units = [unit for block in stage.local_blocks for unit in block.layer]
    reference = torch.nn.Sequential(*(BasicBlock(32, 32) for _ in units)).double().eval()
    for theirs, ours in zip(reference, units):
        theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 7, 7, 32, dtype=torch.float64)
    out, _ = stage(x)  # the only window has score 1, so nothing of the global branch is added
    expected = reference(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(out, expected)


def test_drop_path_grows_alike_in_both_branches():
    net = _net("attention", drop_path_rate=0.2)
    branches = [
        [b for s in net.stages for b in getattr(s, f"{n}_blocks")] for n in ("global", "local")
    ]
    rates = [[block.drop_path.rate for block in blocks] for blocks in branches]
    assert rates[0] == rates[1] == pytest.approx([0.2 * i / 7 for i in range(8)])


# --- in a detector --------------------------------------------------------------------------------


def _detector_config(local_module: str):
    path = CONFIGS / f"sample/sparse_rcnn_sparsenet_{local_module}_nano_fpn_sample_faithful.yaml"
    return load_config(path, ["MODEL.DEVICE", "cpu"])


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_sample_configs_differ_from_the_corrected_in_the_design_alone(local_module):
    faithful = _detector_config(local_module)
    name = f"sample/sparse_rcnn_sparsenet_{local_module}_nano_fpn_sample.yaml"
    corrected = load_config(CONFIGS / name, ["MODEL.DEVICE", "cpu"])
    assert faithful.MODEL.SPARSENET.DESIGN == "faithful" != corrected.MODEL.SPARSENET.DESIGN
    corrected.MODEL.SPARSENET.DESIGN = "faithful"
    corrected.OUTPUT_DIR = faithful.OUTPUT_DIR
    assert faithful == corrected


# name -> keep, epochs, epoch of the drop (0: none), rate, units
SEEDS = {
    "attention_tiny_fpn_12e": ((0.7, 0.5, 0.3, 0.2), 12, 11, 1e-4, None),
    "conv_tiny_fpn_36e": ((0.7,) * 4, 36, 33, 1e-4, ("LAYERS", (3, 4, 6, 3))),
    "conv_tiny_fpn_48e": ((0.7,) * 4, 48, 0, 5e-5, ("LAYERS", (2, 2, 6, 2))),
    "conv_tiny_fpn_48e_keep0.1": ((0.1,) * 4, 48, 0, 5e-5, ("LAYERS", (2, 2, 6, 2))),
    "ls_tiny_fpn_36e": ((0.1,) * 4, 36, 11, 1e-4, ("DEPTHS", (2, 2, 6, 2))),
    "ls_tiny_fpn_36e_keep0.5": ((0.5,) * 4, 36, 11, 1e-4, ("DEPTHS", (2, 2, 6, 2))),
    "ls_tiny_fpn_36e_2242": ((0.1,) * 4, 36, 11, 1e-4, ("DEPTHS", (2, 2, 4, 2))),
    "ls_tiny_fpn_36e_22162": ((0.1,) * 4, 36, 11, 1e-4, ("DEPTHS", (2, 2, 16, 2))),
}


@pytest.mark.parametrize("name", SEEDS)
def test_panda_configs_have_the_published_settings(name):
    keep, epochs, drop, rate, units = SEEDS[name]
    stem, suffix = re.fullmatch(r"(.*_\d+e)(.*)", name).groups()
    cfg = load_config(CONFIGS / f"panda/sparse_rcnn_sparsenet_{stem}_faithful{suffix}.yaml")
    node = cfg.MODEL.SPARSENET
    assert node.DESIGN == "faithful" and tuple(node.KEEP_RATIO) == keep
    assert cfg.SOLVER.MAX_ITER == epochs * 39000 // 8 and cfg.SOLVER.IMS_PER_BATCH == 8
    assert cfg.SOLVER.STEPS == ((drop * 39000 // 8,) if drop else ())
    assert (rate, 0.1) == (cfg.SOLVER.BASE_LR, cfg.SOLVER.BACKBONE_MULTIPLIER)
    if units is not None:
        usual = getattr(SIZES[node.LOCAL_MODULE]["tiny"], units[0].lower())
        assert (tuple(node.FAITHFUL[units[0]]) or usual) == units[1]


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_a_detector_trains_without_losses_on_the_scores(local_module):
    torch.manual_seed(0)
    model = build_model(_detector_config(local_module)).train()
    assert isinstance(model.backbone.bottom_up, FaithfulSparseNet)
    assert find_window_selector(model.backbone) is None
    instances = Instances((128, 128), gt_boxes=Boxes(torch.tensor([[8.0, 8, 60, 90]])))
    instances.gt_classes = torch.tensor([1])
    items = [
        {"image": torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8), "instances": instances}
        for _ in range(2)
    ]
    losses = model(items)
    assert not any("window" in name for name in losses)
    sum(losses.values()).backward()
    gradient = model.backbone.bottom_up.stages[0].score_net.weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    with torch.no_grad():
        detections = model.eval()(items)
    assert len(detections) == 2 and "instances" in detections[0]


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_evaluation_does_not_mix_images(local_module):
    net = _two_stages(local_module).eval()
    images = torch.randn(2, 3, 75, 101)
    with torch.no_grad():
        together, alone = net(images), net(images[1:])
    for name, feature in alone.items():
        torch.testing.assert_close(feature, together[name][1:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_training_under_bfloat16_is_finite_and_the_net_can_be_copied(local_module):
    net = _two_stages(local_module)
    with torch.autocast("cpu", torch.bfloat16):
        loss = sum(f.float().square().mean() for f in net(torch.randn(2, 3, 64, 96)).values())
    loss.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    assert len(net.unsupervised_selections) == 2
    assert copy.deepcopy(net).unsupervised_selections == []


@pytest.mark.parametrize(
    "options, message",
    [
        (["DESIGN", "ours"], "DESIGN must be one of corrected, faithful; got 'ours'"),
        (["LOCAL_MODULE", "mamba"], "LOCAL_MODULE must be one of attention, conv, ls; got 'mamba'"),
        (["SIZE", "huge"], "SIZE must be one of nano, tiny; got 'huge'"),
        (["FAITHFUL.DEPTHS", "(2, 2, 2)"], "FAITHFUL.DEPTHS must hold four positive integers"),
        (["FAITHFUL.LAYERS", "(1, 1, 0, 1)"], r"FAITHFUL.LAYERS.*got \(1, 1, 0, 1\)"),
        (
            ["FAITHFUL.CHANNELS", "(48, 64, 96, 160)"],
            "multiples of 32 for local module 'attention'",
        ),
        (["KEEP_RATIO", "(0.5, 0.5, 0.5, 0.0)"], "KEEP_RATIO must hold four numbers"),
    ],
)
def test_settings_that_cannot_work_are_named(options, message):
    name = f"MODEL.SPARSENET.{options[0]}"
    opts = ["MODEL.SPARSENET.DESIGN", "faithful", "MODEL.SPARSENET.LOCAL_MODULE", "attention"]
    cfg = load_config(
        None, ["MODEL.BACKBONE.NAME", "build_sparsenet_backbone", *opts, name, options[1]]
    )
    with pytest.raises(ConfigError, match=message):
        build_backbone(cfg)


def test_keys_of_the_faithful_node_override_the_size():
    opts = {
        "DESIGN": "faithful",
        "SIZE": "nano",
        "LOCAL_MODULE": "ls",
        "FAITHFUL.DEPTHS": "(1, 2, 1, 1)",
    }
    words = [w for key, value in opts.items() for w in (f"MODEL.SPARSENET.{key}", value)]
    cfg = load_config(None, ["MODEL.BACKBONE.NAME", "build_sparsenet_backbone", *words])
    net = build_backbone(cfg)
    assert [len(stage.local_blocks) for stage in net.stages] == [1, 2, 1, 1]
    assert [shape.channels for shape in net.output_shape().values()] == [32, 64, 96, 160]
