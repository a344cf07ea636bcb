"""FAST-GRU: a GRU on whole maps with bottleneck gates (FASTER §3.2, Eq. 3 and 4)."""

# ruff: noqa: N806 (the paper's letters)
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..errors import UsageError
from .base import Aggregator, MapShape, uniform_
from .batch import ClipBatch
from .registry import register

REDUCTION = 4  # r, "which gives good results in our experiments"


@register("fast-gru")
class FastGRU(Aggregator[Tensor]):
    """Gates for every position and channel, through c/4 channels; o_0 = x_0. The state is (B, positions, c).

    The 1×1×1 convolutions are products over the positions of all videos, and all products with x are one,
    outside the recurrence. Six c×c/4 and two separate c×c matrices: Eq. 3 prints one V, the published costs
    fit only two. One bias a gate (after W), one for the candidate; all start at 0.
    """

    def __init__(self, *, map_shapes: Mapping[str, MapShape], num_classes: int, dropout: float) -> None:
        super().__init__(map_shapes=map_shapes, num_classes=num_classes, dropout=dropout)
        c = self.channels
        if c % REDUCTION:
            raise UsageError(f"the maps have {c} channels; fast-gru needs a multiple of {REDUCTION}")
        self.narrow = n = c // REDUCTION
        self.input_weight = nn.Parameter(torch.empty(2 * n + c, c))  # rows: U_rx, U_zx, V_x
        self.squeeze_weight = nn.Parameter(torch.empty(2 * n, c))  # rows: U_ro, U_zo
        self.read_weight = nn.Parameter(torch.empty(c, n))  # W_r'
        self.update_weight = nn.Parameter(torch.empty(c, n))  # W_z'
        self.candidate_weight = nn.Parameter(torch.empty(c, c))  # V_o
        self.read_bias = nn.Parameter(torch.zeros(c))
        self.update_bias = nn.Parameter(torch.zeros(c))
        self.candidate_bias = nn.Parameter(torch.zeros(c))
        for weight in (self.input_weight, self.squeeze_weight, self.candidate_weight):
            uniform_(weight, c)
        uniform_(self.read_weight, n)
        uniform_(self.update_weight, n)

    def init(self, x0: Tensor, model0: str) -> Tensor:
        """o_0 = x_0."""
        return x0.to(self.dtype).flatten(1, 3)

    def step(self, state: Tensor, x: Tensor, model: str) -> Tensor:
        """Eq. 4, then Eq. 3."""
        return self._recur(state, F.linear(x.to(self.dtype).flatten(1, 3), self.input_weight))

    def readout(self, state: Tensor) -> Tensor:
        """The last layer on the pooled o_t."""
        return self.classify(state.mean(1))

    def forward(self, batch: ClipBatch) -> Tensor:
        """All input projections in one product, then the recurrence."""
        by_time = replace(batch, model_of=batch.model_of.T, row_of=batch.row_of.T)
        x = by_time.dense(self._product_dtype())
        positions = x.shape[2:-1].numel()
        x = x.view(len(x), -1, self.channels)  # (N, B · positions, c)
        if torch.is_grad_enabled() and len(x) > 1:
            state = _recurrence(
                x,
                self.input_weight,
                self.squeeze_weight,
                self.read_weight,
                self.update_weight,
                self.candidate_weight,
                self.read_bias,
                self.update_bias,
                self.candidate_bias,
            )
        else:
            state = x[0].to(self.dtype)
            for projected in F.linear(x[1:], self.input_weight):
                state = self._recur(state, projected)
        return self.readout(state.view(-1, positions, self.channels))

    def _product_dtype(self) -> torch.dtype:
        """What the matrix products are computed in: the parameters' type, or autocast's."""
        device = self.fc.weight.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.dtype

    def _recur(self, state: Tensor, projected: Tensor) -> Tensor:
        n = self.narrow
        squeezed = torch.relu(projected[..., : 2 * n] + F.linear(state, self.squeeze_weight))
        read = torch.sigmoid(F.linear(squeezed[..., :n], self.read_weight, self.read_bias))
        update = torch.sigmoid(F.linear(squeezed[..., n:], self.update_weight, self.update_bias))
        recalled = F.linear(read * state, self.candidate_weight, self.candidate_bias)
        candidate = torch.tanh(projected[..., 2 * n :] + recalled)
        return torch.lerp(state, candidate.to(state.dtype), update.to(state.dtype))

    def step_gflops(self, map_shape: MapShape) -> float:
        """Six c×c/4 and two c×c products a position: 3.5 c²."""
        frames, height, width, c = map_shape
        return frames * height * width * (6 * c * (c // REDUCTION) + 2 * c * c) / 1e9


def _recurrence(x: Tensor, *parameters: Tensor) -> Tensor:
    """o_{N−1} (rows, c), in the parameters' type, from the maps x (N, rows, c); see `_Recurrence`."""
    state: Tensor = _Recurrence.apply(x, *parameters)  # type: ignore[no-untyped-call]
    return state


class _Recurrence(torch.autograd.Function):
    """The recurrence with its gradient written out, for training.

    Saves 5.5·c values a row and step, and one map, in x's type. The gradient of a weight is one product for all
    steps, after the way back. Products are in x's type; the carried state and its gradient in the parameters'.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        U_x, U_o, W_r, W_z, V_o, b_r, b_z, b_o = (_ready(p.to(x.dtype)) for p in parameters)
        steps, rows, c = len(x) - 1, x.shape[1], x.shape[2]
        n = c // REDUCTION
        # In place, step by step, these become the squeezed gates (2n) and the candidate (c).
        hidden = _linear(x[1:].flatten(0, 1), U_x).view(steps, rows, 2 * n + c)
        states, reads, updates = (x.new_empty(steps, rows, c) for _ in range(3))
        state = x[0].to(parameters[0].dtype)
        for t in range(steps):
            o = states[t].copy_(state)
            squeezed, candidate = hidden[t, :, : 2 * n], hidden[t, :, 2 * n :]
            squeezed.add_(_linear(o, U_o)).relu_()
            r = torch.sigmoid(_linear(squeezed[:, :n], W_r, b_r), out=reads[t])
            z = torch.sigmoid(_linear(squeezed[:, n:], W_z, b_z), out=updates[t])
            candidate.add_(_linear(r * o, V_o, b_o)).tanh_()
            state = torch.lerp(state, candidate.to(state.dtype), z.to(state.dtype))
        ctx.save_for_backward(x, hidden, states, reads, updates, *parameters[:5])
        return state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, states, reads, updates, *weights = ctx.saved_tensors
        U_x, U_o, W_r, W_z, V_o = (_ready(weight.to(x.dtype).t()) for weight in weights)
        n = states.shape[2] // REDUCTION
        # Gradients of what goes into each gate.
        d_hidden, d_reads, d_updates = (torch.empty_like(values) for values in (hidden, reads, updates))
        for t in reversed(range(len(states))):
            o, r, z = states[t], reads[t], updates[t]
            squeezed, candidate = hidden[t, :, : 2 * n], hidden[t, :, 2 * n :]
            d_squeezed, d_candidate = d_hidden[t, :, : 2 * n], d_hidden[t, :, 2 * n :]
            g = grad.to(x.dtype)
            d_candidate.copy_(torch.ops.aten.tanh_backward(g * z, candidate))
            d_z = d_updates[t].copy_(torch.ops.aten.sigmoid_backward(g * (candidate - o), z))
            d_recalled = _linear(d_candidate, V_o)
            d_r = d_reads[t].copy_(torch.ops.aten.sigmoid_backward(d_recalled * o, r))
            d_squeezed[:, :n] = _linear(d_r, W_r)
            d_squeezed[:, n:] = _linear(d_z, W_z)
            d_squeezed.mul_(squeezed > 0)
            through = d_recalled.mul_(r).add_(_linear(d_squeezed, U_o))
            grad = torch.addcmul(through.to(grad.dtype), grad, (1 - z).to(grad.dtype))
        inputs = hidden.flatten(0, 1)
        d_h, d_r, d_z = (d.flatten(0, 1) for d in (d_hidden, d_reads, d_updates))
        d_x = torch.cat([grad.to(x.dtype), _linear(d_h, U_x)]).view_as(x) if ctx.needs_input_grad[0] else None
        d_weights = (
            _linear(d.t(), _ready(before.t())).to(grad.dtype)
            for d, before in (
                (d_h, x[1:].flatten(0, 1)),
                (d_h[:, : 2 * n], states.flatten(0, 1)),
                (d_r, inputs[:, :n]),
                (d_z, inputs[:, n : 2 * n]),
                (d_h[:, 2 * n :], (reads * states).flatten(0, 1)),
            )
        )
        d_biases = (d.sum(0, dtype=grad.dtype) for d in (d_r, d_z, d_h[:, 2 * n :]))
        return d_x, *d_weights, *d_biases


def _ready(weight: Tensor) -> Tensor:
    """The weight as `_linear` wants it: float32 on a CPU goes through oneDNN, where torch has it.

    torch's own float32 products there are MKL's, which on AMD leave half of the CPU unused.
    """
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if has_onednn and weight.dtype == torch.float32 and weight.device.type == "cpu":
        prepared: Tensor = weight.to_mkldnn()
        return prepared
    return weight


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias, of a weight and bias from `_ready`."""
    if weight.is_mkldnn:
        return F.linear(x.to_mkldnn(), weight, bias).to_dense()
    return F.linear(x, weight, bias)


def plain(module: FastGRU, x: Tensor) -> Tensor:
    """Eq. 4 and 3, line by line, as 1×1×1 convolutions: x (B, N, l, h, w, c), logits (B, K)."""
    n, c = module.narrow, module.channels

    def conv(weight: Tensor, maps: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv3d(maps, weight[:, :, None, None, None], bias)

    U_rx, U_zx, V_x = torch.split(module.input_weight, [n, n, c])
    U_ro, U_zo = module.squeeze_weight.chunk(2)
    W_r, W_z, V_o = module.read_weight, module.update_weight, module.candidate_weight
    x = x.movedim(-1, 2)  # (B, N, c, l, h, w)
    o = x[:, 0]
    for t in range(1, x.shape[1]):
        x_t = x[:, t]
        r_narrow = torch.relu(conv(U_rx, x_t) + conv(U_ro, o))
        z_narrow = torch.relu(conv(U_zx, x_t) + conv(U_zo, o))
        r = torch.sigmoid(conv(W_r, r_narrow, module.read_bias))
        z = torch.sigmoid(conv(W_z, z_narrow, module.update_bias))
        o_bar = torch.tanh(conv(V_x, x_t) + conv(V_o, r * o, module.candidate_bias))
        o = (1 - z) * o + z * o_bar
    pooled = F.adaptive_avg_pool3d(o, 1).flatten(1)
    return F.linear(pooled, module.fc.weight, module.fc.bias)
