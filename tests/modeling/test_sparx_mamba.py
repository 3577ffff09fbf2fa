import re
from pathlib import Path

import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_backbone, build_model

from sparsenet.analysis.flops import FlopCount
from sparsenet.config import load_config
from sparsenet.engine.optimizer import build_optimizer
from sparsenet.errors import ConfigError
from sparsenet.layers.channel_attention import GanglionScan2d
from sparsenet.layers.selective_scan_2d import SelectiveScan2d
from sparsenet.layers.sparx_blocks import SkipScale
from sparsenet.modeling.backbone.sparx_mamba import SIZES, STAGES, SparXMamba, plan_shortcuts
from sparsenet.modeling.checkpoint import load_weights
from sparsenet.modeling.key_conversion import convert_state
from tools.convert_checkpoint import main as convert_checkpoint

COCO = Path(__file__).parents[2] / "configs/coco"
CONFIGS = sorted(COCO.glob("mask_rcnn_sparx_mamba_*.yaml"))


def _net(size="nano", **options) -> SparXMamba:
    torch.manual_seed(0)
    return SparXMamba(size=size, **options)


def _widths(size: str, stage: int) -> list[int]:
    spec = SIZES[size]
    rule = spec.ganglion_stride[stage], spec.first_ganglion[stage], spec.max_previous[stage]
    plan = plan_shortcuts(spec.depths[stage], *rule, has_input=stage > 0)
    return [len(sources) * spec.channels[stage] for sources in plan if sources]


@pytest.mark.parametrize(
    "size, expected",
    [
        ("tiny", [[], [384], [320, 640, 960, 1280], [512, 512]]),
        ("small", [[], [384], [656, 984, 1312, 1640, 1640, 1640], [544, 544]]),
        ("base", [[], [480], [1188, 1188, 1584, 1980, 1980, 1980, 1980], [1908]]),
    ],
)
def test_shortcut_widths_are_the_published_ones(size, expected):
    assert [_widths(size, stage) for stage in range(4)] == expected


def test_near_maps_come_before_far_ones_and_far_ones_are_limited():
    plan = plan_shortcuts(6, 2, 0, 1, has_input=True)
    assert plan == [(), (0, 1), (), (3, 2), (), (5, 4)]
    assert plan_shortcuts(2, 1, None, None, has_input=False) == [(), ()]


@pytest.mark.parametrize(
    "size, expected", [("tiny", 26_540_017), ("small", 46_900_953), ("base", 82_900_689)]
)
def test_number_of_parameters(size, expected):
    with torch.device("meta"):
        net = SparXMamba(size=size)
    assert sum(p.numel() for p in net.parameters()) == expected


@pytest.mark.parametrize("size, expected", [("tiny", 5.25), ("small", 9.26), ("base", 15.90)])
def test_multiply_adds_at_224(size, expected):
    with torch.device("meta"):
        net = SparXMamba(size=size)
    count = FlopCount(net, (torch.empty(1, 3, 224, 224, device="meta"),)).by_operator()
    norms = sum(count[f"native_{kind}_norm"] for kind in ("batch", "group", "layer"))
    assert (sum(count.values()) - norms) / 1e9 == pytest.approx(expected, abs=0.005)


def test_scans_start_as_mamba_does():
    torch.manual_seed(0)
    scan = SelectiveScan2d(32, num_states=3)
    step = torch.nn.functional.softplus(scan.dt_projs_bias)
    assert 1e-3 <= step.min() and step.max() <= 0.1001
    torch.testing.assert_close(scan.A_logs[5].exp(), torch.tensor([1.0, 2.0, 3.0]))
    assert (scan.Ds == 1).all()


