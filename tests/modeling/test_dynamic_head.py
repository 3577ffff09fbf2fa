import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from small_sparse_rcnn import STRIDES, WIDTH, small_cfg

from sparsenet.errors import ConfigError
from sparsenet.modeling.head import DynamicHead, StageOptions
from sparsenet.modeling.head.dynamic_head import DynamicConv

SHAPES = {name: ShapeSpec(channels=WIDTH, stride=s) for name, s in STRIDES.items()}


def _head(**keys):
    torch.manual_seed(0)
    return DynamicHead(small_cfg(**keys), SHAPES)


def _inputs(num_images=2, num_proposals=5, size=64):
    torch.manual_seed(1)
    features = [torch.randn(num_images, WIDTH, size // s, size // s) for s in STRIDES.values()]
    low = torch.rand(num_images, num_proposals, 2) * 30
    boxes = torch.cat([low, low + 4 + torch.rand(num_images, num_proposals, 2) * 25], -1)
    return features, boxes, torch.randn(num_images, num_proposals, WIDTH)


def test_shapes_and_gradients():
    head = _head(NUM_HEADS=3)
    output = head(*_inputs())
    assert output.logits.shape == (3, 2, 5, 3)
    assert output.boxes_xyxy.shape == (3, 2, 5, 4)
    assert output.features.shape == (2, 5, WIDTH)
    (output.logits.sum() + output.boxes_xyxy.sum()).backward()
    assert [n for n, p in head.named_parameters() if p.grad is None] == []


def test_two_images_in_one_pass_equal_each_alone():
    head = _head().eval()
    features, boxes, proposals = _inputs()
    with torch.no_grad():
        both = head(features, boxes, proposals)
        for i in range(2):
            one = head([f[i : i + 1] for f in features], boxes[i : i + 1], proposals[i : i + 1])
            torch.testing.assert_close(one.logits[:, 0], both.logits[:, i], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(
                one.boxes_xyxy[:, 0], both.boxes_xyxy[:, i], atol=1e-3, rtol=1e-4
            )


def test_dynamic_conv_equals_a_loop_over_proposals():
    torch.manual_seed(0)
    conv = DynamicConv(16, 4, 3)
    proposals, regions = torch.randn(5, 16), torch.randn(5, 16, 3, 3)
    rows = []
    for proposal, region in zip(proposals, regions):
        weights = conv.dynamic_layer(proposal)
        w1, w2 = weights[:64].view(16, 4), weights[64:].view(4, 16)
        cells = torch.stack([region[:, y, x] for y in range(3) for x in range(3)])
        cells = conv.norm2(conv.norm1(cells @ w1).relu() @ w2).relu()
        rows.append(conv.norm3(conv.out_layer(cells.reshape(-1))).relu())
    torch.testing.assert_close(conv(proposals, regions), torch.stack(rows), atol=1e-5, rtol=1e-5)


def test_boxes_are_detached_between_stages():
    head = _head()
    features, boxes, proposals = _inputs()
    boxes.requires_grad_()
    output = head(features, boxes, proposals)
    (grad,) = torch.autograd.grad(output.boxes_xyxy[1].sum(), boxes)
    assert (grad == 0).all()
    output = head(features, boxes, proposals)
    (grad,) = torch.autograd.grad(output.boxes_xyxy[0].sum(), boxes)
    assert grad.abs().sum() > 0


def test_without_deep_supervision_only_the_last_stage():
    deep, shallow = _head(), _head(DEEP_SUPERVISION=False)
    inputs = _inputs()
    output = shallow(*inputs)
    assert len(output.logits) == len(output.boxes_xyxy) == 1
    torch.testing.assert_close(output.logits[-1], deep(*inputs).logits[-1])


@pytest.mark.parametrize("num_classes", [1, 4, 8, 32, 64, 256])
def test_prior_touches_the_class_bias_alone(num_classes):
    # Upstream fills every tensor whose last side equals the number of classes.
    head = _head(NUM_CLASSES=num_classes)
    prior = -math.log(0.99 / 0.01)
    for name, parameter in head.named_parameters():
        is_prior = torch.allclose(parameter, torch.full_like(parameter, prior))
        assert is_prior == name.endswith("class_logits.bias"), name


def test_stages_do_not_share_weights():
    head = _head()
    a, b = (stage.linear1.weight for stage in head.head_series)
    assert not torch.equal(a, b)


@pytest.mark.parametrize("activation", ["relu", "gelu", "glu"])
def test_activations(activation):
    output = _head(ACTIVATION=activation)(*_inputs())
    assert torch.isfinite(output.logits).all()


def test_dropout_changes_training_only():
    head = _head(DROPOUT=0.5)
    inputs = _inputs()
    assert not torch.equal(head.train()(*inputs).logits, head(*inputs).logits)
    assert torch.equal(head.eval()(*inputs).logits, head(*inputs).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_boxes_stay_float32_under_autocast(dtype):
    head = _head().eval()
    features, boxes, proposals = _inputs()
    boxes = boxes + 1000.3  # where bfloat16 resolves 4 px, float16 0.5 px
    with torch.no_grad():
        exact = head(features, boxes, proposals)
        with torch.autocast("cpu", dtype):
            mixed = head([f.to(dtype) for f in features], boxes, proposals)
    assert mixed.boxes_xyxy.dtype == torch.float32
    assert mixed.logits.dtype == dtype
    assert (mixed.boxes_xyxy[0] - exact.boxes_xyxy[0]).abs().max() < 0.5
    fraction = mixed.boxes_xyxy - mixed.boxes_xyxy.to(dtype).float()
    assert fraction.abs().max() > 0.01  # the boxes are not on the half-precision grid


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"NUM_DYNAMIC": 3}, "NUM_DYNAMIC must be 2.*got 3"),
        ({"HIDDEN_DIM": 64}, "HIDDEN_DIM must equal the channels.*got 64"),
        ({"ACTIVATION": "swish"}, "ACTIVATION must be one of.*'swish'"),
        ({"NHEADS": 5}, "NHEADS must divide HIDDEN_DIM"),
        ({"ACTIVATION": "glu", "DIM_FEEDFORWARD": 65}, "must be even"),
    ],
)
def test_bad_configuration(keys, message):
    with pytest.raises(ConfigError, match=message):
        _head(**keys)


def test_small_sizes_of_the_tile_models():
    options = StageOptions(
        num_logits=2, hidden_dim=96, dim_dynamic=24, dim_feedforward=384, num_attention_heads=8
    )
    head = DynamicHead(pooler=torch.nn.Identity(), options=options, num_stages=3)
    assert sum(p.numel() for p in head.parameters()) < 4_000_000
