"""Triton kernels against the plain loop: on CUDA where it is, else under Triton's interpreter.

The interpreter must be chosen before Triton is imported, so that one test runs this file again in a
process of its own.
"""

import os
import subprocess
import sys

import pytest
import torch

from sparsenet.ops.selective_scan import backend_problem, cross_selective_scan, selective_scan

pytest.importorskip("triton", reason="needs triton, which has no wheels for this platform")
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not IS_INTERPRETED else "cpu"
runs_kernels = pytest.mark.skipif(
    DEVICE == "cpu" and not IS_INTERPRETED, reason="needs CUDA or TRITON_INTERPRET=1"
)
has_mamba = pytest.mark.skipif(
    DEVICE == "cpu" or backend_problem("mamba") != "",
    reason="needs CUDA and mamba-ssm",
)
MAP_CASES = [  # batch, height, width, channels, states; a chunk has 64 cells, a tile 16 channels
    (2, 1, 2, 1, 1),
    (1, 9, 11, 17, 1),
    (1, 2, 3, 3, 2),
]
SEQUENCE_CASES = [(True, 1), (False, 2)]  # softplus, states
NUM_TESTS = len(MAP_CASES) + len(SEQUENCE_CASES) + 1


def _maps(batch: int, height: int, width: int, channels: int, states: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(height)
    shapes = [
        (batch, height, width, channels),
        (4, batch, height, width, channels),
        (4, channels, states),
        (4, batch, height, width, states),
        (4, batch, height, width, states),
        (4, channels),
        (4, channels),
    ]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    tensors[2] = -tensors[2].abs() - 0.1
    return [t.to(DEVICE) for t in tensors]


def _run(scan, inputs: list[torch.Tensor], **options) -> list[torch.Tensor]:
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    y = scan(*inputs, **options)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y))
    return [y.detach(), *(t.grad for t in inputs)]


def _assert_same(ours: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for mine, reference in zip(ours, expected):
        assert mine.dtype == reference.dtype
        torch.testing.assert_close(mine, reference, atol=2e-5, rtol=2e-5)


@runs_kernels
@pytest.mark.parametrize("case", MAP_CASES)
def test_maps_equal_the_loop(case):
    inputs = _maps(*case)
    expected = _run(cross_selective_scan, inputs, backend="reference")
    _assert_same(_run(cross_selective_scan, inputs, backend="triton"), expected)


@runs_kernels
@pytest.mark.parametrize("softplus, states", SEQUENCE_CASES)
def test_sequences_equal_the_loop(softplus, states):
    generator = torch.Generator().manual_seed(3)
    shapes = [(1, 6, 70), (1, 6, 70), (6, states), (1, 2, states, 70), (1, 2, states, 70), (6,)]
    inputs = [torch.randn(s, generator=generator).to(DEVICE) for s in (*shapes, (6,))]
    inputs[2] = -inputs[2].abs() - 0.1
    if not softplus:
        inputs[1], inputs[6] = inputs[1].abs(), inputs[6].abs()
    options = {"delta_softplus": softplus}
    expected = _run(selective_scan, inputs, backend="reference", **options)
    _assert_same(_run(selective_scan, inputs, backend="triton", **options), expected)


@runs_kernels
def test_half_precision_is_scanned_in_float32():
    inputs = _maps(1, 3, 4, 5, 1)
    half = [t.bfloat16() if i in (0, 1, 3, 4) else t for i, t in enumerate(inputs)]
    y = cross_selective_scan(*half, backend="triton")
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, cross_selective_scan(*half, backend="reference"))


@pytest.mark.skipif(IS_INTERPRETED or DEVICE == "cuda", reason="the kernels already run here")
def test_kernels_run_under_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{NUM_TESTS} passed" in run.stdout


@has_mamba
def test_mamba_ssm_equals_the_loop():
    inputs = _maps(2, 7, 9, 16, 1)
    expected = _run(cross_selective_scan, inputs, backend="reference")
    _assert_same(_run(cross_selective_scan, inputs, backend="mamba"), expected)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs CUDA")
def test_full_size_maps_equal_two_levels_on_cuda():
    inputs = _maps(2, 200, 334, 192, 1)
    expected = _run(cross_selective_scan, inputs, backend="blocked")
    for mine, reference in zip(_run(cross_selective_scan, inputs, backend="triton"), expected):
        scale = reference.abs().max()
        torch.testing.assert_close(mine / scale, reference / scale, atol=1e-4, rtol=1e-4)
