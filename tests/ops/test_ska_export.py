import io

import numpy as np
import pytest
import torch

from sparsenet.ops.ska import ska


class _Aggregation(torch.nn.Module):
    def forward(self, x, weight):
        return ska(x, weight)


def _inputs(batch):
    torch.manual_seed(batch)
    return torch.randn(batch, 16, 5, 6), torch.randn(batch, 2, 9, 5, 6)


def _dynamic_batch():
    batch = torch.export.Dim("batch", min=1, max=64)
    return {"x": {0: batch}, "weight": {0: batch}}


def test_export_holds_standard_operators_and_any_batch():
    program = torch.export.export(_Aggregation(), _inputs(2), dynamic_shapes=_dynamic_batch())
    targets = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert not any("sparsenet" in target for target in targets)
    torch.testing.assert_close(program.module()(*_inputs(5)), ska(*_inputs(5)))


def test_compiles_as_one_graph_with_gradients():
    """Whole graph in standard operators; the backend that generates code is Inductor's matter."""
    compiled = torch.compile(_Aggregation(), fullgraph=True, backend="aot_eager")
    results = []
    for run in (ska, compiled):
        inputs = [tensor.requires_grad_() for tensor in _inputs(2)]
        out = run(*inputs)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("is_dynamo", [False, True])
def test_onnx_file_takes_any_batch(is_dynamo):
    pytest.importorskip("onnxscript", reason="needs onnxscript (test extra)")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (test extra)")
    names = {"input_names": ["x", "weight"], "output_names": ["y"]}
    file = io.BytesIO()
    if is_dynamo:
        shapes = _dynamic_batch()
        torch.onnx.export(
            _Aggregation(), _inputs(2), dynamo=True, dynamic_shapes=shapes, **names
        ).save(file)
    else:
        axes = {name: {0: "batch"} for name in ("x", "weight", "y")}
        torch.onnx.export(
            _Aggregation(),
            _inputs(2),
            file,
            dynamo=False,
            dynamic_axes=axes,
            opset_version=17,
            **names,
        )
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    x, weight = _inputs(5)
    (out,) = session.run(None, {"x": x.numpy(), "weight": weight.numpy()})
    np.testing.assert_allclose(out, ska(x, weight).numpy(), atol=1e-5)
