"""FLOPs and activations of what a model really runs.

The numbers and reports are fvcore's (a multiply-add is one FLOP; norms count as fvcore counts
them). Differs from it in: operators are recorded while the model runs instead of read from a trace.
A trace turns shapes into tensors, on which ordinary Python such as ``round`` fails, and knows
neither fused attention nor compiled functions. Kept windows, sampled boxes and detections depend on
the input, and so do the numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from fvcore.nn.jit_analysis import Statistics
from fvcore.nn.jit_handles import generic_activation_jit
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sparsenet.analysis.op_handles import FLOP_HANDLES, FREE_OPS, Handle, OpValue

# Operators whose outputs count as activations, as fvcore's: products and convolutions.
_ACTIVATION_OPS = (
    "aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "aten::convolution",
    "mkldnn::_linear_pointwise",
)  # fmt: skip


class FlopCount(FlopCountAnalysis):
    """FLOPs per module and operator; see ``fvcore.nn.FlopCountAnalysis`` for its methods."""

    def __init__(self, model: nn.Module, inputs: Sequence[Any]) -> None:
        """
        Args:
            model: put into eval mode for the run.
            inputs: positional arguments of ``model``, of any type.
        """
        super().__init__(model, tuple(inputs))
        self.clear_op_handles().set_op_handle(**FLOP_HANDLES)

    def _analyze(self) -> Statistics:
        self._stats = self._stats or record(self._model, self._inputs, self._op_handles)
        return self._stats


class ActivationCount(ActivationCountAnalysis):
    """Values that products and convolutions put out; see ``fvcore.nn.ActivationCountAnalysis``."""

    def __init__(self, model: nn.Module, inputs: Sequence[Any]) -> None:
        super().__init__(model, tuple(inputs))
        handles = {name: generic_activation_jit() for name in _ACTIVATION_OPS}
        self.clear_op_handles().set_op_handle(**handles)

    def _analyze(self) -> Statistics:
        self._stats = self._stats or record(self._model, self._inputs, self._op_handles)
        return self._stats


def record(model: nn.Module, inputs: Sequence[Any], handles: dict[str, Handle]) -> Statistics:
    """Runs ``model(*inputs)`` once, without gradients, and applies a handle to each operator."""
    names = {module: name for name, module in model.named_modules()}
    recorder = _Recorder(handles, list(names.values()))
    hooks = []
    for module, name in names.items():
        hooks += recorder.attach(module, name)
    try:
        with _evaluating(model), torch.no_grad(), recorder:
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return Statistics(recorder.counts, recorder.unsupported, set(names.values()) - recorder.called)


class _Recorder(TorchDispatchMode):
    """Sees every operator below autograd, and which module's forward called it."""

    def __init__(self, handles: dict[str, Handle], module_names: list[str]) -> None:
        super().__init__()
        self.handles = handles
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in module_names}
        self.unsupported: dict[str, Counter[str]] = {name: Counter() for name in module_names}
        self.called = {""}
        self._scopes = [""]

    def attach(self, module: nn.Module, name: str) -> list[Any]:
        def enter(*_: Any) -> None:
            self._scopes.append(name)
            self.called.update(_ancestors(name))

        def leave(*_: Any) -> None:
            self._scopes.pop()

        return [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave),
        ]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kind = func._schema.name
        if kind not in self.handles:
            with self:  # composite operators: count what they are made of
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        result = func(*args, **(kwargs or {}))
        if kind in self.handles:
            outputs = result if isinstance(result, tuple | list) else (result,)
            values = [OpValue(v) for v in _arguments(func, args, kwargs or {})]
            count = self.handles[kind](values, [OpValue(v) for v in outputs])
            self._add(self.counts, kind.split("::")[1], count)
        elif not (func.is_view or kind in FREE_OPS):
            self._add(self.unsupported, kind, 1)
        return result

    def _add(self, counters: dict[str, Counter[str]], kind: str, count: float) -> None:
        for name in _ancestors(self._scopes[-1]):
            if name in counters:
                counters[name][kind] += count


def _arguments(func: Any, args: tuple, kwargs: dict[str, Any]) -> list[Any]:
    """All arguments in the order of the operator's schema, defaults included."""
    rest = func._schema.arguments[len(args) :]
    return [*args, *(kwargs.get(a.name, a.default_value) for a in rest)]


def _ancestors(name: str) -> list[str]:
    """The module and all that own it: "a.b" gives "", "a", "a.b"."""
    names = name.split(".") if name else []
    return [".".join(names[:length]) for length in range(len(names) + 1)]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and multi-head attention as separate operators (its fast path hides them)."""
    was_training, has_fast_path = model.training, torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(has_fast_path)
        model.train(was_training)
