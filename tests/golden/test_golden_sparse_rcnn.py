"""Numbers recorded from the original Sparse R-CNN: head, losses, gradients, full model, units.

Weights and inputs come from ``sparsercnn_recipe.py``; the tolerances leave room for float32 noise,
which the recorded runs measured at 6e-6 (logits) and 4e-4 px (boxes).
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.structures import Boxes, Instances
from golden_data import load_golden

from sparsenet.config import add_sparsenet_config
from sparsenet.modeling.head import DynamicHead, StageOptions
from sparsenet.modeling.head.box_pooler import BoxPooler
from sparsenet.modeling.losses import DetectionTargets, HungarianMatcher, SetCriterion
from sparsenet.modeling.meta_arch.sparse_rcnn import postprocess_detections, select_detections
from sparsenet.ops.boxes import apply_deltas, cxcywh_to_xyxy, pairwise_giou, pairwise_iou
from sparsenet.ops.focal import sigmoid_focal_loss

pytestmark = pytest.mark.golden

CONFIG = Path(__file__).parents[2] / "configs/coco/sparsercnn.res50.100pro.3x.yaml"
LEVELS = ("p2", "p3", "p4", "p5")
NUM_STAGES, NUM_PROPOSALS, NUM_CLASSES = 6, 100, 80
HEADS = ("wholebox", "diversebox")


def _load_recipe():
    path = Path(__file__).with_name("sparsercnn_recipe.py")
    spec = importlib.util.spec_from_file_location("sparsercnn_recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = _load_recipe()


class _Case:
    """The head with recipe weights, its inputs, and what it computes (once per module)."""

    def __init__(self, kind: str, *, use_focal: bool = True, dtype=torch.float32) -> None:
        pooler = BoxPooler(7, (1 / 4, 1 / 8, 1 / 16, 1 / 32), 2, "ROIAlignV2")
        options = StageOptions(num_logits=NUM_CLASSES + (not use_focal))
        self.head = DynamicHead(pooler=pooler, options=options, num_stages=NUM_STAGES).to(dtype)
        recipe.fill_state_dict(self.head, key_map=lambda key: f"head.{key}")
        self.features = [torch.from_numpy(recipe.feature(n)).to(dtype) for n in LEVELS]
        self.whwh = torch.tensor([[w, h, w, h] for h, w in recipe.SIZES_HW], dtype=dtype)
        boxes = _first_boxes(kind)
        self.init_boxes = boxes.to(dtype).requires_grad_()
        embedding = recipe.recipe("init_proposal_features.weight", (NUM_PROPOSALS, 256))
        self.init_features = torch.from_numpy(embedding).to(dtype).requires_grad_()
        matcher = HungarianMatcher(use_focal=use_focal)
        self.criterion = SetCriterion(matcher, NUM_CLASSES).to(dtype)
        self.targets = _targets(self.whwh)

    @property
    def boxes_xyxy(self) -> torch.Tensor:
        return cxcywh_to_xyxy(self.init_boxes) * self.whwh[:, None]

    def run(self):
        proposals = self.init_features.expand(2, -1, -1)
        return self.head(self.features, self.boxes_xyxy, proposals)


def _first_boxes(kind: str) -> torch.Tensor:
    shape = (NUM_PROPOSALS, 4)
    whole = recipe.recipe("init_proposal_boxes.weight", shape)
    return torch.from_numpy(recipe.diverse_boxes() if kind == "diversebox" else whole)


def _instances(index: int) -> Instances:
    truth = recipe.GT[index]
    boxes = Boxes(torch.tensor(truth["boxes"]))
    classes = torch.tensor(truth["classes"])
    return Instances(recipe.SIZES_HW[index], gt_boxes=boxes, gt_classes=classes)


def _targets(whwh: torch.Tensor, empty: tuple[int, ...] = ()) -> DetectionTargets:
    instances = [_instances(i)[:0] if i in empty else _instances(i) for i in range(2)]
    return DetectionTargets.from_instances(instances, whwh, num_classes=NUM_CLASSES)


@pytest.fixture(scope="module")
def heads():
    """kind -> (case, output of one forward pass); computed on first use."""
    cache = {}

    def get(kind):
        golden = load_golden(f"sparsercnn_head_{kind.removesuffix('-softmax')}.npz")
        if kind not in cache:
            case = _Case(kind.removesuffix("-softmax"), use_focal=not kind.endswith("-softmax"))
            with torch.no_grad():
                cache[kind] = case, case.run()
        return golden, *cache[kind]

    return get


def _assert_close(actual, expected, atol, rtol=0.0):
    np.testing.assert_allclose(torch.as_tensor(actual).detach().numpy(), expected, rtol, atol)


def _assert_same_detections(instances: Instances, golden, prefix: str, image: int) -> None:
    """Compares as sets: scores closer than float noise may swap places."""
    rows = [golden[f"{prefix}_{name}_img{image}"] for name in ("classes", "scores", "boxes")]
    assert len(instances) == len(rows[0])
    expected = sorted(zip(rows[0].tolist(), rows[1].tolist(), rows[2].tolist(), strict=True))
    found = sorted(
        zip(
            instances.pred_classes.tolist(),
            instances.scores.tolist(),
            instances.pred_boxes.tensor.tolist(),
            strict=True,
        )
    )
    assert [row[0] for row in found] == [row[0] for row in expected]
    _assert_close([row[1] for row in found], [row[1] for row in expected], atol=1e-4)
    unmatched = [list(row) for row in expected]
    for label, score, box in found:
        near = next(
            row
            for row in unmatched
            if row[0] == label and abs(row[1] - score) < 1e-4 and _distance(row[2], box) < 5e-2
        )
        unmatched.remove(near)


def _distance(a, b):
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", HEADS)
def test_cascade_end_to_end(heads, kind):
    golden, case, output = heads(kind)
    _assert_close(case.boxes_xyxy, golden["init_boxes_xyxy"], atol=1e-4)
    _assert_close(output.logits, golden["pred_logits"], atol=1e-3)
    _assert_close(output.boxes_xyxy, golden["pred_boxes"], atol=5e-2)
    _assert_close(output.features, golden["obj_features"][-1], atol=1e-3)


@pytest.mark.parametrize("kind", HEADS)
def test_each_stage_alone(heads, kind):
    golden, case, _ = heads(kind)
    boxes = case.boxes_xyxy.detach()
    proposals = case.init_features.detach().expand(2, -1, -1)
    for index, stage in enumerate(case.head.head_series):
        with torch.no_grad():
            pooled = case.head._pool(case.features, boxes)
            logits, out, features = stage(pooled, boxes, proposals)
        _assert_close(pooled.mean((1, 2, 3)).view(2, -1), golden["pooled_mean"][index], atol=1e-5)
        _assert_close(logits, golden["pred_logits"][index], atol=1e-4)
        _assert_close(out, golden["pred_boxes"][index], atol=1e-2)
        _assert_close(features, golden["obj_features"][index], atol=1e-4)
        boxes = torch.from_numpy(golden["pred_boxes"][index])
        proposals = torch.from_numpy(golden["obj_features"][index])


@pytest.mark.parametrize("kind", HEADS)
def test_pooled_features_of_the_first_stage(heads, kind):
    golden, case, _ = heads(kind)
    pooled = case.head._pool(case.features, case.boxes_xyxy.detach())
    pooled = pooled.unflatten(0, (2, NUM_PROPOSALS))
    _assert_close(pooled[:, :2], golden["pooled_stage0_first2"], atol=1e-5)


@pytest.mark.parametrize("kind", [*HEADS, "wholebox-softmax"])
def test_costs_and_matches(heads, kind):
    golden, case, output = heads(kind)
    prefix = "nofocal" if kind.endswith("softmax") else "train"
    matcher = case.criterion.matcher
    cost = matcher.cost(output.logits, output.boxes_xyxy, case.targets)
    matches = matcher(output.logits, output.boxes_xyxy, case.targets)
    for stage in range(NUM_STAGES):
        for image, count in enumerate(case.targets.counts):
            name = f"stage{stage}_img{image}"
            _assert_close(cost[stage, image, :, :count], golden[f"{prefix}_cost_{name}"], atol=1e-3)
            here = (matches.stage == stage) & (matches.image == image)
            pairs = torch.stack([matches.prediction[here], matches.target[here]])
            assert pairs.tolist() == golden[f"{prefix}_match_{name}"].tolist()


@pytest.mark.parametrize("kind", [*HEADS, "wholebox-softmax"])
def test_losses(heads, kind):
    golden, case, output = heads(kind)
    prefix = "nofocal_loss" if kind.endswith("softmax") else "train_loss"
    losses = case.criterion(output.logits, output.boxes_xyxy, case.targets)
    names = golden[f"{prefix}_names"].tolist()
    assert set(losses) == set(names)
    _assert_close([losses[n] for n in names], golden[f"{prefix}_weighted"], 0.0, rtol=1e-4)
    unweighted = case.criterion.stage_losses(output.logits, output.boxes_xyxy, case.targets)
    last = dict(zip(names, golden[f"{prefix}_unweighted"].tolist(), strict=True))
    for name, value in unweighted.items():
        _assert_close(value[-1], last[name], 0.0, rtol=1e-4)
        _assert_close(value[0], last[f"{name}_0"], 0.0, rtol=1e-4)


def test_softmax_variant(heads):
    golden, _, output = heads("wholebox-softmax")
    _assert_close(output.logits[-1], golden["nofocal_pred_logits_last"], atol=1e-3)
    _assert_close(output.logits[0], golden["nofocal_pred_logits_s0"], atol=1e-3)
    _assert_close(output.boxes_xyxy[-1], golden["nofocal_boxes_last"], atol=5e-2)


@pytest.mark.parametrize("kind", [*HEADS, "wholebox-softmax"])
def test_detections(heads, kind):
    golden, case, output = heads(kind)
    prefix = "nofocal" if kind.endswith("softmax") else "eval"
    raw = select_detections(
        output.logits[-1],
        output.boxes_xyxy[-1],
        recipe.SIZES_HW,
        use_focal=case.criterion.matcher.use_focal,
    )
    for image, instances in enumerate(raw):
        _assert_same_detections(instances, golden, f"{prefix}_raw", image)
    sizes = [{"height": h, "width": w} for h, w in recipe.OUT_HW]
    for image, item in enumerate(postprocess_detections(raw, sizes)):
        _assert_same_detections(item["instances"], golden, f"{prefix}_post", image)


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_in_float64(kind):
    golden = load_golden(f"sparsercnn_head_{kind}.npz")
    case = _Case(kind, dtype=torch.float64)
    output = case.run()
    total = sum(case.criterion(output.logits, output.boxes_xyxy, case.targets).values())
    np.testing.assert_allclose(total.item(), golden["total_loss"], rtol=1e-5)
    total.backward()
    gradients = {f"head.{n}": p.grad for n, p in case.head.named_parameters()}
    gradients["init_proposal_boxes.weight"] = case.init_boxes.grad
    gradients["init_proposal_features.weight"] = case.init_features.grad
    names = golden["grad_names"].tolist()
    assert set(names) == set(gradients)
    norms = [gradients[n].norm().item() for n in names]
    sums = [gradients[n].sum().item() for n in names]
    np.testing.assert_allclose(norms, golden["grad_norms"], rtol=1e-3)
    # The sums were recorded in float32; they cancel, so the norms give their scale.
    deviation = np.abs(np.array(sums) - golden["grad_sums"])
    assert (deviation / golden["grad_norms"]).max() < 2e-3


def _config():
    cfg = get_cfg()
    add_sparsenet_config(cfg)
    cfg.merge_from_file(str(CONFIG))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


@pytest.fixture(scope="module")
def full_model():
    model = build_model(_config())
    recipe.fill_state_dict(model)
    return model


def _full_inputs() -> list[dict]:
    return [
        {
            "image": torch.from_numpy(recipe.image(i)),
            "height": recipe.OUT_HW[i][0],
            "width": recipe.OUT_HW[i][1],
            "instances": _instances(i),
        }
        for i in range(2)
    ]


def test_full_model_schema(full_model):
    golden = load_golden("sparsercnn_full_r50fpn.npz")
    shapes = dict(zip(golden["state_dict_keys"].tolist(), golden["state_dict_shapes"].tolist()))
    state = full_model.state_dict()
    assert set(state) == set(shapes)
    assert {k: list(v.shape) for k, v in state.items()} == {
        k: _parse_shape(v) for k, v in shapes.items()
    }
    assert sum(p.numel() for p in full_model.head.parameters()) == 79_412_472
    assert sum(p.numel() for p in full_model.parameters()) == 106_237_768


def _parse_shape(text: str) -> list[int]:
    return [int(n) for n in text.strip("()[]").split(",") if n.strip()]


def test_full_model_inference(full_model):
    golden = load_golden("sparsercnn_full_r50fpn.npz")
    model = full_model.eval()
    images, whwh = model.preprocess_image(_full_inputs())
    with torch.no_grad():
        pyramid = model.backbone(images.tensor)
        features = [pyramid[name] for name in model.in_features]
        boxes, proposals, _ = model._first_proposals(features, whwh)
        output = model.head(features, boxes, proposals)
        results = model(_full_inputs())
    for name in (*LEVELS, "p6"):
        assert pyramid[name].shape == tuple(golden[f"feat_{name}_shape"])
        first = golden[f"feat_{name}_ch0to3"]
        _assert_close(pyramid[name][:, : first.shape[1]], first, atol=1e-3)
    _assert_close(pyramid["p5"], golden["feat_p5_full"], atol=1e-3)
    _assert_close(output.logits, golden["pred_logits"], atol=1e-3)
    _assert_close(output.boxes_xyxy, golden["pred_boxes"], atol=5e-2)
    for image, item in enumerate(results):
        _assert_same_detections(item["instances"], golden, "final", image)


def test_full_model_losses(full_model):
    golden = load_golden("sparsercnn_full_r50fpn.npz")
    with torch.no_grad():
        losses = full_model.train()(_full_inputs())
    names = golden["train_loss_names"].tolist()
    assert set(losses) == set(names)
    _assert_close([losses[n] for n in names], golden["train_loss_weighted"], 0.0, rtol=1e-4)


def test_pooler():
    golden = load_golden("sparsercnn_units.npz")
    features = [torch.from_numpy(recipe.feature(name)) for name in LEVELS]
    pooler = BoxPooler(7, (1 / 4, 1 / 8, 1 / 16, 1 / 32), 2, "ROIAlignV2")
    pooled = pooler(features, [Boxes(torch.from_numpy(b)) for b in golden["pool_boxes"]])
    pooled = pooled.unflatten(0, (2, 12))
    _assert_close(pooled[:, :, :8], golden["pool_out_ch0to7"], atol=1e-5)
    _assert_close(pooled.mean((2, 3, 4)), golden["pool_mean_all"], atol=1e-6)


def test_box_decoding_and_overlaps():
    golden = load_golden("sparsercnn_units.npz")
    boxes, deltas = (torch.from_numpy(golden[f"delta_{n}"]) for n in ("boxes", "deltas"))
    decoded = apply_deltas(deltas, boxes)
    _assert_close(decoded, golden["delta_out"], atol=1e-3, rtol=1e-6)
    a, b = (torch.from_numpy(golden[f"giou_{n}"]) for n in "ab")
    _assert_close(pairwise_giou(a, b), golden["giou_out"], atol=1e-6)
    _assert_close(pairwise_iou(a, b), golden["iou_out"], atol=1e-6)


def test_focal_loss():
    golden = load_golden("sparsercnn_units.npz")
    logits, targets = (torch.from_numpy(golden[f"focal_{n}"]) for n in ("logits", "targets"))
    _assert_close(sigmoid_focal_loss(logits, targets), golden["focal_none"], atol=1e-6)


@pytest.mark.parametrize(
    ("case", "empty"), [("both", ()), ("img1_empty", (1,)), ("all_empty", (0, 1))]
)
def test_criterion_with_empty_images(case, empty):
    golden = load_golden("sparsercnn_units.npz")
    whwh = torch.tensor([[w, h, w, h] for h, w in recipe.SIZES_HW], dtype=torch.float32)
    targets = _targets(whwh, empty)
    logits, boxes = (torch.from_numpy(golden[f"crit_pred_{n}"]) for n in ("logits", "boxes"))
    criterion = SetCriterion(HungarianMatcher(), NUM_CLASSES)
    losses = criterion.stage_losses(logits[None], boxes[None], targets)
    names, values = golden[f"crit_{case}_names"].tolist(), golden[f"crit_{case}_vals"]
    assert set(losses) == set(names)
    _assert_close([losses[n][0] for n in names], values, atol=1e-6, rtol=1e-4)
    matches = criterion.matcher(logits[None], boxes[None], targets)
    for image in range(2):
        here = matches.image == image
        pairs = torch.stack([matches.prediction[here], matches.target[here]])
        assert pairs.tolist() == golden[f"crit_{case}_match_img{image}"].tolist()


def test_learning_rate_of_the_schedule():
    golden = load_golden("sparsercnn_units.npz")
    cfg = _config()
    parameter = torch.nn.Parameter(torch.zeros(1))
    scheduler = build_lr_scheduler(cfg, torch.optim.SGD([parameter], lr=cfg.SOLVER.BASE_LR))
    values = []
    for iteration in golden["lr_iters"].tolist():
        scheduler.last_epoch = iteration
        values.append(scheduler.get_lr()[0])
    np.testing.assert_allclose(values, golden["lr_values"], rtol=1e-6)
