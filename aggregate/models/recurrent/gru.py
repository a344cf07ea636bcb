"""GRU on globally pooled vectors (FASTER §3.2, Eq. 2 and 3)."""

# ruff: noqa: N806 (the paper's letters)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ....runtime.flop_counter import MapShape
from ..base import Aggregator, pool, uniform_
from ..batch import ClipBatch
from ..cpu_kernels import product, product_dtype

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


class GRU(Aggregator[Tensor]):
    """Read and update gates over the pooled maps; o_0 is the pooled x_0. The state is o_t, (B, c).

    The read gate acts before V, as in Eq. 3; in cuDNN's GRU it acts after. Eq. 3 prints one V: there are two,
    as in FAST-GRU, whose published cost fits only two. One bias per gate, one for the candidate.
    """

    name = "gru"
    reads_pooled = True

    def __init__(self, *, map_shapes: Mapping[str, MapShape], num_classes: int, dropout: float) -> None:
        super().__init__(map_shapes=map_shapes, num_classes=num_classes, dropout=dropout)
        c = self.channels
        self.input_weight = nn.Parameter(torch.empty(3 * c, c))  # rows: G_rx, G_zx, V_x
        self.gate_weight = nn.Parameter(torch.empty(2 * c, c))  # rows: G_ro, G_zo
        self.candidate_weight = nn.Parameter(torch.empty(c, c))  # V_o
        self.bias = nn.Parameter(torch.zeros(3 * c))  # read, update, candidate
        for weight in (self.input_weight, self.gate_weight, self.candidate_weight):
            uniform_(weight, c)

    def init(self, x0: Tensor, model0: str) -> Tensor:
        """Return o_0: the pooled x_0."""
        return pool(x0, self.dtype)

    def step(self, state: Tensor, x: Tensor, model: str) -> Tensor:
        """Eq. 2 and 3."""
        return self._recur(state, F.linear(pool(x, self.dtype), self.input_weight, self.bias))

    def readout(self, state: Tensor) -> Tensor:
        """Apply the last layer to o_t."""
        return self.classify(state)

    def forward(self, batch: ClipBatch) -> Tensor:
        """Compute all input projections in one product, then the recurrence, with a hand-written gradient."""
        x = batch.map(lambda model, maps: pool(maps, self.dtype)).dense(self.dtype).movedim(1, 0)
        x = x.to(product_dtype(self.fc.weight))
        weights = self.input_weight, self.gate_weight, self.candidate_weight, self.bias
        state: Tensor = _Recurrence.apply(x, *weights)  # type: ignore[no-untyped-call]
        return self.classify(state)

    def _recur(self, state: Tensor, projected: Tensor) -> Tensor:
        c = self.channels
        gates = torch.sigmoid(projected[..., : 2 * c] + F.linear(state, self.gate_weight))
        read, update = gates.chunk(2, dim=-1)
        candidate = torch.tanh(projected[..., 2 * c :] + F.linear(read * state, self.candidate_weight))
        return torch.lerp(state, candidate.to(state.dtype), update.to(state.dtype))

    def step_gflops(self, map_shape: MapShape) -> float:
        """Six c×c products."""
        return 6 * map_shape[3] ** 2 / 1e9


class _Recurrence(torch.autograd.Function):
    """o_{N−1} (B, c), in the parameters' type, from the pooled maps x (N, B, c); products are in x's type.

    Saves 5·c values per video and step. The gradient of a weight is one product for all steps, after the
    backward loop.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        W_x, G_o, V_o, bias = (p.to(x.dtype) for p in parameters)
        steps, videos, c = len(x) - 1, x.shape[1], x.shape[2]
        # Modified in place, step by step, to become the gates (2c) and the candidate (c).
        hidden = product(x[1:].flatten(0, 1), W_x, bias).view(steps, videos, 3 * c)
        states, recalled = (x.new_empty(steps, videos, c) for _ in range(2))
        state = x[0].to(parameters[0].dtype)
        for t in range(steps):
            o = states[t].copy_(state)
            gates, candidate = hidden[t, :, : 2 * c], hidden[t, :, 2 * c :]
            read, update = gates.add_(product(o, G_o)).sigmoid_().chunk(2, dim=-1)
            candidate.add_(product(torch.mul(read, o, out=recalled[t]), V_o)).tanh_()
            state = torch.lerp(state, candidate.to(state.dtype), update.to(state.dtype))
        ctx.save_for_backward(x, hidden, states, recalled, *parameters[:3])
        return state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, states, recalled, *weights = ctx.saved_tensors
        W_x, G_o, V_o = (weight.to(x.dtype).t() for weight in weights)
        c = states.shape[2]
        d_hidden = torch.empty_like(hidden)  # of the inputs of the gates and the candidate
        for t in reversed(range(len(states))):
            o, (read, update, candidate) = states[t], hidden[t].chunk(3, dim=-1)
            d_read, d_update, d_candidate = d_hidden[t].chunk(3, dim=-1)
            g = grad.to(x.dtype)
            d_candidate.copy_(tanh_backward(g * update, candidate))
            d_update.copy_(sigmoid_backward(g * (candidate - o), update))
            d_recalled = product(d_candidate, V_o)
            d_read.copy_(sigmoid_backward(d_recalled * o, read))
            through = d_recalled.mul_(read).add_(product(d_hidden[t, :, : 2 * c], G_o))
            grad = torch.addcmul(through.to(grad.dtype), grad, (1 - update).to(grad.dtype))
        d = d_hidden.flatten(0, 1)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = torch.cat([grad.to(x.dtype), product(d, W_x)]).view_as(x)
        d_weights = (
            product(part.t(), before.flatten(0, 1).t()).to(grad.dtype)
            for part, before in ((d, x[1:]), (d[:, : 2 * c], states), (d[:, 2 * c :], recalled))
        )
        return d_x, *d_weights, d.sum(0, dtype=grad.dtype)


def reference(module: GRU, x: Tensor) -> Tensor:
    """Compute Eq. 2 and 3, line by line: x (B, N, l, h, w, c), logits (B, K)."""
    G_rx, G_zx, V_x = module.input_weight.chunk(3)
    G_ro, G_zo = module.gate_weight.chunk(2)
    V_o = module.candidate_weight
    b_r, b_z, b_o = module.bias.chunk(3)
    o = x[:, 0].mean((1, 2, 3))
    for t in range(1, x.shape[1]):
        x_t = x[:, t].mean((1, 2, 3))
        r = torch.sigmoid(x_t @ G_rx.T + o @ G_ro.T + b_r)
        z = torch.sigmoid(x_t @ G_zx.T + o @ G_zo.T + b_z)
        o_bar = torch.tanh(x_t @ V_x.T + (r * o) @ V_o.T + b_o)
        o = (1 - z) * o + z * o_bar
    return F.linear(o, module.fc.weight, module.fc.bias)
