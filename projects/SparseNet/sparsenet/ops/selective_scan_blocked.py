"""The grid scan of ``selective_scan`` in plain torch, in two levels, for CPUs.

The lines of a map (rows, or columns for the transposed orders) are scanned side by side from a zero
state; a short loop over the ends of the lines gives every line its true first state; a second scan
from there writes the states. H + 2 W vector steps take the place of H · W, and no direction is
copied into its own order: it is only walked through differently. All decays are at most 1, so
products underflow at worst. Backward recomputes the states, one direction at a time.

Shapes: K directions, G = K or 1 maps, B images, (H, W) cells, E channels, N states; (S, F) lines
and cells of a line in the order of a direction.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_SOFTPLUS_IS_LINEAR = 20.0  # F.softplus's own threshold; exp stays finite below it


class ScanInputs(NamedTuple):
    """What a grid scan reads; see ``selective_scan.grid_scan``."""

    u: Tensor  # (G, B, H, W, E)
    delta: Tensor  # (K, B, H, W, E)
    A: Tensor  # (K, E, N)
    B: Tensor  # (K, B, H, W, N)
    C: Tensor  # (K, B, H, W, N)
    D: Tensor  # (K, E)
    delta_bias: Tensor  # (K, E)


def forward(inputs: ScanInputs, *, delta_softplus: bool, is_cross: bool) -> Tensor:
    """The outputs (G, B, H, W, E); directions that share a map are summed."""
    u, A = inputs.u, inputs.A
    y = _zeros_like(u)
    for k, view, is_reversed in _directions(A.shape[0], is_cross):
        group = min(k, u.shape[0] - 1)
        u_k, y_k, step = view(u[group]), view(y[group]), _step_size(inputs, k, delta_softplus)[1]
        y_k.addcmul_(u_k, inputs.D[k])
        step = view(step)
        step_u = step * u_k  # (B, S, F, E)
        for n in range(A.shape[2]):
            decay = (step * A[k, :, n]).exp_()
            h = step_u * view(inputs.B[k, ..., n, None])
            h = recurrence(decay, h, is_reversed, out=h)
            y_k.addcmul_(h, view(inputs.C[k, ..., n, None]))
    return y


def backward(
    grad: Tensor, inputs: ScanInputs, *, delta_softplus: bool, is_cross: bool
) -> ScanInputs:
    """Gradients of the inputs.

    With g = dL/dy, the state gradient is G_t = C_t g_t + a_{t+1} G_{t+1}: the same recurrence,
    walked backwards with the decay of the next cell.
    """
    grads = ScanInputs(*(_zeros_like(t) for t in inputs))
    for k, view, is_reversed in _directions(inputs.A.shape[0], is_cross):
        group = min(k, inputs.u.shape[0] - 1)
        raw, step = _step_size(inputs, k, delta_softplus)
        u, g, step = view(inputs.u[group]), view(grad[group]), view(step)
        du = view(grads.u[group])
        du.addcmul_(g, inputs.D[k])
        torch.sum(g * u, dim=(0, 1, 2), out=grads.D[k])
        dstep = torch.zeros_like(step)
        for n in range(inputs.A.shape[2]):
            a_n = inputs.A[k, :, n]
            b, c = (view(t[k, ..., n, None]) for t in (inputs.B, inputs.C))
            decay = (step * a_n).exp_()
            x = step * u * b
            h = recurrence(decay, x, is_reversed)
            view(grads.C[k, ..., n]).copy_((g * h).sum(-1))
            before = h.sub_(x)  # a_t h_{t-1}
            state_grad = g * c
            decay = _next_cell(decay, is_reversed)
            state_grad = recurrence(decay, state_grad, not is_reversed, out=state_grad)
            du.addcmul_(state_grad, step * b)
            view(grads.B[k, ..., n]).copy_((state_grad * step * u).sum(-1))
            before.mul_(state_grad)
            grads.A[k, :, n] = (before * step).sum(dim=(0, 1, 2))
            dstep.addcmul_(state_grad, u * b).addcmul_(before, a_n)
        if delta_softplus:
            dstep.mul_(view(raw).sigmoid())
        view(grads.delta[k]).copy_(dstep)
        torch.sum(dstep, dim=(0, 1, 2), out=grads.delta_bias[k])
    return grads


def recurrence(decay: Tensor, x: Tensor, is_reversed: bool, out: Tensor | None = None) -> Tensor:
    """h_t = decay_t · h_{t-1} + x_t along the cells (S, F), line after line, from zero.

    Args:
        decay, x: (B, S, F, E), any strides.
        is_reversed: from the last cell of the last line to the first.
        out: where h goes; may be ``x``.
    """
    out = torch.empty_like(x) if out is None else out
    order = slice(None, None, -1) if is_reversed else slice(None)
    decays, xs, outs = (t.unbind(2)[order] for t in (decay, x, out))  # F times (B, S, E)
    state = torch.zeros_like(xs[0])
    if x.shape[1] > 1:
        total = torch.ones_like(state)  # decay over a whole line
        for decay_t, x_t in zip(decays, xs):
            torch.addcmul(x_t, decay_t, state, out=state)
            total.mul_(decay_t)
        state = _first_states(state, total, order)
    for decay_t, x_t, out_t in zip(decays, xs, outs):
        state = torch.addcmul(x_t, decay_t, state, out=out_t)
    return out


def _first_states(end: Tensor, total: Tensor, order: slice) -> Tensor:
    """State before each line, from the ends reached from zero and the lines' decays: (B, S, E)."""
    first = torch.zeros_like(end)
    firsts, ends, totals = (t.unbind(1)[order] for t in (first, end, total))  # S times (B, E)
    for i in range(1, len(firsts)):
        torch.addcmul(ends[i - 1], totals[i - 1], firsts[i - 1], out=firsts[i])
    return first


def _next_cell(x: Tensor, is_reversed: bool) -> Tensor:
    """The value of the cell that follows in the scan; the last cell's is not used by any caller."""
    shift = 1 if is_reversed else -1
    return x.flatten(1, 2).roll(shift, dims=1).view(x.shape)  # (B, S, F, E)


def _step_size(inputs: ScanInputs, k: int, delta_softplus: bool) -> tuple[Tensor, Tensor]:
    raw = inputs.delta[k] + inputs.delta_bias[k]
    return raw, softplus(raw) if delta_softplus else raw


def softplus(x: Tensor) -> Tensor:
    """``F.softplus``, to the same precision, in vectorised steps: torch's log1p is not, on CPUs.

    log(1 + e) = log(w) + (e - (w - 1)) / w to first order in what rounding w = 1 + e lost.
    """
    clipped = x.clamp(max=_SOFTPLUS_IS_LINEAR)
    e = clipped.exp()
    w = e + 1
    rest = e.sub_(w - 1).div_(w)
    return torch.where(x > _SOFTPLUS_IS_LINEAR, x, w.log_().add_(rest))


def _zeros_like(x: Tensor) -> Tensor:
    return torch.zeros_like(x, memory_format=torch.contiguous_format)


def _by_rows(x: Tensor) -> Tensor:
    return x


def _by_columns(x: Tensor) -> Tensor:
    return x.transpose(1, 2)  # (B, W, H, ·)


def _directions(count: int, is_cross: bool) -> Iterator[tuple]:
    """Index, view of a map (B, H, W, ·) as lines (B, S, F, ·), whether it is walked reversed."""
    for k in range(count):
        view = _by_columns if is_cross and k % 2 else _by_rows
        yield k, view, is_cross and k >= 2
