"""The grid scan of ``selective_scan`` as Triton kernels, forward and backward.

One program owns one direction of one image for a tile of channels and walks over the cells in
chunks: inside a chunk an associative scan of (decay, input) pairs, between chunks one carried state
per channel. The position of a cell on the map is computed from its place in the scan, so that the
four directions read the same channels-last maps; channels are contiguous, and neighbouring threads
read neighbouring addresses in every direction. The state before each chunk is kept for backward,
which recomputes the rest. Sums over channel tiles and images are written as parts and added
afterwards: results do not depend on the order in which programs run.

With N > 1 states the walk is repeated per state, and outputs are added up in place.

Shapes: K directions, B images, L = H · W cells, E channels, N states.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernels are read by Triton, which gives annotations a meaning of its own.

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsenet.ops.selective_scan_blocked import ScanInputs

# Chunk x tile = 1,024 pairs: 8 per thread with 4 warps. A tile of 16 channels reads whole 64-byte
# sectors and leaves enough programs for a GPU at batch 1 (stage 1: 4 x 12).
_CHUNK = 64
_TILE = 16
_OPTIONS = {"CHUNK": _CHUNK, "TILE": _TILE, "num_warps": 4}


@triton.jit
def _combine(decay_1, x_1, decay_2, x_2):
    return decay_1 * decay_2, decay_2 * x_1 + x_2


@triton.jit
def _position(t, height, width, is_by_columns, is_reversed):
    """Row-major index on the map of place ``t`` in the scan."""
    place = tl.where(is_reversed, height * width - 1 - t, t)
    by_columns = (place % height) * width + place // height
    return tl.where(is_by_columns, by_columns, place)


@triton.jit
def _step_size(raw, SOFTPLUS: tl.constexpr):
    if SOFTPLUS:
        e = tl.exp(tl.minimum(raw, 20.0))
        w = 1.0 + e  # log1p, see softplus of selective_scan_blocked
        raw = tl.where(raw > 20.0, raw, tl.log(w) + (e - (w - 1.0)) / w)
    return raw


@triton.jit
def _column(places, is_there):
    """One number per cell, float32, (CHUNK, 1)."""
    return tl.load(places, mask=is_there, other=0.0).to(tl.float32)[:, None]


@triton.jit
def _row(x, index: tl.constexpr, CHUNK: tl.constexpr):
    """Row ``index`` of (CHUNK, TILE)."""
    return tl.sum(tl.where(tl.arange(0, CHUNK)[:, None] == index, x, 0.0), axis=0)


@triton.jit
def _forward_kernel(  # noqa: PLR0913  (as all kernels)
    u_ptr, delta_ptr, a_ptr, b_ptr, c_ptr, d_ptr, bias_ptr, y_ptr, states_ptr,
    batch, height, width, channels, num_states,
    SHARED: tl.constexpr, CROSS: tl.constexpr, SOFTPLUS: tl.constexpr,
    CHUNK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    k, image = tl.program_id(0), tl.program_id(1)
    length, chunks = height * width, tl.cdiv(height * width, CHUNK)
    e = tl.program_id(2) * TILE + tl.arange(0, TILE)
    is_channel = e < channels
    map_index = (k * batch + image).to(tl.int64)
    u_ptr += (image.to(tl.int64) if SHARED else map_index) * length * channels
    delta_ptr += map_index * length * channels
    y_ptr += map_index * length * channels
    b_ptr += map_index * length * num_states
    c_ptr += map_index * length * num_states
    states_ptr += map_index * chunks * num_states * channels
    d = tl.load(d_ptr + k * channels + e, mask=is_channel, other=0.0)
    bias = tl.load(bias_ptr + k * channels + e, mask=is_channel, other=0.0)
    for n in range(num_states):
        a = tl.load(a_ptr + (k * channels + e) * num_states + n, mask=is_channel, other=0.0)
        state = tl.zeros((TILE,), tl.float32)
        for chunk in range(chunks):
            t = chunk * CHUNK + tl.arange(0, CHUNK)
            position = _position(t, height, width, CROSS and k % 2 == 1, CROSS and k >= 2)
            cell = position[:, None] * channels + e[None, :]
            is_cell = (t < length)[:, None] & is_channel[None, :]
            u = tl.load(u_ptr + cell, mask=is_cell, other=0.0).to(tl.float32)
            raw = tl.load(delta_ptr + cell, mask=is_cell, other=0.0).to(tl.float32) + bias
            b = _column(b_ptr + position * num_states + n, t < length)
            c = _column(c_ptr + position * num_states + n, t < length)
            step = _step_size(raw, SOFTPLUS)
            tl.store(states_ptr + (chunk * num_states + n) * channels + e, state, mask=is_channel)
            pairs = (tl.exp(step * a), step * u * b)
            total, h = tl.associative_scan(pairs, 0, _combine)
            h += total * state[None, :]
            state = _row(h, CHUNK - 1, CHUNK)
            y = h * c
            if n == 0:
                y += d * u
            else:
                y += tl.load(y_ptr + cell, mask=is_cell, other=0.0)
            tl.store(y_ptr + cell, y, mask=is_cell)
        tl.debug_barrier()  # the next state reads outputs that other threads may have written


@triton.jit
def _backward_kernel(  # noqa: PLR0913
    grad_ptr, states_ptr, u_ptr, delta_ptr, a_ptr, b_ptr, c_ptr, d_ptr, bias_ptr,
    du_ptr, ddelta_ptr, da_ptr, db_ptr, dc_ptr, dd_ptr, dbias_ptr,
    batch, height, width, channels, num_states,
    SHARED: tl.constexpr, CROSS: tl.constexpr, SOFTPLUS: tl.constexpr,
    CHUNK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    k, image, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length, chunks = height * width, tl.cdiv(height * width, CHUNK)
    e = tile * TILE + tl.arange(0, TILE)
    is_channel = e < channels
    map_index = (k * batch + image).to(tl.int64)
    group_index = image.to(tl.int64) if SHARED else map_index
    part_index = map_index * tl.num_programs(2) + tile
    u_ptr += group_index * length * channels
    grad_ptr += group_index * length * channels
    delta_ptr += map_index * length * channels
    du_ptr += map_index * length * channels
    ddelta_ptr += map_index * length * channels
    b_ptr += map_index * length * num_states
    c_ptr += map_index * length * num_states
    db_ptr += part_index * length * num_states
    dc_ptr += part_index * length * num_states
    states_ptr += map_index * chunks * num_states * channels
    d = tl.load(d_ptr + k * channels + e, mask=is_channel, other=0.0)
    bias = tl.load(bias_ptr + k * channels + e, mask=is_channel, other=0.0)
    d_sum, bias_sum = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    for n in range(num_states):
        a = tl.load(a_ptr + (k * channels + e) * num_states + n, mask=is_channel, other=0.0)
        a_sum = tl.zeros((TILE,), tl.float32)
        state_grad = tl.zeros((TILE,), tl.float32)  # of the first cell of the chunk after this one
        for i in range(chunks):
            chunk = chunks - 1 - i
            t = chunk * CHUNK + tl.arange(0, CHUNK)
            position = _position(t, height, width, CROSS and k % 2 == 1, CROSS and k >= 2)
            cell = position[:, None] * channels + e[None, :]
            is_cell = (t < length)[:, None] & is_channel[None, :]
            after = _position(t + 1, height, width, CROSS and k % 2 == 1, CROSS and k >= 2)
            has_after = (t + 1 < length)[:, None] & is_channel[None, :]
            after_cell = after[:, None] * channels + e[None, :]
            u = tl.load(u_ptr + cell, mask=is_cell, other=0.0).to(tl.float32)
            g = tl.load(grad_ptr + cell, mask=is_cell, other=0.0).to(tl.float32)
            raw = tl.load(delta_ptr + cell, mask=is_cell, other=0.0).to(tl.float32) + bias
            raw_after = tl.load(delta_ptr + after_cell, mask=has_after, other=0.0).to(tl.float32)
            b = _column(b_ptr + position * num_states + n, t < length)
            c = _column(c_ptr + position * num_states + n, t < length)
            place = states_ptr + (chunk * num_states + n) * channels + e
            state = tl.load(place, mask=is_channel, other=0.0)
            step = _step_size(raw, SOFTPLUS)
            x = step * u * b
            total, h = tl.associative_scan((tl.exp(step * a), x), 0, _combine)
            h += total * state[None, :]
            before = h - x  # a_t h_{t-1}
            decay_after = tl.exp(_step_size(raw_after + bias, SOFTPLUS) * a)
            total, gh = tl.associative_scan((decay_after, g * c), 0, _combine, reverse=True)
            gh += total * state_grad[None, :]  # dL/dh
            state_grad = _row(gh, 0, CHUNK)

            part = position * num_states + n
            tl.store(db_ptr + part, tl.sum(gh * step * u, axis=1), mask=t < length)
            tl.store(dc_ptr + part, tl.sum(tl.where(is_cell, g * h, 0.0), axis=1), mask=t < length)
            before = tl.where(is_cell, gh * before, 0.0)
            a_sum += tl.sum(before * step, axis=0)
            du = gh * step * b
            ddelta = tl.where(is_cell, gh * u * b + before * a, 0.0)
            if SOFTPLUS:
                ddelta *= tl.sigmoid(raw)
            bias_sum += tl.sum(ddelta, axis=0)
            if n == 0:
                du += g * d
                d_sum += tl.sum(g * u, axis=0)
            else:
                du += tl.load(du_ptr + cell, mask=is_cell, other=0.0)
                ddelta += tl.load(ddelta_ptr + cell, mask=is_cell, other=0.0)
            tl.store(du_ptr + cell, du, mask=is_cell)
            tl.store(ddelta_ptr + cell, ddelta, mask=is_cell)
        tl.store(da_ptr + (map_index * channels + e) * num_states + n, a_sum, mask=is_channel)
        tl.debug_barrier()
    tl.store(dd_ptr + map_index * channels + e, d_sum, mask=is_channel)
    tl.store(dbias_ptr + map_index * channels + e, bias_sum, mask=is_channel)


def states_shape(delta: Tensor, num_states: int) -> tuple[int, ...]:
    """Shape of the states before each chunk: (K, B, chunks, N, E)."""
    count, batch, height, width, channels = delta.shape
    return count, batch, triton.cdiv(height * width, _CHUNK), num_states, channels


def forward(inputs: ScanInputs, *, delta_softplus: bool, is_cross: bool) -> tuple[Tensor, Tensor]:
    """The outputs (G, B, H, W, E) and the states before each chunk, float32."""
    inputs = ScanInputs(*(t.contiguous() for t in inputs))
    count, batch, height, width, channels = inputs.delta.shape
    num_states, is_shared = inputs.A.shape[2], len(inputs.u) < count
    y = torch.empty(inputs.delta.shape, dtype=torch.float32, device=inputs.u.device)
    states = torch.empty(states_shape(inputs.delta, num_states), device=y.device)
    with torch.cuda.device_of(y):
        _forward_kernel[(count, batch, triton.cdiv(channels, _TILE))](
            *inputs, y, states, batch, height, width, channels, num_states,
            SHARED=is_shared, CROSS=is_cross, SOFTPLUS=delta_softplus, **_OPTIONS,
        )  # fmt: skip
    return y.sum(0, keepdim=True) if is_shared else y, states


def backward(
    grad: Tensor, states: Tensor, inputs: ScanInputs, *, delta_softplus: bool, is_cross: bool
) -> ScanInputs:
    """Gradients of the inputs, float32."""
    inputs = ScanInputs(*(t.contiguous() for t in inputs))
    count, batch, height, width, channels = inputs.delta.shape
    num_states, is_shared = inputs.A.shape[2], len(inputs.u) < count
    tiles = triton.cdiv(channels, _TILE)
    new = functools.partial(torch.empty, dtype=torch.float32, device=grad.device)
    du, ddelta = new(inputs.delta.shape), new(inputs.delta.shape)
    dA = new(count, batch, channels, num_states)
    dB, dC = (new(count, batch, tiles, height, width, num_states) for _ in range(2))
    dD, dbias = (new(count, batch, channels) for _ in range(2))
    with torch.cuda.device_of(grad):
        _backward_kernel[(count, batch, tiles)](
            grad, states, *inputs, du, ddelta, dA, dB, dC, dD, dbias,
            batch, height, width, channels, num_states,
            SHARED=is_shared, CROSS=is_cross, SOFTPLUS=delta_softplus, **_OPTIONS,
        )  # fmt: skip
    return ScanInputs(
        du.sum(0, keepdim=True) if is_shared else du,
        ddelta,
        dA.sum(1),
        dB.sum(2),
        dC.sum(2),
        dD.sum(1),
        dbias.sum(1),
    )
