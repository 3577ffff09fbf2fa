"""Triton kernels against plain operators: on CUDA where it is, else under Triton's interpreter.

The interpreter must be chosen before Triton is imported, so that one test runs this file again in a
process of its own.
"""

import os
import subprocess
import sys

import pytest
import torch

from sparsenet.ops.ska import ska, ska_plain

pytest.importorskip("triton", reason="needs triton, which has no wheels for this platform")
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not IS_INTERPRETED else "cpu"
runs_kernels = pytest.mark.skipif(
    DEVICE == "cpu" and not IS_INTERPRETED, reason="needs CUDA or TRITON_INTERPRET=1"
)

CASES = [  # batch, share, kernels, side, size, padding, channels last
    (2, 8, 2, 3, (5, 7), 1, False),
    (3, 8, 3, 3, (7, 7), 0, True),
    (1, 3, 5, 5, (4, 3), 2, True),
    (1, 1, 1, 1, (3, 3), 0, False),
    (2, 2, 18, 3, (1, 2), 1, True),
    (0, 2, 2, 3, (4, 4), 1, False),
    (2, 2, 2, 3, (0, 4), 0, False),
]
OTHER_DTYPES = [torch.float64, torch.float16, torch.bfloat16]
RUNS = [(torch.float32, case) for case in CASES]
RUNS += [(dtype, case) for dtype in OTHER_DTYPES for case in CASES[:2]]


def _inputs(case, dtype):
    batch, share, kernels, side, (height, width), padding, is_channels_last = case
    torch.manual_seed(0)
    margin = side - 1 - 2 * padding
    x = torch.randn(batch, share * kernels, height + margin, width + margin)
    weight = torch.randn(batch, kernels, side**2, height, width)
    grad = torch.randn(batch, share * kernels, height, width)
    if is_channels_last:
        x, grad = (t.to(memory_format=torch.channels_last) for t in (x, grad))
        weight = weight.permute(0, 3, 4, 2, 1).contiguous().permute(0, 4, 3, 1, 2)
    return [tensor.to(DEVICE, dtype) for tensor in (x, weight, grad)]


@runs_kernels
@pytest.mark.parametrize("dtype, case", RUNS, ids=str)
def test_kernels_equal_plain_operators(dtype, case):
    from sparsenet.ops import ska_triton

    padding, num_kernels = case[5], case[2]
    x, weight, grad = _inputs(case, dtype)
    exact = [t.double().requires_grad_() for t in (x, weight)]
    out = ska_plain(*exact, padding)
    expected = [out, *torch.autograd.grad(out, exact, grad.double())]
    ours = [
        ska_triton.aggregate(x, weight, padding),
        ska_triton.grad_x(grad, weight, padding),
        ska_triton.grad_weight(grad, x, num_kernels, padding),
    ]
    tolerance = {
        "rtol": 2 * torch.finfo(dtype).eps,
        "atol": 1e-5 if dtype != torch.float64 else 1e-12,
    }
    for mine, reference in zip(ours, expected):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, reference.detach().to(dtype), **tolerance)


@pytest.mark.skipif(IS_INTERPRETED or DEVICE == "cuda", reason="the kernels already run here")
def test_kernels_run_under_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{len(RUNS)} passed" in run.stdout


@pytest.mark.skipif(DEVICE == "cpu", reason="needs CUDA")
def test_cuda_tensors_run_the_kernels():
    x, weight, grad = _inputs(CASES[0], torch.float32)
    x.requires_grad_(), weight.requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        ska(x, weight).backward(grad)
        torch.cuda.synchronize()
    names = {event.key for event in profile.key_averages()}
    assert {"_sum_kernel", "_weight_kernel"} <= names
