import pytest
import torch
from golden_data import load_golden

from sparsenet.ops.ska import kernel_side, plain_ska, ska, ska_channels_last, ska_macs, ska_plain


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


def _inputs(*, share=4, kernels=2, side=3, size=(4, 5), batch=2, padding=1, dtype=torch.float64):
    torch.manual_seed(0)
    margin = side - 1 - 2 * padding
    shape = (batch, share * kernels, size[0] + margin, size[1] + margin)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    weight = torch.randn(batch, kernels, side**2, *size, dtype=dtype, requires_grad=True)
    return x, weight


def _with_gradients(function, *inputs):
    out = function(*inputs)
    torch.manual_seed(1)
    return [out, *torch.autograd.grad(out, inputs, torch.randn_like(out))]


@pytest.mark.golden
@pytest.mark.parametrize("case", range(6))
def test_meets_the_official_kernels(case):
    golden = load_golden("lsnet_ska.npz")
    get = lambda name: torch.from_numpy(golden[f"{case}_{name}"])  # noqa: E731
    x, weight = get("x").requires_grad_(), get("w").requires_grad_()
    out = ska(x, weight)
    out.backward(get("go"))
    for ours, name in ((out, "y"), (x.grad, "gx"), (weight.grad, "gw")):
        torch.testing.assert_close(ours.detach(), get(name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("taps, num_kernels", [(9, 2), (25, 3), (1, 1)])
def test_equals_the_formula(taps, num_kernels):
    torch.manual_seed(0)
    x = torch.randn(2, 2 * num_kernels, 4, 3, dtype=torch.float64)
    weight = torch.randn(2, num_kernels, taps, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(ska(x, weight), _by_the_formula(x, weight))


SHAPES = {
    "one image": {"batch": 1},
    "kernels wider than the map": {"side": 5, "size": (1, 2), "padding": 2},
    "half the padding": {"side": 5, "padding": 1},
    "one channel per kernel": {"share": 1},
    "one kernel for all": {"kernels": 1, "share": 6},
    "many kernels": {"kernels": 32, "share": 2, "size": (2, 3)},
    "single cell": {"size": (1, 1)},
    "single taps": {"side": 1, "padding": 0},
    "grown": {"padding": 0},
    "no image": {"batch": 0},
    "no rows": {"size": (0, 3)},
    "no rows, grown": {"size": (0, 3), "padding": 0},
    "no channels": {"share": 0},
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("is_channels_last", [False, True])
def test_equals_the_plain_operators(name, is_channels_last):
    case = SHAPES[name]
    x, weight = _inputs(**case)
    padding = case.get("padding", 1)
    if is_channels_last:
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    fast = _with_gradients(lambda *pair: torch.ops.sparsenet.ska(*pair, padding), x, weight)
    plain = _with_gradients(lambda *pair: ska_plain(*pair, padding), x, weight)
    for ours, expected in zip(fast, plain):
        torch.testing.assert_close(ours, expected)


def test_channels_last_windows_equal_the_map():
    x, weight = _inputs()
    grown = torch.nn.functional.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    out = ska_channels_last(grown, weight.permute(0, 3, 4, 2, 1))
    torch.testing.assert_close(out, ska(x, weight).permute(0, 2, 3, 1))


@pytest.mark.parametrize("padding", [0, 1])
def test_first_and_second_derivatives_are_exact(padding):
    x, weight = _inputs(share=2, size=(3, 2), batch=1, padding=padding)
    aggregate = lambda *pair: torch.ops.sparsenet.ska(*pair, padding)  # noqa: E731
    assert torch.autograd.gradcheck(aggregate, (x, weight))
    assert torch.autograd.gradgradcheck(aggregate, (x, weight))


@pytest.mark.parametrize("padding", [0, 1])
def test_operators_keep_their_promises(padding):
    """Fake forms, strides, aliasing and autograd, by torch's own checker."""
    x, weight = _inputs(share=2, size=(3, 2), batch=1, padding=padding)
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn_like(torch.ops.sparsenet.ska(x, weight, padding)).requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    ops = torch.ops.sparsenet
    torch.library.opcheck(ops.ska.default, (x, weight, padding), test_utils=checks)
    torch.library.opcheck(ops.ska_grad_x.default, (grad, weight, padding), test_utils=checks)
    torch.library.opcheck(ops.ska_grad_weight.default, (grad, x, 2, padding), test_utils=checks)


@pytest.mark.parametrize("needs_x", [False, True])
def test_only_the_wanted_gradient_is_computed(needs_x):
    x, weight = _inputs()
    x.requires_grad_(needs_x), weight.requires_grad_(not needs_x)
    with torch.profiler.profile() as profile:
        ska(x, weight).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert ("sparsenet::ska_grad_x" in names) == needs_x
    assert ("sparsenet::ska_grad_weight" in names) == (not needs_x)


def test_saves_its_inputs_alone():
    x, weight = _inputs(dtype=torch.float32)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        ska(x, weight)
    assert {t.data_ptr() for t in saved} == {x.data_ptr(), weight.data_ptr()}


def test_strides_do_not_matter_and_the_form_is_kept():
    x, weight = _inputs(size=(5, 6))
    expected = ska(x, weight)
    channels_last = ska(x.contiguous(memory_format=torch.channels_last), weight)
    assert channels_last.is_contiguous(memory_format=torch.channels_last)
    transposed = x.transpose(2, 3).contiguous().transpose(2, 3)
    every_second = torch.stack([weight, weight], dim=-1).flatten(-2)[..., ::2]
    torch.testing.assert_close(channels_last, expected)
    torch.testing.assert_close(ska(transposed, every_second), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    """The only errors left are those of the inputs, which are exact here, and of the result."""
    x, weight = (tensor.detach().to(dtype).requires_grad_() for tensor in _inputs(size=(6, 7)))
    half = _with_gradients(ska, x, weight)
    exact = [t.detach().float().requires_grad_() for t in (x, weight)]
    out = ska(*exact)
    torch.manual_seed(1)
    grads = torch.autograd.grad(out, exact, torch.randn_like(half[0]).float())
    for ours, expected in zip(half, [out, *grads]):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_mixed_types_are_promoted_and_autocast_is_obeyed():
    x, weight = _inputs(dtype=torch.float32)
    assert ska(x.bfloat16(), weight).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = ska(x.bfloat16(), weight)
        assert ska(x.double(), weight).dtype == torch.float64
    assert out.dtype == torch.bfloat16
    assert [g.dtype for g in torch.autograd.grad(out.sum(), (x, weight))] == [torch.float32] * 2


def test_is_one_node_that_fvcore_can_count():
    from fvcore.nn import FlopCountAnalysis

    class Module(torch.nn.Module):
        def forward(self, x, weight):
            return ska(x, weight)

    def count(inputs, outputs):
        return ska_macs(*(value.type().sizes() for value in inputs[:2]))

    x, weight = _inputs(dtype=torch.float32)
    analysis = FlopCountAnalysis(Module(), (x, weight)).set_op_handle("sparsenet::ska", count)
    assert analysis.total() == x.numel() * 9
    with plain_ska():
        graph = torch.jit.trace(Module(), (x, weight)).inlined_graph
    assert "sparsenet::ska" not in str(graph)


@pytest.mark.parametrize("taps", [4, 8, 16])
def test_even_kernels_are_refused(taps):
    with pytest.raises(ValueError, match="square of an odd kernel side"):
        ska(torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, taps, 3, 3))


@pytest.mark.parametrize(
    "x_shape, weight_shape, message",
    [
        ((1, 4, 3, 3), (1, 2, 9, 3), "five axes"),
        ((1, 4, 3, 4), (1, 2, 9, 3, 3), "need a map .* of 1 x C x 3 x 3, got"),
        ((2, 4, 3, 3), (1, 2, 9, 3, 3), "need a map"),
        ((4, 3, 3), (1, 2, 9, 3, 3), "need a map"),
        ((1, 4, 3, 3), (1, 3, 9, 3, 3), "must divide the map's 4 channels, got 3"),
        ((1, 4, 3, 3), (1, 0, 9, 3, 3), "must divide the map's 4 channels, got 0"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(x_shape, weight_shape, message):
    with pytest.raises(ValueError, match=message):
        ska(torch.zeros(x_shape), torch.zeros(weight_shape))


def test_a_halo_of_the_wrong_width_is_refused():
    with pytest.raises(ValueError, match="1 x C x 5 x 5, got"):
        ska_channels_last(torch.zeros(1, 3, 3, 4), torch.zeros(1, 3, 3, 9, 2))


def test_shapes_alone_can_be_computed():
    x, weight = torch.empty(2, 8, 5, 6, device="meta"), torch.empty(2, 4, 9, 5, 6, device="meta")
    assert ska(x, weight).shape == (2, 8, 5, 6)
