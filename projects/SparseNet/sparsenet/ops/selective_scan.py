"""Selective scan of Mamba (arXiv 2312.00752): a linear recurrence whose decay depends on the input.

With d_t = softplus(delta_t + delta_bias), each channel keeps N states

    h_t = exp(d_t A) h_{t-1} + d_t B_t u_t,    y_t = sum over N of C_t h_t + D u_t,    h_{-1} = 0.

``selective_scan_reference`` is the plain loop. ``selective_scan`` (one sequence per channel) and
``cross_selective_scan`` (a map in four orders) run on ``grid_scan``, which saves its inputs and
recomputes the states in backward: in two levels on a CPU, by own Triton kernels on a GPU, or by the
kernel of mamba-ssm where that is installed. Everything is computed in float32 (float64 for float64
inputs), as decays close to 1 need.
"""

import functools
import importlib.util
import logging
import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsenet.errors import ConfigError, MissingDependencyError
from sparsenet.ops import selective_scan_blocked as blocked
from sparsenet.ops.cross_scan import NUM_DIRECTIONS, cross_merge, maps_to_sequences
from sparsenet.ops.precision import at_least_float32
from sparsenet.ops.selective_scan_blocked import ScanInputs

logger = logging.getLogger(__name__)

BACKENDS = ("reference", "blocked", "triton", "mamba")
_SHORT = 64  # up to here one line is as fast as several
# Axes of the arguments, in their order.
_SEQUENCES = {
    "u": ("batch", "K·E", "L"),
    "delta": ("batch", "K·E", "L"),
    "A": ("K·E", "N"),
    "B": ("batch", "K", "N", "L"),
    "C": ("batch", "K", "N", "L"),
    "D": ("K·E",),
    "delta_bias": ("K·E",),
}
_MAPS = {
    "u": ("batch", "H", "W", "E"),
    "delta": ("4", "batch", "H", "W", "E"),
    "A": ("4", "E", "N"),
    "B": ("4", "batch", "H", "W", "N"),
    "C": ("4", "batch", "H", "W", "N"),
    "D": ("4", "E"),
    "delta_bias": ("4", "E"),
}


