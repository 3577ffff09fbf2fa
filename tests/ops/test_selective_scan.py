import importlib.util
import logging
import sys
from types import ModuleType

import pytest
import torch
from golden_data import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet.errors import ConfigError, MissingDependencyError
from sparsenet.ops.cross_scan import cross_merge, cross_scan
from sparsenet.ops.selective_scan import (
    backend_problem,
    choose_backend,
    cross_selective_scan,
    grid_scan,
    selective_scan,
)
from sparsenet.ops.selective_scan_blocked import softplus

GOLDEN_CASES = ["n1", "n1long", "n4", "extreme", "plain", "len1"]
NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def _sequences(length: int, *, groups=2, channels=3, states=1, dtype=torch.float32) -> list:
    torch.manual_seed(length)
    batch, width = 2, groups * channels
    options = {"dtype": dtype}
    return [
        torch.randn(batch, width, length, **options),
        torch.randn(batch, width, length, **options),
        -torch.rand(width, states, **options) - 0.1,
        torch.randn(batch, groups, states, length, **options),
        torch.randn(batch, groups, states, length, **options),
        torch.randn(width, **options),
        torch.randn(width, **options),
    ]


def _maps(height: int, width: int, *, batch=2, channels=3, states=1, dtype=torch.float32) -> list:
    torch.manual_seed(height * width)
    options = {"dtype": dtype}
    return [
        torch.randn(batch, height, width, channels, **options),
        torch.randn(4, batch, height, width, channels, **options),
        -torch.rand(4, channels, states, **options) - 0.1,
        torch.randn(4, batch, height, width, states, **options),
        torch.randn(4, batch, height, width, states, **options),
        torch.randn(4, channels, **options),
        torch.randn(4, channels, **options),
    ]


def _with_gradients(scan, inputs: list, **options) -> list[torch.Tensor]:
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    y = scan(*inputs, **options)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y.dtype))
    return [y.detach(), *(t.grad for t in inputs)]


def _assert_same(ours: list, expected: list, tolerance: float) -> None:
    for name, mine, reference in zip(("y", *NAMES), ours, expected):
        assert mine.dtype == reference.dtype
        torch.testing.assert_close(
            mine, reference, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.golden
@pytest.mark.parametrize("backend", ["reference", "blocked"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-8), (torch.float32, 2e-5)])
@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_meets_the_recorded_numbers(case, dtype, tolerance, backend):
    golden = load_golden("sparx_scan.npz")
    names = [name for name in NAMES if f"{case}/{name}" in golden]
    tensors = {n: torch.from_numpy(golden[f"{case}/{n}"]).to(dtype) for n in names}
    inputs = [t.requires_grad_() for t in tensors.values()]
    y = selective_scan(*inputs, delta_softplus=bool(golden[f"{case}/softplus"]), backend=backend)
    y.backward(torch.from_numpy(golden[f"{case}/gy"]).to(dtype))
    expected = torch.from_numpy(golden[f"{case}/y"])
    atol = 2e-4 if case == "extreme" and dtype == torch.float32 else tolerance  # |y| up to 343
    torch.testing.assert_close(y.detach().double(), expected, atol=atol, rtol=tolerance)
    for name, tensor in zip(names, inputs):
        key = "dbias" if name == "delta_bias" else f"d{name}"
        expected = torch.from_numpy(golden[f"{case}/{key}"])
        torch.testing.assert_close(
            tensor.grad.double(), expected, atol=5 * tolerance, rtol=2 * tolerance, msg=name
        )


@pytest.mark.golden
def test_orders_and_their_sum_meet_the_recorded_ones():
    golden = {k: torch.from_numpy(v) for k, v in load_golden("sparx_scan.npz").items()}
    assert torch.equal(cross_scan(golden["cross/x"]), golden["cross/xs"])
    merged = cross_merge(golden["cross/ys"].flatten(3), (4, 5))
    torch.testing.assert_close(merged.flatten(2), golden["cross/merged"])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 5e-6), (torch.float64, 1e-8)])
@pytest.mark.parametrize("length, states", [(1, 1), (2, 3), (64, 1), (65, 1), (100, 2), (257, 1)])
def test_blocked_sequences_equal_the_loop(length, states, dtype, tolerance):
    inputs = _sequences(length, states=states, dtype=dtype)
    expected = _with_gradients(selective_scan, inputs, backend="reference")
    ours = _with_gradients(selective_scan, inputs, backend="blocked")
    _assert_same(ours, expected, tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 5e-6), (torch.float64, 1e-8)])