def test_learned_scale_is_of_the_detection_form_only():
    options = {"reduction": 2, "norm": torch.nn.BatchNorm2d}
    learned = GanglionScan2d(8, 16, has_learned_scale=True, **options)
    fixed = GanglionScan2d(8, 16, has_learned_scale=False, **options)
    assert learned.scale.item() == pytest.approx(0.0309877, rel=1e-5) and fixed.scale is None
    fixed.load_state_dict(learned.state_dict(), strict=False)
    learned.scale.data.fill_((3 * 4) ** -0.5)  # cells of the reduced map
    x, shortcut = torch.randn(2, 8, 6, 7), torch.randn(2, 16, 6, 7)
    torch.testing.assert_close(learned.eval()(x, shortcut), fixed.eval()(x, shortcut))


def test_a_ganglion_block_reads_its_shortcut():
    layer = GanglionScan2d(8, 16, reduction=2, has_learned_scale=True).eval()
    x, shortcut = torch.randn(1, 8, 6, 6), torch.randn(1, 16, 6, 6)
    assert not torch.allclose(layer(x, shortcut), layer(x, shortcut.flip(1)), atol=1e-6)


def test_skip_scale_is_a_factor_and_an_offset_per_channel():
    scale = SkipScale(2)
    with torch.no_grad():
        scale.weight[1], scale.bias[1] = 3.0, 5.0
    x = torch.ones(1, 2, 2, 3)
    assert torch.equal(scale(x)[0, :, 1, 2], torch.tensor([1.0, 8.0]))


def test_checkpointing_changes_no_gradient():
    images = torch.randn(1, 3, 64, 64)
    grads = []
    for blocks in ((0, 0, 0, 0), (1, 2, 3, 1)):
        net = _net(checkpoint_blocks=blocks)
        sum(f.square().mean() for f in net(images).values()).backward()
        grads.append([p.grad for p in net.parameters()])
    for plain, recomputed in zip(*grads):
        torch.testing.assert_close(plain, recomputed)


def test_drop_path_grows_and_later_stages_are_not_built():
    net = _net(drop_path_rate=0.3)
    rates = [block.drop_path.rate for stage in net.layers for block in stage.blocks]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.3) and rates == sorted(rates)
    short = _net(out_features=("stage2",)).eval()
    assert len(short.layers) == 2 and list(short(torch.randn(1, 3, 32, 32))) == ["stage2"]


def test_every_parameter_of_chosen_outputs_gets_a_gradient():
    opts = ["MODEL.BACKBONE.NAME", "build_sparx_mamba_fpn_backbone", "MODEL.SPARX_MAMBA.SIZE",
            "nano", "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.FPN.IN_FEATURES"]  # fmt: skip
    whole = set(_net().state_dict())
    nets = [_net(out_features=("stage2", "stage4")), _net(out_features=("stage3",)),
            build_backbone(load_config(None, [*opts, "['stage2', 'stage3']"]))]  # fmt: skip
    for net in nets:
        sum(f.square().mean() for f in net(torch.randn(1, 3, 64, 64)).values()).backward()
        assert [n for n, p in net.named_parameters() if p.grad is None] == []
    unused = {f"norm.{i}.{leaf}" for i in (0, 2) for leaf in ("weight", "bias")}
    assert set(nets[0].state_dict()) == whole - unused


def test_batch_norms_can_be_frozen():
    net = _net(norm="FrozenBN").train()
    before = {k: v.clone() for k, v in net.named_buffers()}
    assert before
    net(torch.randn(1, 3, 64, 64))
    assert all(torch.equal(v, before[k]) for k, v in net.named_buffers())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": "huge"}, "SIZE must be one of nano, tiny, small, base; got 'huge'"),
        ({"out_features": ("stage0",)}, "at least one of stage1, stage2, stage3, stage4"),
        ({"out_features": ()}, "OUT_FEATURES"),
        ({"drop_path_rate": 1.0}, r"DROP_PATH_RATE must be in \[0, 1\)"),
        ({"checkpoint_blocks": (1,)}, "four numbers of blocks"),
        ({"norm": "foo"}, "NORM must be one of BN, SyncBN, FrozenBN; got 'foo'"),
        ({"norm": ""}, "NORM must be .* got ''"),
        ({"norm": "GN"}, "NORM must be .* got 'GN'"),
    ],
)
def test_settings_that_cannot_work_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        SparXMamba(**{"size": "nano", **options})