def selective_scan(  # noqa: PLR0913  (mamba-ssm's arguments)
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    delta_softplus: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Scans sequences; arguments as mamba-ssm's ``selective_scan_fn``.

    Args:
        u, delta: (batch, K·E, L), any float dtype.
        A: (K·E, N), negative.
        B, C: (batch, K, N, L), shared by the E channels of a group.
        D, delta_bias: (K·E,); None: zeros.
        delta_softplus: False: delta + delta_bias is the step itself and must be positive.
        backend: "auto" or one of ``BACKENDS``.

    Returns:
        (batch, K·E, L), float32 or float64.

    Raises:
        ConfigError: If the backend is not known or cannot run float64.
        MissingDependencyError: If the backend is not installed.
        ValueError: If the shapes do not fit each other.
    """
    _check_shapes(_SEQUENCES, u, delta, A, B, C, D, delta_bias)
    backend = choose_backend(backend, u)
    u, delta, A, B, C = (at_least_float32(t) for t in (u, delta, A, B, C))
    D, delta_bias = (_or_zeros(t, A[:, 0]) for t in (D, delta_bias))
    if backend in ("reference", "mamba"):
        scan = selective_scan_reference if backend == "reference" else _mamba_scan
        return scan(u, delta, A, B, C, D, delta_bias, delta_softplus=delta_softplus)
    groups, length = B.shape[1], u.shape[2]
    columns = math.ceil(math.sqrt(length)) if backend == "blocked" and length > _SHORT else length
    fill = -length % columns  # at the end, with u = 0: changes nothing before it

    def to_grid(x: Tensor) -> Tensor:  # (batch, K, X, L) to (K, batch, rows, columns, X)
        x = F.pad(x, (0, fill)).permute(1, 0, 3, 2)
        return x.reshape(*x.shape[:2], -1, columns, x.shape[-1])

    by_group = (t.unflatten(1, (groups, -1)) for t in (u, delta))  # (batch, K, E, L)
    y = grid_scan(
        *(to_grid(t) for t in by_group),
        A.unflatten(0, (groups, -1)),
        to_grid(B),
        to_grid(C),
        *(t.unflatten(0, (groups, -1)) for t in (D, delta_bias)),
        delta_softplus,
        False,
        backend,
    )[0]
    return y.flatten(2, 3)[:, :, :length].permute(1, 0, 3, 2).flatten(1, 2)  # (batch, K·E, L)


def cross_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """Scans a map in the four orders of ``cross_scan`` and sums the four results.

    Every tensor stays in the order of the map, whatever the order it is scanned in: nothing is
    copied for a direction.

    Args:
        u: (batch, H, W, E), any float dtype.
        delta: (4, batch, H, W, E), before bias and softplus.
        A: (4, E, N), negative.
        B, C: (4, batch, H, W, N).
        D, delta_bias: (4, E).
        backend: "auto" or one of ``BACKENDS``.

    Returns:
        (batch, H, W, E), float32 or float64.

    Raises:
        ConfigError: If the backend is not known or cannot run float64.
        MissingDependencyError: If the backend is not installed.
        ValueError: If the shapes do not fit each other.
    """
    _check_shapes(_MAPS, u, delta, A, B, C, D, delta_bias)
    backend = choose_backend(backend, u)
    u, delta, A, B, C = (at_least_float32(t) for t in (u, delta, A, B, C))
    if backend in ("blocked", "triton"):
        return grid_scan(u[None], delta, A, B, C, D, delta_bias, True, True, backend)[0][0]
    u_sequences, delta, B, C = (
        maps_to_sequences(t.permute(1, 0, 4, 2, 3))  # (batch, 4, X, L)
        for t in (u.expand_as(delta), delta, B, C)
    )
    scan = selective_scan_reference if backend == "reference" else _mamba_scan
    y = scan(
        u_sequences.flatten(1, 2),
        delta.flatten(1, 2),
        A.flatten(0, 1),
        B,
        C,
        D.flatten(),
        delta_bias.flatten(),
    )
    y = cross_merge(y.unflatten(1, (NUM_DIRECTIONS, -1)), (u.shape[1], u.shape[2]))
    return y.permute(0, 2, 3, 1)  # (batch, H, W, E)


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    *,
    delta_softplus: bool = True,
) -> Tensor:
    """The recurrence, step by step, with autograd's gradients; arguments as ``selective_scan``."""
    delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    repeats = u.shape[1] // B.shape[1]
    B, C = (t.repeat_interleave(repeats, dim=1) for t in (B, C))  # (batch, K·E, N, L)
    decays = torch.exp(delta.unsqueeze(2) * A.unsqueeze(-1)).unbind(-1)  # L times (batch, K·E, N)
    inputs = ((delta * u).unsqueeze(2) * B).unbind(-1)
    state, outputs = torch.zeros_like(inputs[0]), []
    for decay, x, c in zip(decays, inputs, C.unbind(-1)):
        state = torch.addcmul(x, decay, state)
        outputs.append((state * c).sum(-1))
    return torch.stack(outputs, dim=-1) + D[:, None] * u


@torch.library.custom_op("sparsenet::grid_scan", mutates_args=())
def grid_scan(  # noqa: PLR0913  (an operator takes tensors one by one)
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    delta_softplus: bool,
    is_cross: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Scans K groups of channels-last maps: one opaque operator to autograd, tracing and compiling.

    Args:
        u: (G, batch, H, W, E), G = K, or 1 where the directions share a map.
        delta: (K, batch, H, W, E).
        A: (K, E, N).
        B, C: (K, batch, H, W, N).
        D, delta_bias: (K, E).
        is_cross: group k walks in order k of ``cross_scan``; False: all go row by row.
        backend: "blocked" or "triton".

    Returns:
        The outputs (G, batch, H, W, E), summed over directions that share a map, and the states at
        which backward starts (empty where it recomputes them all).
    """
    inputs = ScanInputs(u, delta, A, B, C, D, delta_bias)
    if backend == "triton":
        return _triton().forward(inputs, delta_softplus=delta_softplus, is_cross=is_cross)
    y = blocked.forward(inputs, delta_softplus=delta_softplus, is_cross=is_cross)
    return y, u.new_empty(0)


@torch.library.custom_op("sparsenet::grid_scan_backward", mutates_args=())
def _grid_scan_backward(  # noqa: PLR0913
    grad: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    delta_softplus: bool,
    is_cross: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = ScanInputs(u, delta, A, B, C, D, delta_bias)
    if backend == "triton":
        grads = _triton().backward(
            grad.contiguous(), states, inputs, delta_softplus=delta_softplus, is_cross=is_cross
        )
    else:
        grads = blocked.backward(grad, inputs, delta_softplus=delta_softplus, is_cross=is_cross)
    return tuple(grads)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus, ctx.is_cross, ctx.backend = inputs
    ctx.save_for_backward(output[1], *tensors)


def _backward(ctx: Any, grad: Tensor, _states: Tensor | None) -> tuple[Tensor | None, ...]:
    options = (ctx.delta_softplus, ctx.is_cross, ctx.backend)
    return *_grid_scan_backward(grad, *ctx.saved_tensors, *options), None, None, None


grid_scan.register_autograd(_backward, setup_context=_setup_context)


@grid_scan.register_fake
def _(u: Tensor, delta: Tensor, A: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    if rest[-1] != "triton":
        return y, u.new_empty(0)
    return y, u.new_empty(_triton().states_shape(delta, A.shape[2]))


@_grid_scan_backward.register_fake
def _(grad: Tensor, states: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in rest[:7])


def choose_backend(name: str, like: Tensor) -> str:
    """The backend that runs tensors like ``like``; "auto" takes the fastest that can run.

    Raises:
        ConfigError: If the backend is not known or cannot run float64.
        MissingDependencyError: If the backend is not installed, or is broken.
    """
    if name == "auto":
        if like.device.type != "cuda" or like.dtype == torch.float64:
            return "blocked"
        return next((b for b in ("mamba", "triton") if not backend_problem(b)), "blocked")
    if name not in BACKENDS:
        raise ConfigError(
            f"The scan's backend must be auto or one of {', '.join(BACKENDS)}; got {name!r}."
        )
    if name in ("triton", "mamba") and like.dtype == torch.float64:
        raise ConfigError(
            f"The scan's backend {name!r} computes in float32, got float64. Use 'blocked'."
        )
    if problem := backend_problem(name):
        package = {"mamba": "mamba-ssm", "triton": "triton"}[name]
        raise MissingDependencyError(
            f"The scan's backend {name!r} needs {package}, which {problem}. "
            f"Install it with `pip install {package}`, or use 'auto'."
        )
    return name


@functools.cache
def backend_problem(backend: str) -> str:
    """What is wrong with the package of a backend; empty where it can run."""
    module = {"mamba": "mamba_ssm", "triton": "triton"}.get(backend)
    if module is None:
        return ""
    if importlib.util.find_spec(module) is None:
        return "is not installed"
    if backend == "triton":
        return ""
    try:  # newer builds lack the kernel; builds for another torch fail while they are loaded
        importlib.import_module("selective_scan_cuda")
        _mamba_function()
    except Exception as error:
        logger.warning("The scan goes without mamba-ssm, which cannot be imported: %r.", error)
        return f"cannot be imported ({error!r})"
    return ""


def _triton() -> ModuleType:
    """Imported late: Triton is optional, and slow to import."""
    return importlib.import_module("sparsenet.ops.selective_scan_triton")


def _mamba_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    *,
    delta_softplus: bool = True,
) -> Tensor:
    # Its kernel wants the last axis contiguous; no gate z.
    u, delta, B, C = (t.contiguous() for t in (u, delta, B, C))
    return _mamba_function()(u, delta, A, B, C, D, None, delta_bias, delta_softplus)


def _mamba_function() -> Callable[..., Tensor]:
    return importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn


def _or_zeros(x: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if x is None else at_least_float32(x)


def _check_shapes(layout: Mapping[str, tuple[str, ...]], *tensors: Tensor | None) -> None:
    """Raises ValueError where an axis is missing, empty, or as long as it is not elsewhere."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        return
    sizes = {"4": NUM_DIRECTIONS}
    for (name, axes), tensor in zip(layout.items(), tensors):
        if tensor is None:
            continue
        shape = tuple(tensor.shape)
        if len(shape) == len(axes):
            expected = tuple(sizes.setdefault(axis, n) for axis, n in zip(axes, shape))
        if len(shape) != len(axes) or shape != expected:
            wanted = " x ".join(str(sizes.get(axis, axis)) for axis in axes)
            raise ValueError(
                f"the scan's {name} must be ({', '.join(axes)}), here {wanted}, got {shape}"
            )
    if empty := [axis for axis, n in sizes.items() if n < 1 and axis != "batch"]:
        raise ValueError(f"the axes of a scan must not be empty, {', '.join(empty)} has no entries")
    if sizes.get("K·E", 0) % sizes.get("K", 1):
        raise ValueError(
            f"the K = {sizes['K']} groups of B and C must divide the channels of u, got "
            f"{sizes['K·E']} channels"
        )