@pytest.mark.parametrize("size, states", [((1, 1), 1), ((1, 7), 1), ((6, 1), 2), ((5, 8), 1)])
def test_blocked_maps_equal_the_loop_over_copies(size, states, dtype, tolerance):
    inputs = _maps(*size, states=states, dtype=dtype)
    expected = _with_gradients(cross_selective_scan, inputs, backend="reference")
    ours = _with_gradients(cross_selective_scan, inputs, backend="blocked")
    _assert_same(ours, expected, tolerance)


@pytest.mark.parametrize("softplus_first", [True, False])
def test_gradients_of_sequences_are_exact(softplus_first):
    inputs = _sequences(5, channels=2, states=2, dtype=torch.float64)
    if not softplus_first:
        inputs[1], inputs[6] = inputs[1].abs(), inputs[6].abs()
    inputs = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(
        lambda *t: selective_scan(*t, delta_softplus=softplus_first), inputs
    )


@pytest.mark.parametrize("states", [1, 2])
def test_gradients_of_maps_are_exact(states):
    inputs = _maps(3, 2, batch=1, channels=2, states=states, dtype=torch.float64)
    inputs = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(cross_selective_scan, inputs)


def test_the_operator_behaves_under_tracing_and_compiling():
    u, *rest = _maps(2, 3)
    inputs = [t.requires_grad_() for t in (u[None], *rest)]
    torch.library.opcheck(grid_scan, (*inputs, True, True, "blocked"))


def test_keeps_nothing_but_its_inputs_for_backward():
    inputs = [t.requires_grad_() for t in _maps(16, 16)]
    own = {t.data_ptr() for t in inputs}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        cross_selective_scan(*inputs)
    assert sum(t.numel() for t in kept if t.data_ptr() not in own) == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9))
def test_a_transposed_map_swaps_rows_and_columns(height, width):
    u, delta, A, B, C, D, bias = _maps(height, width)
    swap = [1, 0, 3, 2]
    turned = cross_selective_scan(
        u.transpose(1, 2),
        *(t[swap] if t.dim() < 4 else t[swap].transpose(2, 3) for t in (delta, A, B, C, D, bias)),
    )
    expected = cross_selective_scan(u, delta, A, B, C, D, bias)
    torch.testing.assert_close(turned.transpose(1, 2), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6))
def test_each_order_visits_each_cell_once(height, width):
    x = torch.arange(height * width).view(1, 1, height, width)
    for order in cross_scan(x)[0, :, 0]:
        assert order.sort().values.tolist() == list(range(height * width))
    assert torch.equal(cross_merge(cross_scan(x), (height, width)), 4 * x)


def test_fast_softplus_is_as_precise():
    x = torch.linspace(-80, 120, 20001)
    expected = torch.nn.functional.softplus(x.double(), threshold=1000)
    torch.testing.assert_close(softplus(x).double(), expected, atol=0, rtol=3e-7)


def test_half_precision_is_scanned_in_float32():
    inputs = _maps(4, 5)
    half = [t.bfloat16() if i in (0, 1, 3, 4) else t for i, t in enumerate(inputs)]
    y = cross_selective_scan(*half)
    assert y.dtype == torch.float32
    expected = cross_selective_scan(*(t.float() for t in half))
    torch.testing.assert_close(y, expected)


def test_strides_do_not_matter():
    inputs = _maps(4, 6)
    strided = [torch.stack((t, t), dim=-1)[..., 0] for t in inputs]
    torch.testing.assert_close(cross_selective_scan(*strided), cross_selective_scan(*inputs))


def test_decays_that_underflow_stay_finite():
    inputs = _maps(8, 9)
    inputs[1] = inputs[1] * 1000
    assert all(t.isfinite().all() for t in _with_gradients(cross_selective_scan, inputs))


