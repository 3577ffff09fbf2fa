import pytest
import torch
from golden_data import load_golden

from sparsenet.ops.ska import kernel_side, ska


def _by_the_formula(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    _, channels, height, width = x.shape
    num_kernels, side = weight.shape[1], kernel_side(weight.shape[2])
    out = torch.zeros_like(x)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                for tap in range(side * side):
                    y, z = i - side // 2 + tap // side, j - side // 2 + tap % side
                    if 0 <= y < height and 0 <= z < width:
                        kernel = weight[:, c % num_kernels, tap, i, j]
                        out[:, c, i, j] += kernel * x[:, c, y, z]
    return out


@pytest.mark.golden
@pytest.mark.parametrize("case", range(6))
def test_meets_the_official_kernels(case):
    golden = load_golden("lsnet_ska.npz")
    get = lambda name: torch.from_numpy(golden[f"{case}_{name}"])  # noqa: E731
    x, weight = get("x").requires_grad_(), get("w").requires_grad_()
    out = ska(x, weight)
    out.backward(get("go"))
    for ours, name in ((out, "y"), (x.grad, "gx"), (weight.grad, "gw")):
        torch.testing.assert_close(ours.detach(), get(name), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("taps, num_kernels", [(9, 2), (25, 3), (1, 1)])
def test_equals_the_formula(taps, num_kernels):
    torch.manual_seed(0)
    x = torch.randn(2, 2 * num_kernels, 4, 3, dtype=torch.float64)
    weight = torch.randn(2, num_kernels, taps, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(ska(x, weight), _by_the_formula(x, weight))


def test_gradients_are_exact():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 2, 9, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ska, (x, weight))


def test_memory_format_does_not_matter():
    x, weight = torch.randn(2, 16, 5, 6), torch.randn(2, 2, 9, 5, 6)
    channels_last = ska(x.contiguous(memory_format=torch.channels_last), weight)
    torch.testing.assert_close(channels_last, ska(x, weight))


def test_works_in_bfloat16():
    x, weight = torch.randn(1, 16, 5, 6), torch.randn(1, 2, 9, 5, 6)
    half = ska(x.bfloat16(), weight.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), ska(x, weight), atol=0.2, rtol=0.1)


@pytest.mark.parametrize("taps", [4, 8, 16])
def test_even_kernels_are_refused(taps):
    with pytest.raises(ValueError, match="square of an odd kernel side"):
        ska(torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, taps, 3, 3))
