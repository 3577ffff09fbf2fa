from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Instances
from small_sparse_rcnn import small_cfg, small_model, training_item

from sparsenet.errors import AnnotationError, ConfigError, NumericalError
from sparsenet.modeling.meta_arch import SparseRCNN
from sparsenet.modeling.meta_arch.sparse_rcnn import select_detections
from sparsenet.ops.boxes import paired_iou

BOXES = [[5.0, 5, 30, 40], [40.0, 10, 90, 60]]
INITS = ("learned", "dense", "both")


def _batch():
    return [training_item(BOXES, [0, 2], seed=1), training_item([], seed=2)]


def test_is_registered():
    assert META_ARCH_REGISTRY.get("SparseRCNN") is SparseRCNN


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("num_classes", [1, 4, 256])
def test_training_gives_every_parameter_a_gradient(init, num_classes):
    model = small_model(PROPOSAL_INIT=init, NUM_CLASSES=num_classes)
    losses = model([training_item(BOXES, [0, num_classes - 1]), training_item([])])
    expected = {f"loss_{n}{s}" for n in ("ce", "giou", "bbox") for s in ("", "_0")}
    if init != "learned":
        expected |= {"loss_dense_objectness", "loss_dense_box"}
    assert set(losses) == expected
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("init", INITS)
def test_images_of_different_sizes_and_no_objects(init):
    model = small_model(PROPOSAL_INIT=init)
    losses = model([training_item([], size=(64, 96)), training_item([], size=(40, 50))])
    assert all(torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize("init", INITS)
def test_more_objects_than_proposals(init):
    boxes = [[i, i, i + 12.0, i + 15.0] for i in range(20)]
    losses = small_model(PROPOSAL_INIT=init)([training_item(boxes)])
    assert all(torch.isfinite(v) for v in losses.values())


@pytest.mark.parametrize("init", INITS)
def test_batch_of_two_equals_each_alone(init):
    model = small_model(PROPOSAL_INIT=init).eval()
    items = [training_item([], seed=s) for s in range(2)]
    with torch.no_grad():
        both = model(items, do_postprocess=False)
        for i, item in enumerate(items):
            (one,) = model([item], do_postprocess=False)
            order, other = one.scores.argsort(), both[i].scores.argsort()
            torch.testing.assert_close(one.scores[order], both[i].scores[other], atol=1e-5, rtol=0)
            torch.testing.assert_close(
                one.pred_boxes.tensor[order], both[i].pred_boxes.tensor[other], atol=5e-2, rtol=0
            )


def test_padding_changes_nothing_for_the_fast_path():
    model = small_model()
    item = training_item([], size=(64, 96))
    fast, _ = model.preprocess_image([item, item])
    slow, whwh = model.preprocess_image([item, training_item([], size=(32, 32))])
    torch.testing.assert_close(fast.tensor[0], slow.tensor[0])
    assert whwh.tolist() == [[96, 64, 96, 64], [32, 32, 32, 32]]
    odd, _ = model.preprocess_image([training_item([], size=(50, 70))] * 2)
    assert odd.tensor.shape == (2, 3, 64, 96)
    assert odd.image_sizes == [(50, 70)] * 2
    assert (odd.tensor[:, :, 50:] == 0).all() and (odd.tensor[..., 70:] == 0).all()


def test_normalisation():
    item = {"image": torch.full((3, 32, 32), 180, dtype=torch.uint8)}
    images, _ = small_model().preprocess_image([item])
    assert (images.tensor == 1).all()  # (180 - 120) / 60


def test_postprocessing_scales_and_clips():
    model = small_model().eval()
    item = training_item([]) | {"height": 128, "width": 192}
    with torch.no_grad():
        (raw,) = model([item], do_postprocess=False)
        (output,) = model([item])
    assert isinstance(raw, Instances) and len(raw) == 12 and raw.image_size == (64, 96)
    instances = output["instances"]
    assert instances.image_size == (128, 192)
    boxes = instances.pred_boxes.tensor
    assert (boxes >= 0).all() and (boxes[:, 2] <= 192).all() and (boxes[:, 3] <= 128).all()
    clipped = (raw.pred_boxes.tensor * 2).clamp(min=0)
    clipped = torch.minimum(clipped, torch.tensor([192.0, 128, 192, 128]))
    has_area = (clipped[:, 2:] > clipped[:, :2]).all(-1)
    torch.testing.assert_close(
        boxes[instances.scores.argsort()], clipped[has_area][raw.scores[has_area].argsort()]
    )


def test_top_k_over_proposals_and_classes():
    logits = torch.full((1, 3, 4), -9.0)
    logits[0, 1, 2], logits[0, 1, 3], logits[0, 0, 0] = 3.0, 2.0, 1.0
    boxes = torch.arange(12.0).view(1, 3, 4)
    (found,) = select_detections(logits, boxes, [(9, 9)], use_focal=True)
    order = found.scores.argsort(descending=True)
    assert found.pred_classes[order].tolist() == [2, 3, 0]
    assert found.pred_boxes.tensor[order, 0].tolist() == [4, 4, 0]


def test_softmax_variant():
    model = small_model(USE_FOCAL=False)
    assert model.state_dict()["criterion.empty_weight"].shape == (4,)
    assert model.head.head_series[0].class_logits.out_features == 4
    sum(model(_batch()).values()).backward()
    with torch.no_grad():
        (raw, _) = model.eval()(_batch(), do_postprocess=False)
    assert len(raw) == 12 and raw.pred_classes.max() < 3


def test_ignore_boxes_lower_the_classification_loss_only():
    model = small_model()
    with torch.no_grad():
        plain = model([training_item(BOXES, [0, 2])])
        ignored = model([training_item(BOXES, [0, 2], ignore=[[-999.0, -999, 999, 999]])])
    assert ignored["loss_ce"] < plain["loss_ce"]
    assert ignored["loss_giou"] == plain["loss_giou"]
    assert ignored["loss_bbox_0"] == plain["loss_bbox_0"]


def test_both_kinds_of_first_proposals_stand_side_by_side():
    model = small_model(PROPOSAL_INIT="both", NUM_PROPOSALS=7).eval()
    images, whwh = model.preprocess_image(_batch())
    boxes, content, _ = model._first_proposals(model._pyramid(images), whwh)
    assert boxes.shape == (2, 7, 4) and content.shape[:2] == (2, 7)
    whole = torch.cat([torch.zeros_like(whwh[:, :2]), whwh[:, 2:]], dim=1)
    torch.testing.assert_close(boxes[:, 4:], whole[:, None].expand(-1, 3, -1))
    assert (boxes[:, :4] != whole[:, None]).any(-1).all()


def test_objectness_of_images():
    model = small_model(PROPOSAL_INIT="dense").eval()
    batch = _batch()
    scores = model.predict_objectness(batch)
    assert scores.shape == (2,) and ((scores > 0) & (scores < 1)).all()
    with torch.no_grad():
        model(batch)
    torch.testing.assert_close(model.objectness, scores)
    with pytest.raises(ConfigError, match="PROPOSAL_INIT 'dense'"):
        small_model().predict_objectness(batch)


@pytest.mark.parametrize("init", INITS)
def test_bfloat16_autocast(init):
    model = small_model(PROPOSAL_INIT=init)
    exact = model(_batch())
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(_batch())
    for value in losses.values():
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
    if init == "learned":  # the choice of dense locations may differ
        values = [losses[name].item() for name in exact]
        assert values == pytest.approx([v.item() for v in exact.values()], rel=0.3, abs=0.05)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        instances = model.eval()(_batch())[0]["instances"]
    assert instances.pred_boxes.tensor.dtype == instances.scores.dtype == torch.float32


@pytest.mark.parametrize("init", INITS)
def test_state_dict_round_trip(init):
    model = small_model(PROPOSAL_INIT=init)
    assert not any("pixel" in key for key in model.state_dict())
    other = build_model(small_cfg(PROPOSAL_INIT=init))
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        a, b = (m.eval()(_batch(), do_postprocess=False)[0] for m in (model, other))
    assert torch.equal(a.scores, b.scores) and torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)


