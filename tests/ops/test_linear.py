import pytest
import torch
import torch.nn.functional as F

from sparsenet.ops import linear as module
from sparsenet.ops.linear import linear


@pytest.mark.parametrize("shape", [(64, 12), (3, 7, 7, 12), (2, 40, 12), (49, 12), (1, 13, 12)])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_reference_forward_and_backward(shape, has_bias, dtype):
    torch.manual_seed(0)
    tensors = [torch.randn(shape, dtype=dtype), torch.randn(20, 12, dtype=dtype)]
    tensors += [torch.randn(20, dtype=dtype)] if has_bias else []
    for tensor in tensors:
        tensor.requires_grad_()
    ours, theirs = linear(*tensors), F.linear(*tensors)
    torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(linear(*tensors), theirs)
    grad = torch.randn_like(ours)
    torch.testing.assert_close(
        torch.autograd.grad(ours, tensors, grad), torch.autograd.grad(theirs, tensors, grad)
    )


def test_rows_are_cut_into_at_least_16_images():
    assert module._num_images(torch.zeros(1000, 8)) == 20
    assert module._num_images(torch.zeros(16, 4, 8)) == 16
    assert module._num_images(torch.zeros(60, 8)) is None  # fewer than four rows each
    assert module._num_images(torch.zeros(4 * 257, 8)) is None  # 2 · 2 · 257: no such number


def test_only_float32_without_autocast_goes_to_onednn():
    x, weight = torch.zeros(1000, 8), torch.zeros(4, 8)
    assert module._suits_onednn(x, weight) == torch.backends.mkldnn.enabled
    assert not module._suits_onednn(x.double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not module._suits_onednn(x, weight)


@pytest.mark.parametrize("bias", [torch.randn(40)[::2], torch.randn(1).expand(20)])
def test_a_bias_of_any_stride(bias):
    x, weight = torch.randn(7, 12).t(), torch.randn(40, 7)[::2]
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))


def test_what_does_not_fit_is_told_as_by_the_reference():
    with torch.no_grad(), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(torch.zeros(3, 8), torch.zeros(4, 9))
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        linear(torch.zeros(3, 8), torch.zeros(4, 8).half())


def test_a_trace_takes_other_sizes():
    weight = torch.randn(4, 8)
    traced = torch.jit.trace(lambda x: linear(x, weight), torch.randn(64, 8))
    x = torch.randn(96, 8)
    torch.testing.assert_close(traced(x), F.linear(x, weight))
