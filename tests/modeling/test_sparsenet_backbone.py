import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch._subclasses.fake_tensor import FakeTensorMode

from sparsenet.config import add_sparsenet_config
from sparsenet.errors import ConfigError
from sparsenet.layers import sparse_stage
from sparsenet.layers.kept_windows import KeptWindows
from sparsenet.layers.layout import DenseLayout, PackedLayout
from sparsenet.modeling.backbone import SparseNet
from sparsenet.ops import windows
from sparsenet.ops.windows import WindowGrid, pool_windows, spread_windows

LOCAL_MODULES = ["attention", "conv", "ls"]


def _net(local_module: str, keep: float = 0.4, **options) -> SparseNet:
    torch.manual_seed(0)
    options = {"size": "nano", "keep_ratio": (keep,) * 4, "exploration": 0.0, **options}
    return SparseNet(local_module=local_module, **options)


def _config(**options):
    cfg = get_cfg()
    add_sparsenet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_sparsenet_fpn_backbone"
    cfg.MODEL.SPARSENET.SIZE = "nano"
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    for key, value in options.items():
        cfg.MODEL.SPARSENET[key] = value
    return cfg


def _dense_masked_stage(stage, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """A stage the slow way: each block on the whole map, written back where windows are kept."""
    grid = WindowGrid(tuple(x.shape[1:3]), stage.window_size)
    x = x + spread_windows(stage.global_branch(pool_windows(x, grid), None), grid)
    cells = spread_windows(kept.view(-1, *grid.size, 1), grid)
    every = torch.ones_like(kept)
    for block in stage.blocks:
        if stage.can_run_dense:
            out = block(x, DenseLayout(grid))
        else:
            layout = PackedLayout(x.clone(), KeptWindows(every, grid))
            out = layout.scatter_(block(layout.gather(), layout))
        x = torch.where(cells, out, x)
    return x


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
@pytest.mark.parametrize("map_size, window_size", [((16, 24), 8), ((23, 17), 7)])
def test_packed_stage_equals_the_dense_masked_one(local_module, map_size, window_size):
    stage = _net(local_module, window_size=window_size).stages[0].double()
    x = torch.randn(2, *map_size, 32, dtype=torch.float64)
    out, selection = stage(x, None)
    assert 0 < selection.kept.sum() < selection.kept.numel()
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    parameters = dict(stage.named_parameters())
    grads = {name: p.grad for name, p in parameters.items()}
    stage.zero_grad()
    expected = _dense_masked_stage(stage, x, selection.kept)
    (expected * weight).sum().backward()
    torch.testing.assert_close(out, expected)
    for name, parameter in parameters.items():
        if not name.startswith("score_net"):
            torch.testing.assert_close(grads[name], parameter.grad, msg=name)


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_packed_stage_has_the_input_gradient_of_the_dense_masked_one(local_module):
    stage = _net(local_module, window_size=4).stages[0].double()
    stage.score_net.predict.weight.data.zero_()  # no gradient to the input through the scores
    ours, theirs = (torch.randn(2, 9, 10, 32, dtype=torch.float64) for _ in range(2))
    theirs.copy_(ours)
    ours.requires_grad_(), theirs.requires_grad_()
    out, selection = stage(ours, None)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (_dense_masked_stage(stage, theirs, selection.kept) * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("local_module", ["conv", "ls"])
@pytest.mark.parametrize("image_size", [(96, 160), (75, 109)])
def test_the_map_as_a_whole_equals_all_windows_packed(local_module, image_size):
    net = _net(local_module, keep=1.0).double()
    images = torch.randn(2, 3, *image_size, dtype=torch.float64)
    dense = net(images)
    for stage in net.stages:
        stage.can_run_dense = False
    packed = net(images)
    for name in dense:
        torch.testing.assert_close(dense[name], packed[name])


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_windows_that_are_not_kept_get_the_global_branch_only(local_module):
    net = _net(local_module, window_size=4).eval()
    stage, x = net.stages[1], torch.randn(1, 16, 12, 64)
    out, selection = stage(x, None)
    grid = WindowGrid((16, 12), 4)
    coarse = x + spread_windows(stage.global_branch(pool_windows(x, grid), None), grid)
    cells = spread_windows(selection.kept.view(1, 4, 3, 1), grid).expand_as(x)
    assert torch.equal(out[~cells], coarse[~cells])
    assert (out[cells] != coarse[cells]).float().mean() > 0.99


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_kept_windows_meet_through_the_halo(local_module):
    stage = _net(local_module, keep=1.0, window_size=4).stages[0].eval()
    stage.global_branch.gate.data.zero_()
    x = torch.randn(1, 8, 8, 32)
    other = x.clone()
    other[0, 4, 4, :16] += 1  # beyond the corner of the first window; LayerNorm sees a change
    changed = (stage(x, None)[0] - stage(other, None)[0])[0].abs().amax(dim=-1) > 1e-7
    assert changed[3, 3]


def test_selections_describe_the_last_pass():
    net = _net("conv", keep=0.3, window_size=7)
    net(torch.randn(2, 3, 200, 333))
    grids = [(8, 12), (4, 6), (2, 3), (1, 2)]
    assert [s.grid_size for s in net.selections] == grids
    assert [s.window_stride for s in net.selections] == [28, 56, 112, 224]
    for selection, (rows, columns) in zip(net.selections, grids):
        budget = max(1, -(-rows * columns * 3 // 10))
        assert selection.kept.sum(dim=1).tolist() == [budget] * 2
        assert selection.logits.shape == selection.valid.shape == (2, rows * columns)
        assert selection.valid.all() and selection.logits.requires_grad
    net(torch.randn(1, 3, 64, 64))
    assert len(net.selections) == 4 and net.selections[0].kept.shape[0] == 1


def test_filling_of_smaller_images_is_never_selected():
    net = _net("conv", keep=0.5, window_size=4).eval()
    images = torch.randn(2, 3, 128, 128)
    images[1, :, 64:] = 0
    net(images)
    first = net.selections[0]
    valid = first.valid.view(2, 8, 8)
    assert valid[0].all() and valid[1, :4].all() and not valid[1, 4:].any()
    assert not (first.kept & ~first.valid).any()
    assert first.kept.sum(dim=1).tolist() == [32, 16]


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
@pytest.mark.parametrize("keep, threshold", [(0.4, None), (1.0, None), (0.9, 0.5)])
def test_a_fixed_number_of_slots_equals_the_exact_number(
    local_module, keep, threshold, monkeypatch
):
    """What accelerators and compiled graphs do, against what the CPU does."""
    net = _net(local_module, keep, keep_threshold=threshold, window_size=4, drop_path_rate=0.0)
    net = net.double()
    images = torch.randn(2, 3, 66, 90, dtype=torch.float64)
    images[1, :, 40:] = 0  # a part of the slots of this image is not needed
    weights = [torch.randn_like(v) for v in net(images).values()]

    def gradients() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        net.zero_grad()
        outputs = list(net(images).values())
        torch.autograd.backward(outputs, weights)
        return outputs, [p.grad for p in net.parameters()]

    exact = gradients()
    monkeypatch.setattr(sparse_stage, "runs_eagerly_on_cpu", lambda x: False)
    fixed = gradients()
    if keep < 1:
        slots = [selection.windows for selection in net.selections]
        assert all(s.is_static for s in slots)
        assert any(len(s) > len(set(s.index.tolist())) for s in slots)
    torch.testing.assert_close(fixed, exact)


def test_a_threshold_computes_what_the_image_asks_for():
    net = _net("conv", 0.5, keep_threshold=0.5, window_size=4).eval()
    with torch.no_grad():
        net(torch.randn(2, 3, 128, 128))
    for selection in net.selections:
        wanted = (selection.logits > 0).sum(dim=1).clamp(1, -(-selection.kept.shape[1] // 2))
        assert torch.equal(selection.kept.sum(dim=1), wanted)


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
@pytest.mark.parametrize("keep", [0.4, 1.0])
def test_nothing_waits_for_a_value_on_an_accelerator(local_module, keep, monkeypatch):
    """Fake tensors have no values: reading one, or a size that needs one, fails."""
    monkeypatch.setattr(sparse_stage, "runs_eagerly_on_cpu", lambda x: False)
    monkeypatch.setattr(windows, "runs_eagerly_on_cpu", lambda x: False)
    net = _net(local_module, keep).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        features = net(torch.empty(2, 3, 64, 96))
    assert features["stage3"].shape == (2, 160, 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_a_compiled_graph_is_whole_and_gives_the_same(local_module):
    """In one graph (fullgraph) nothing waits for a value; the tracing backend, for speed."""
    net = _net(local_module, out_features=("stage0", "stage1"), window_size=4).eval()
    images = torch.randn(2, 3, 40, 56)
    images[1, :, 20:] = 0
    compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
    with torch.no_grad():
        expected, kept = net(images), [s.kept for s in net.selections]
        torch.testing.assert_close(compiled(images), expected, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(a.kept, b) for a, b in zip(net.selections, kept))


@pytest.mark.slow
@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_inductor_gives_the_same(local_module):
    net = _net(local_module, out_features=("stage0", "stage1"), window_size=4).eval()
    images = torch.randn(2, 3, 40, 56)
    compiled = torch.compile(net, fullgraph=True, dynamic=False)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), net(images), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("threshold", [None, 0.5])
@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_a_cuda_graph_replays_new_images(local_module, threshold):
    net = _net(local_module, window_size=4, keep_threshold=threshold).eval().cuda()
    images = torch.randn(1, 3, 64, 96, device="cuda")
    with torch.no_grad():
        for _ in range(3):  # libraries choose their kernels outside the capture
            net(images)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = net(images)
        images.copy_(torch.randn_like(images))
        graph.replay()
        torch.testing.assert_close(captured, net(images), atol=1e-3, rtol=1e-3)


def test_exploration_happens_in_training_only():
    net = _net("conv", keep=0.25, exploration=0.25, window_size=4)
    images = torch.randn(1, 3, 128, 128)
    net(images)
    assert net.selections[0].kept.sum() == 32
    net.eval()(images)
    assert net.selections[0].kept.sum() == 16


@pytest.mark.parametrize("keep", [0.4, 1.0])
def test_detection_losses_reach_every_score_net(keep):
    net = _net("conv", keep=keep)
    sum(v.square().mean() for v in net(torch.randn(2, 3, 128, 128)).values()).backward()
    for stage in net.stages:
        assert stage.score_net.predict.weight.grad.abs().sum() > 0


def test_a_model_can_be_copied_after_a_training_pass():
    net = _net("conv")
    net(torch.randn(1, 3, 64, 64))
    twin = copy.deepcopy(net)
    assert twin.selections == [] and len(net.selections) == 4


def test_later_stages_are_not_built_and_drop_path_grows():
    net = _net("conv", out_features=("stage1",), drop_path_rate=0.1)
    assert len(net.stages) == 2 and list(net(torch.randn(1, 3, 64, 64))) == ["stage1"]
    full = _net("conv", drop_path_rate=0.1)
    rates = [block.drop_path.rate for stage in full.stages for block in stage.blocks]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.1) and rates == sorted(rates)


def test_the_sparse_neck_needs_kept_windows():
    with pytest.raises(ConfigError, match=r"DESIGN must be corrected with NECK sparse_fpn"):
        build_backbone(_config(DESIGN="faithful", NECK="sparse_fpn", LOCAL_MODULE="conv"))


def test_fpn_names_and_sizes():
    cfg = _config(LOCAL_MODULE="conv")
    backbone = build_backbone(cfg)
    features = backbone(torch.randn(1, 3, 64, 96))
    assert list(features) == ["p2", "p3", "p4", "p5", "p6"]
    assert features["p2"].shape == (1, 32, 16, 24) and features["p5"].shape == (1, 32, 2, 3)
    assert backbone.size_divisibility == 32
    small = build_backbone(_config(OUT_FEATURES=("stage0", "stage1")))
    assert list(small(torch.randn(1, 3, 64, 96))) == ["p2", "p3"]


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("LOCAL_MODULE", "mamba", "LOCAL_MODULE must be one of attention, conv, ls; got 'mamba'"),
        ("SIZE", "huge", "SIZE must be one of nano, tiny; got 'huge'"),
        ("KEEP_RATIO", (0.5, 0.5), "four numbers in .0, 1.*got .0.5, 0.5"),
        ("KEEP_RATIO", (0.5, 0.5, 0.5, 0.0), "KEEP_RATIO"),
        ("KEEP_RATIO", (1.5, 0.5, 0.5, 0.5), "KEEP_RATIO"),
        ("WINDOW_SIZE", 1, "at least 2 cells; got 1"),
        ("OUT_FEATURES", ("res2",), "at least one of stage0, stage1, stage2, stage3"),
        ("OUT_FEATURES", (), "OUT_FEATURES"),
        ("DROP_PATH_RATE", 1.0, r"DROP_PATH_RATE must be in \[0, 1\)"),
        ("EXPLORATION", -0.1, "EXPLORATION"),
        ("KEEP_MODE", "all", "KEEP_MODE must be ratio or threshold; got 'all'"),
        ("NECK", "pan", "NECK must be one of fpn, sparse_fpn; got 'pan'"),
    ],
)
def test_settings_that_cannot_work_are_named(key, value, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(_config(**{key: value}))


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_threshold_is_a_score_between_0_and_1(threshold):
    with pytest.raises(ConfigError, match=r"KEEP_THRESHOLD must be in \(0, 1\); got"):
        build_backbone(_config(KEEP_MODE="threshold", KEEP_THRESHOLD=threshold))


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_a_nano_detector_stays_small(local_module):
    cfg = _config(LOCAL_MODULE=local_module)
    cfg.MODEL.FPN.OUT_CHANNELS = 96
    num_parameters = sum(p.numel() for p in build_backbone(cfg).parameters())
    assert 1.2e6 < num_parameters < 2.2e6


@pytest.mark.parametrize(
    "local_module, size, expected",
    [
        ("attention", "nano", 1_540_690),
        ("attention", "tiny", 33_911_446),
        ("conv", "nano", 1_462_116),
        ("conv", "tiny", 13_156_164),
        ("ls", "nano", 1_334_752),
        ("ls", "tiny", 8_342_620),
    ],
)
def test_number_of_parameters(local_module, size, expected):
    """Shipped weights depend on the shapes: a change here needs a conversion of checkpoints."""
    assert sum(p.numel() for p in _net(local_module, size=size).parameters()) == expected