def test_unknown_and_missing_backends_are_named():
    x = torch.zeros(1)
    with pytest.raises(ConfigError, match="auto or one of reference, blocked, triton, mamba; got"):
        choose_backend("cuda", x)
    with pytest.raises(ConfigError, match="computes in float32, got float64"):
        choose_backend("triton", x.double())
    if importlib.util.find_spec("mamba_ssm") is None:
        with pytest.raises(MissingDependencyError, match="pip install mamba-ssm"):
            choose_backend("mamba", x)
    assert choose_backend("auto", x) == "blocked"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"B": (2, 2, 3, 5), "C": (2, 2, 3, 5)}, r"B must be .*here 2 x 2 x 1 x 5, got .*3, 5\)"),
        ({"B": (1, 2, 1, 5), "C": (1, 2, 1, 5)}, r"B must be .* got \(1, 2, 1, 5\)"),
        ({"C": (2, 2, 1, 4)}, r"C must be \(batch, K, N, L\), here 2 x 2 x 1 x 5"),
        ({"B": (2, 1, 5), "C": (2, 1, 5)}, "B must be .*here 2 x K x 1 x 5, got"),
        ({"u": (2, 6, 0), "delta": (2, 6, 0), "B": (2, 2, 1, 0), "C": (2, 2, 1, 0)}, "L has no"),
        ({"B": (2, 4, 1, 5), "C": (2, 4, 1, 5)}, "K = 4 groups .* divide .*got 6 channels"),
        ({"D": (1,)}, r"D must be \(K·E\), here 6, got \(1,\)"),
    ],
)
def test_sequences_that_do_not_fit_are_named(change, message):
    tensors = dict(zip(NAMES, _sequences(5)))
    tensors |= {name: torch.zeros(shape) for name, shape in change.items()}
    for backend in ("auto", "reference"):
        with pytest.raises(ValueError, match=message):
            selective_scan(**tensors, backend=backend)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"B": (4, 2, 3, 4, 3), "C": (4, 2, 3, 4, 3)}, "B must be .*here 4 x 2 x 3 x 4 x 1, got"),
        ({"B": (4, 1, 3, 4, 1), "C": (4, 1, 3, 4, 1)}, "B must be"),
        (
            {"delta": (2, 2, 3, 4, 3)},
            r"delta must be \(4, batch, H, W, E\), here 4 x 2 x 3 x 4 x 3",
        ),
        ({"u": (2, 12, 3)}, r"u must be \(batch, H, W, E\), here batch x H x W x E, got"),
        ({"delta_bias": (4, 1)}, "delta_bias must be"),
    ],
)
def test_maps_that_do_not_fit_are_named(change, message):
    tensors = dict(zip(NAMES, _maps(3, 4)))
    tensors |= {name: torch.zeros(shape) for name, shape in change.items()}
    for backend in ("auto", "reference"):
        with pytest.raises(ValueError, match=message):
            cross_selective_scan(**tensors, backend=backend)


def test_an_empty_map_is_named_and_an_empty_batch_is_scanned():
    with pytest.raises(ValueError, match="H has no entries"):
        cross_selective_scan(*_maps(0, 4))
    assert cross_selective_scan(*_maps(3, 4, batch=0)).shape == (0, 3, 4, 3)


@pytest.fixture
def mamba_stub(monkeypatch, tmp_path):
    """A package mamba_ssm with the scan, but without selective_scan_cuda."""
    folder = tmp_path / "mamba_ssm" / "ops"
    folder.mkdir(parents=True)
    (tmp_path / "mamba_ssm" / "__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "selective_scan_interface.py").write_text("selective_scan_fn = None\n")
    for name in [name for name in sys.modules if name.startswith("mamba_ssm")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", None)  # its import fails
    monkeypatch.syspath_prepend(tmp_path)
    backend_problem.cache_clear()
    yield monkeypatch
    backend_problem.cache_clear()
    for name in [name for name in sys.modules if name.startswith("mamba_ssm")]:
        monkeypatch.delitem(sys.modules, name)


class _OnGpu:
    device, dtype = torch.device("cuda"), torch.float32


def test_a_mamba_without_its_kernel_is_passed_over_and_told_once(mamba_stub, caplog):
    expected = "triton" if importlib.util.find_spec("triton") else "blocked"
    with caplog.at_level(logging.WARNING):
        assert [choose_backend("auto", _OnGpu()) for _ in range(3)] == [expected] * 3
    assert [r.getMessage()[:30] for r in caplog.records] == ["The scan goes without mamba-ss"]
    with pytest.raises(MissingDependencyError, match=r"cannot be imported .*selective_scan_cuda"):
        choose_backend("mamba", _OnGpu())


def test_a_whole_mamba_is_the_first_choice_on_a_gpu(mamba_stub):
    mamba_stub.setitem(sys.modules, "selective_scan_cuda", ModuleType("selective_scan_cuda"))
    assert choose_backend("auto", _OnGpu()) == "mamba"