def test_the_fpn_asks_for_existing_stages():
    opts = ["MODEL.BACKBONE.NAME", "build_sparx_mamba_fpn_backbone", "MODEL.SPARX_MAMBA.SIZE",
            "nano", "MODEL.FPN.OUT_CHANNELS", "16"]  # fmt: skip
    assert list(build_backbone(load_config(None, opts)).output_shape()) == [
        f"p{level}" for level in range(2, 7)
    ]
    with pytest.raises(ConfigError, match="IN_FEATURES must be among"):
        build_backbone(load_config(None, [*opts, "MODEL.FPN.IN_FEATURES", "['res2']"]))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_published_recipes(path):
    cfg = load_config(path)
    letter, schedule = path.stem[len("mask_rcnn_sparx_mamba_")], path.stem[-2:]
    size = {"t": "tiny", "s": "small", "b": "base"}[letter]
    assert cfg.MODEL.SPARX_MAMBA.SIZE == size and cfg.MODEL.MASK_ON
    assert cfg.MODEL.SPARX_MAMBA.DROP_PATH_RATE == {"t": 0.2, "s": 0.3, "b": 0.45}[letter]
    assert cfg.MODEL.SPARX_MAMBA.NORM == "SyncBN" and cfg.MODEL.BACKBONE.FREEZE_AT == 0
    solver, node = cfg.SOLVER, cfg.INPUT
    epochs, *steps = {"1x": (12, 8, 11), "3x": (36, 27, 33)}[schedule]
    assert solver.MAX_ITER == 7330 * epochs and solver.STEPS == tuple(7330 * s for s in steps)
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.WEIGHT_DECAY) == ("ADAMW", 1e-4, 0.05)
    assert (solver.IMS_PER_BATCH, solver.GAMMA, solver.BACKBONE_MULTIPLIER) == (16, 0.1, 1)
    warmup = solver.WARMUP_METHOD, solver.WARMUP_ITERS, solver.WARMUP_FACTOR
    assert warmup == ("linear", 1000, 0.001)
    assert not solver.CLIP_GRADIENTS.ENABLED and not solver.AMP.ENABLED
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.280, 103.530] and node.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.120, 57.375]
    assert (node.MAX_SIZE_TRAIN, node.MAX_SIZE_TEST, node.MIN_SIZE_TEST) == (1333, 1333, 800)
    assert node.RANDOM_FLIP == "horizontal" and node.MIN_SIZE_TRAIN_SAMPLING == "choice"
    assert (schedule == "3x") == node.CROP.ENABLED
    if schedule == "3x":
        assert node.MIN_SIZE_TRAIN == tuple(range(480, 801, 32))
        assert node.CROP.TYPE == "absolute_range" and tuple(node.CROP.SIZE) == (384, 600)
    else:
        assert node.MIN_SIZE_TRAIN == (800,)


@pytest.mark.parametrize("schedule, steps", [("1x", 351_840), ("3x", 1_055_520)])
def test_two_gpus_take_smaller_batches_and_more_steps(schedule, steps):
    path = COCO / f"mask_rcnn_sparx_mamba_t_fpn_{schedule}.yaml"
    cfg = load_config(path, ["SOLVER.REFERENCE_WORLD_SIZE", "8"])
    solver = DefaultTrainer.auto_scale_workers(cfg, 2).SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (4, 2.5e-5, steps)