def test_learned_boxes_start_as_the_whole_image():
    model = small_model()
    boxes, features, _ = model._first_proposals([], torch.tensor([[96.0, 64, 96, 64]]))
    assert boxes.tolist() == [[[0, 0, 96, 64]] * 12]
    assert features.shape == (1, 12, 32)


def test_window_scores_of_a_sparse_backbone_are_supervised():
    model = small_model()
    logits = torch.zeros(2, 6, requires_grad=True)
    model.backbone.selections = [
        SimpleNamespace(
            logits=logits,
            kept=logits > 0,
            grid_size=(2, 3),
            window_stride=32,
            valid=torch.ones(2, 6, dtype=torch.bool),
        )
    ]
    losses = model(_batch())
    assert {"loss_window_score", "loss_window_budget"} <= set(losses)
    sum(losses.values()).backward()
    assert (logits.grad[0, 0] < 0).item()  # an object lies there
    assert (logits.grad[1] > 0).all()  # no object in the second image
    model.backbone.selections = []
    assert "loss_window_score" not in model(_batch())


def test_diverged_predictions_are_told():
    model = small_model()
    with torch.no_grad():
        model.head.head_series[1].bboxes_delta.bias.fill_(float("nan"))
    with pytest.raises(NumericalError, match=r"Lower SOLVER\.BASE_LR"):
        model(_batch())
    with pytest.raises(NumericalError, match="boxes must be finite"):
        model.eval()(_batch())


def test_classes_beyond_the_model():
    with pytest.raises(AnnotationError, match="NUM_CLASSES"):
        small_model()([training_item(BOXES, [0, 3])])


def test_bad_configuration():
    with pytest.raises(ConfigError, match=r"PROPOSAL_INIT must be one of.*'random'"):
        build_model(small_cfg(PROPOSAL_INIT="random"))
    cfg = small_cfg()
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p9"]
    with pytest.raises(ConfigError, match=r"IN_FEATURES must name maps.*p9"):
        build_model(cfg)


def _object_item():
    item = training_item([[20.0, 12, 60, 52]])
    item["image"][:] = 100
    item["image"][:, 12:52, 20:60] = 220
    return item


@pytest.mark.parametrize("init", INITS)
def test_overfits_one_image(init):
    model, item = small_model(PROPOSAL_INIT=init, NUM_CLASSES=1), _object_item()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(60):
        total = sum(model([item]).values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.45 * totals[0]
    with torch.no_grad():
        instances = model.eval()([item])[0]["instances"]
    found = paired_iou(instances.pred_boxes.tensor, torch.tensor([20.0, 12, 60, 52]))
    assert found.max() > 0.6
