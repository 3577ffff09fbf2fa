"""Numbers recorded from the published SparX-Mamba: tiny networks with all weights, full backbones.

The tiny networks are compared in float64, where the recorded float32 weights give the recorded
numbers to 5e-7; the full ones in float32, whose own noise was measured at 2e-5.
"""

import zlib

import numpy as np
import pytest
import torch
from golden_data import load_golden

from sparsenet.modeling.backbone.sparx_mamba import SparXMamba, SparXMambaSize

pytestmark = pytest.mark.golden

MICRO = {
    "a": SparXMambaSize((8, 12, 20, 28), (1, 2, 7, 2), 2, (1, 1, 2, 1), (None, 1, 0, 0)),
    "b": SparXMambaSize((8, 12, 24, 36), (1, 2, 14, 3), 3, (1, 1, 3, 2), (None, 1, 0, 2)),
}
LOSSES = {  # eval, train
    "a": (-34.77226140276832, 159.3672461520287),
    "b": (54.92616759750263, 104.77662878224268),
}


@pytest.fixture(scope="module", params=MICRO)
def micro(request):
    """Name, recorded arrays and the network with the recorded weights, in float64."""
    golden = load_golden(f"sparx_micro_{request.param}.npz")
    arrays = {key: golden[key] for key in golden}
    net = SparXMamba(size=MICRO[request.param]).double()
    weights = {k[2:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("w/")}
    report = net.load_state_dict(weights, strict=False)
    assert not report.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in report.missing_keys)
    return request.param, arrays, net


def _run(net: SparXMamba, image: np.ndarray) -> tuple[list[torch.Tensor], float, torch.Tensor]:
    """Outputs, the recorded loss, and its gradient by the image."""
    net.zero_grad()
    x = torch.from_numpy(image).double().requires_grad_()
    outputs = list(net(x).values())
    loss = torch.zeros((), dtype=torch.float64)
    for i, output in enumerate(outputs):
        weight = np.random.RandomState(100 + i).standard_normal(output.shape)
        loss = loss + (output * torch.from_numpy(weight)).sum()
    loss.backward()
    return [o.detach() for o in outputs], float(loss.detach()), x.grad


def _assert_meets(ours: torch.Tensor, recorded: np.ndarray, name: str) -> None:
    # Recorded in float32: 6e-8 relative.
    expected = torch.from_numpy(recorded).double()
    torch.testing.assert_close(ours.double(), expected, atol=2e-6, rtol=1e-6, msg=name)


def test_tiny_network_in_evaluation(micro):
    name, golden, net = micro
    seen: dict[str, torch.Tensor] = {}
    handles = []
    for s, stage in enumerate(net.layers):
        for j, block in enumerate(stage.blocks):
            for key, module in ((f"{s}.{j}", block), (f"{s}.{j}.op", block.op)):
                handles.append(
                    module.register_forward_hook(
                        lambda _m, _i, out, key=key: seen.update({key: out.detach()})
                    )
                )
    outputs, loss, grad = _run(net.eval(), golden["x"])
    for handle in handles:
        handle.remove()
    assert loss == pytest.approx(LOSSES[name][0], abs=1e-8)
    for i, output in enumerate(outputs):
        _assert_meets(output, golden[f"eval/c{i + 2}"], f"c{i + 2}")
    _assert_meets(grad, golden["eval/gx"], "gx")
    recorded = {k.removeprefix("eval/block/"): v for k, v in golden.items() if "/block/" in k}
    assert set(recorded) == set(seen)
    for key, value in recorded.items():
        _assert_meets(seen[key], value, key)


def test_tiny_network_in_training(micro):
    name, golden, net = micro
    before = {k: v.clone() for k, v in net.state_dict().items()}
    outputs, loss, grad = _run(net.train(), golden["x"])
    after = {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(before)  # the module is shared
    assert loss == pytest.approx(LOSSES[name][1], abs=1e-8)
    for i, output in enumerate(outputs):
        _assert_meets(output, golden[f"train/c{i + 2}"], f"c{i + 2}")
    _assert_meets(grad, golden["train/gx"], "gx")
    gradients = {k: p.grad for k, p in net.named_parameters()}
    for key, value in golden.items():
        if key.startswith("train/g/"):
            _assert_meets(gradients[key.removeprefix("train/g/")], value, key)
        elif key.startswith("after_train/"):
            _assert_meets(after[key.removeprefix("after_train/")], value, key)


def _recipe_value(key: str, initial: torch.Tensor) -> np.ndarray | None:
    """A state entry as the recording rebuilt it from its name; None keeps the initial value."""
    rs, shape, leaf = (
        np.random.RandomState(zlib.crc32(key.encode())),
        tuple(initial.shape),
        key.rpartition(".")[2],
    )
    if leaf in ("num_batches_tracked", "A_logs", "scale"):
        return None
    if leaf == "dt_projs_bias":
        step = np.exp(rs.uniform(np.log(1e-3), np.log(1e-1), shape))
        return step + np.log(-np.expm1(-step))
    if leaf == "dt_projs_weight":
        return rs.uniform(-(shape[2] ** -0.5), shape[2] ** -0.5, shape)
    if leaf in ("running_var", "Ds"):
        return rs.uniform(0.5, 1.5, shape)
    if leaf in ("running_mean", "bias"):
        return rs.standard_normal(shape) * 0.1
    if leaf == "weight" and (len(shape) == 1 or ".layerscale_" in key):
        return rs.uniform(0.5, 1.5, shape)
    return rs.standard_normal(shape) * 0.05


@pytest.mark.parametrize(
    "letter, size, total",
    [
        ("t", "tiny", 1335124.593842),
        pytest.param("s", "small", 2381375.381308, marks=pytest.mark.slow),
        pytest.param("b", "base", 4073189.608185, marks=pytest.mark.slow),
    ],
)
def test_full_backbone(letter, size, total):
    golden = load_golden(f"sparx_{letter}.npz")
    net = SparXMamba(size=size).eval()
    state = net.state_dict()
    assert sorted(state) == sorted(golden["keys"].tolist())
    for key, tensor in state.items():
        value = _recipe_value(key, tensor)
        if value is not None:
            tensor.copy_(torch.from_numpy(value.astype(np.float32)))
    sums = {key: float(state[key].double().abs().sum()) for key in state}
    shapes = {key: "x".join(map(str, state[key].shape)) for key in state}
    for key, shape, expected in zip(golden["keys"], golden["key_shape"], golden["key_abs_sum"]):
        assert shapes[str(key)] == shape, key
        assert sums[str(key)] == pytest.approx(expected, rel=1e-6), key
    assert sum(sums.values()) == pytest.approx(total, rel=1e-9)
    image = np.random.RandomState(0).standard_normal((1, 3, 96, 128)).astype(np.float32)
    with torch.no_grad():
        outputs = list(net(torch.from_numpy(image)).values())
    for i, output in enumerate(outputs):
        expected = torch.from_numpy(golden[f"c{i + 2}"])
        torch.testing.assert_close(output, expected, atol=2e-4, rtol=0)