@pytest.mark.parametrize("letter, millions", [("t", 46.73), ("s", 67.10), ("b", 103.16)])
def test_detectors_have_the_published_number_of_parameters(letter, millions):
    path = COCO / f"mask_rcnn_sparx_mamba_{letter}_fpn_1x.yaml"
    model = build_model(load_config(path, ["MODEL.DEVICE", "cpu"]))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_only_norms_of_maps_have_no_decay():
    cfg = load_config(CONFIGS[0], ["MODEL.SPARX_MAMBA.SIZE", "nano", "MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = build_optimizer(cfg, model).param_groups
    assert sum(len(g["params"]) for g in groups) == len(names)
    spared = {names[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert spared == {n for n in names.values() if "norm" in n}
    assert {g["weight_decay"] for g in groups} == {0.0, 0.05} and len(CONFIGS) == 6


SMALL = """
MODEL:
  SPARX_MAMBA: {SIZE: nano}
  FPN: {OUT_CHANNELS: 16}
  ROI_HEADS: {NUM_CLASSES: 3}
  ROI_BOX_HEAD: {FC_DIM: 8}
  ROI_MASK_HEAD: {CONV_DIM: 8}
"""
MMDET_NAMES = (  # of Detectron2's modules, in this order
    (r"backbone\.bottom_up\.", "backbone."),
    (r"backbone\.fpn_lateral(\d)", lambda m: f"neck.lateral_convs.{int(m[1]) - 2}.conv"),
    (r"backbone\.fpn_output(\d)", lambda m: f"neck.fpn_convs.{int(m[1]) - 2}.conv"),
    (r"proposal_generator\.rpn_head\.conv", "rpn_head.rpn_conv"),
    (r"proposal_generator\.rpn_head\.objectness_logits", "rpn_head.rpn_cls"),
    (r"proposal_generator\.rpn_head\.anchor_deltas", "rpn_head.rpn_reg"),
    (r"roi_heads\.box_predictor\.cls_score", "roi_head.bbox_head.fc_cls"),
    (r"roi_heads\.box_predictor\.bbox_pred", "roi_head.bbox_head.fc_reg"),
    (r"roi_heads\.box_head\.fc(\d)", lambda m: f"roi_head.bbox_head.shared_fcs.{int(m[1]) - 1}"),
    (
        r"roi_heads\.mask_head\.mask_fcn(\d)",
        lambda m: f"roi_head.mask_head.convs.{int(m[1]) - 1}.conv",
    ),
    (r"roi_heads\.mask_head\.deconv", "roi_head.mask_head.upsample"),
    (r"roi_heads\.mask_head\.predictor", "roi_head.mask_head.conv_logits"),
)


def _mmdet_name(key: str) -> str:
    for pattern, name in MMDET_NAMES:
        key, count = re.subn("^" + pattern, name, key)
        if count:
            return key
    raise AssertionError(f"mmdetection has no {key}")


def test_a_published_detector_loads_completely(tmp_path, capsys):
    config = tmp_path / "small.yaml"
    config.write_text(f"_BASE_: {CONFIGS[-1]}\n{SMALL}")
    cfg = load_config(config, ["MODEL.DEVICE", "cpu"])
    trained, fresh = build_model(cfg), build_model(cfg)
    state = {_mmdet_name(key): value for key, value in trained.state_dict().items()}
    assert len(state) == len(trained.state_dict()) == 431
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "mmdet.pth")
    files = [str(tmp_path / name) for name in ("mmdet.pth", "ours.pth")]
    assert convert_checkpoint([*files, "--from", "sparx", "--config-file", str(config)]) == 0
    output = capsys.readouterr().out
    assert "not used of " in output and ": nothing\n" in output
    assert "431 matched, 0 missing, 0 unexpected, 0 of wrong shape" in output
    assert load_weights(fresh, files[1]).is_complete
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key]), key


def test_a_published_classifier_initialises_a_detector():
    from sparsenet.modeling.backbone.sparx_mamba_classifier import SparXMambaClassifier

    state = SparXMambaClassifier("nano", num_classes=3).state_dict()
    conversion = convert_state(state, "sparx")
    assert {key.split(".")[0] for key in conversion.unused} == {"classifier"}
    report = _net().load_state_dict(conversion.state, strict=False)
    assert not report.unexpected_keys
    assert all(k.endswith(".scale") or k.startswith("norm.") for k in report.missing_keys)
    assert STAGES[0] == "stage1"
