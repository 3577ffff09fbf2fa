import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet.ops import boxes as ops
from sparsenet.ops.precision import at_least_float32

_coordinate = st.floats(-1000, 1000, width=32)
_side = st.floats(0.125, 500, width=32)
_box = st.tuples(_coordinate, _coordinate, _side, _side).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


@given(st.lists(_box, min_size=1, max_size=6))
@settings(deadline=None, max_examples=50)
def test_conversion_round_trip(rows):
    boxes = torch.tensor(rows, dtype=torch.float64)
    back = ops.cxcywh_to_xyxy(ops.xyxy_to_cxcywh(boxes))
    torch.testing.assert_close(back, boxes, atol=1e-9, rtol=0)


@given(_box, _box)
@settings(deadline=None, max_examples=100)
def test_overlaps_are_symmetric_and_bounded(a, b):
    a, b = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    iou, giou = ops.paired_iou(a, b), ops.paired_giou(a, b)
    torch.testing.assert_close(iou, ops.paired_iou(b, a))
    torch.testing.assert_close(giou, ops.paired_giou(b, a))
    assert 0 <= iou.item() <= 1 + 1e-9
    assert -1 - 1e-9 <= giou.item() <= iou.item() + 1e-9


def test_known_overlaps():
    a = torch.tensor([[0.0, 0, 10, 10]])
    b = torch.tensor([[5.0, 0, 15, 10], [20.0, 0, 30, 10], [0.0, 0, 10, 10]])
    torch.testing.assert_close(ops.pairwise_iou(a, b), torch.tensor([[1 / 3, 0.0, 1.0]]))
    torch.testing.assert_close(ops.pairwise_giou(a, b), torch.tensor([[1 / 3, -1 / 3, 1.0]]))
    torch.testing.assert_close(ops.pairwise_ioa(a, b), torch.tensor([[0.5, 0.0, 1.0]]))


def test_pairwise_equals_paired_over_batches():
    torch.manual_seed(0)
    low = torch.rand(2, 3, 5, 2) * 50
    a = torch.cat([low, low + torch.rand(2, 3, 5, 2) * 40], -1)
    b = a[0, :, :4].flip(0)
    for pairwise, paired in (
        (ops.pairwise_iou, ops.paired_iou),
        (ops.pairwise_giou, ops.paired_giou),
    ):
        table = pairwise(a, b)
        assert table.shape == (2, 3, 5, 4)
        assert table[1, 2, 3, 1] == paired(a[1, 2, 3], b[2, 1])


def test_ioa_is_the_share_of_the_first():
    small, large = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 20, 20]])
    assert ops.pairwise_ioa(small, large).item() == 1.0
    assert ops.pairwise_ioa(large, small).item() == pytest.approx(0.01)


def test_boxes_without_area_have_no_overlap_and_finite_gradients():
    a = torch.tensor([[5.0, 5, 5, 5], [9.0, 9, 3, 3]], requires_grad=True)
    b = torch.tensor([[5.0, 5, 5, 5], [0.0, 0, 10, 10]])
    assert ops.pairwise_iou(a, b).tolist() == [[0, 0], [0, 0]]
    assert ops.pairwise_ioa(a, b).tolist() == [[0, 0], [0, 0]]
    ops.paired_giou(a, b).sum().backward()
    assert torch.isfinite(a.grad).all()


def test_nan_gives_nan_and_never_raises():
    nan = torch.full((1, 4), math.nan)
    box = torch.tensor([[0.0, 0, 1, 1]])
    assert ops.pairwise_giou(nan, box).isnan().all()
    assert ops.apply_deltas(nan, box).isnan().all()


def test_decoding_moves_and_scales():
    boxes = torch.tensor([[10.0, 20, 30, 60]])  # 20 x 40 around (20, 40)
    deltas = torch.tensor([[1.0, -1.0, math.log(2.0), 0.0]])
    moved = ops.apply_deltas(deltas, boxes)  # dx 0.5 width, dy -0.5 height, width doubled
    torch.testing.assert_close(moved, torch.tensor([[10.0, 0, 50, 40]]))
    torch.testing.assert_close(ops.apply_deltas(torch.zeros(1, 4), boxes), boxes)


def test_decoding_clamps_growth_only():
    box = torch.tensor([[0.0, 0, 16, 16]])
    grown = ops.apply_deltas(torch.tensor([[0.0, 0, 50, -50]]), box)
    width, height = (grown[0, 2:] - grown[0, :2]).tolist()
    assert width == pytest.approx(100_000, rel=1e-5)  # exp(ln(100000 / 16)) * 16
    assert height == pytest.approx(0, abs=1e-6)


def test_overlap_gradients():
    a = torch.tensor([[0.0, 0, 10, 10], [3, 4, 9, 20]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[2.0, 1, 12, 8], [30, 30, 41, 39]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.paired_giou, (a, b))
    deltas = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d, x: ops.apply_deltas(d, x), (deltas, a))


def test_at_least_float32():
    for dtype, expected in (
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert at_least_float32(torch.ones(1, dtype=dtype)).dtype == expected


@given(_box, _box)
@settings(deadline=None, max_examples=100)
def test_similarities_are_ordered_and_one_for_equal_boxes(a, b):
    a, b = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    values = {kind: f(a, b).item() for kind, f in ops.BOX_SIMILARITIES.items()}
    assert values["ciou"] <= values["diou"] + 1e-9 <= values["iou"] + 2e-9
    assert values["diou"] > -1
    for f in ops.BOX_SIMILARITIES.values():
        torch.testing.assert_close(f(a, a), torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("kind", ops.BOX_SIMILARITIES)
def test_box_losses_have_finite_gradients_everywhere(kind):
    a = torch.tensor([[0.0, 0, 4, 4], [0.0, 0, 4, 4], [5.0, 5, 5, 5]], requires_grad=True)
    b = torch.tensor([[0.0, 0, 4, 4], [50.0, 0, 60, 4], [0.0, 0, 4, 4]])
    loss = ops.paired_box_loss(a, b, kind)
    loss.sum().backward()
    assert loss.isfinite().all() and a.grad.isfinite().all()
    assert loss[0] == 0 and (loss[1:] >= 1).all()


@pytest.mark.parametrize("kind", ["iou", "giou", "diou"])
def test_box_loss_gradients(kind):
    torch.manual_seed(0)
    low = torch.rand(2, 4, 2, dtype=torch.float64) * 3
    a, b = torch.cat([low, low + 5 + torch.rand_like(low)], -1).unbind(0)
    assert torch.autograd.gradcheck(
        lambda x: ops.paired_box_loss(x, b, kind), a.requires_grad_(), eps=1e-7
    )
