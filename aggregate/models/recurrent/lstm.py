"""LSTM on globally pooled vectors (FASTER §3.3)."""

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


class LSTM(Aggregator[tuple[Tensor, Tensor]]):
    """Three gates and a cell [13] over the pooled maps; o_0 and the first cell are the pooled x_0.

    The state is (o_t, cell), each (B, c). One bias per gate, one for the candidate. There are no peepholes
    (diagonal weights from cell to gates), which [13] also draws, as in common implementations.
    """

    name = "lstm"
    reads_pooled = True

    def __init__(self, *, map_shapes: Mapping[str, MapShape], num_classes: int, dropout: float) -> None:
        super().__init__(map_shapes=map_shapes, num_classes=num_classes, dropout=dropout)
        c = self.channels
        self.input_weight = nn.Parameter(torch.empty(4 * c, c))  # rows: input, forget, output, candidate
        self.state_weight = nn.Parameter(torch.empty(4 * c, c))
        self.bias = nn.Parameter(torch.zeros(4 * c))
        uniform_(self.input_weight, c)
        uniform_(self.state_weight, c)

    def init(self, x0: Tensor, model0: str) -> tuple[Tensor, Tensor]:
        """Return o_0 and the first cell: the pooled x_0."""
        pooled = pool(x0, self.dtype)
        return pooled, pooled

    def step(self, state: tuple[Tensor, Tensor], x: Tensor, model: str) -> tuple[Tensor, Tensor]:
        """One step of [13], Eq. 7 to 11."""
        return self._recur(state, F.linear(pool(x, self.dtype), self.input_weight, self.bias))

    def readout(self, state: tuple[Tensor, Tensor]) -> Tensor:
        """Apply the last layer to o_t."""
        return self.classify(state[0])

    def forward(self, batch: ClipBatch) -> Tensor:
        """Compute all input projections in one product, then the recurrence, with a hand-written gradient."""
        x = batch.map(lambda model, maps: pool(maps, self.dtype)).dense(self.dtype).movedim(1, 0)
        x = x.to(product_dtype(self.fc.weight))
        weights = self.input_weight, self.state_weight, self.bias
        output: Tensor = _Recurrence.apply(x, *weights)  # type: ignore[no-untyped-call]
        return self.classify(output)

    def _recur(self, state: tuple[Tensor, Tensor], projected: Tensor) -> tuple[Tensor, Tensor]:
        output, cell = state
        total = projected + F.linear(output, self.state_weight)
        i, f, o, candidate = total.chunk(4, dim=-1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(candidate)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def step_gflops(self, map_shape: MapShape) -> float:
        """Eight c×c products."""
        return 8 * map_shape[3] ** 2 / 1e9


class _Recurrence(torch.autograd.Function):
    """o_{N−1} (B, c), in the parameters' type, from the pooled maps x (N, B, c); products are in x's type.

    Saves 5·c values per video and step, and the cells in the parameters' type. The gradient of a weight is
    one product for all steps, after the backward loop.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        W_x, W_o, bias = (p.to(x.dtype) for p in parameters)
        steps, videos, c = len(x) - 1, x.shape[1], x.shape[2]
        # Modified in place, step by step, to become the gates (3c) and the candidate (c).
        hidden = product(x[1:].flatten(0, 1), W_x, bias).view(steps, videos, 4 * c)
        outputs = x.new_empty(steps, videos, c)
        output = cell = x[0].to(parameters[0].dtype)
        cells = [cell]
        for t in range(steps):
            hidden[t].add_(product(outputs[t].copy_(output), W_o))
            i, f, o = hidden[t, :, : 3 * c].sigmoid_().chunk(3, dim=-1)
            cell = f * cell + i * hidden[t, :, 3 * c :].tanh_()
            cells.append(cell)
            output = o * torch.tanh(cell)
        ctx.save_for_backward(x, hidden, outputs, torch.stack(cells), *parameters[:2])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, outputs, cells, *weights = ctx.saved_tensors
        W_x, W_o = (weight.to(x.dtype).t() for weight in weights)
        d_hidden = torch.empty_like(hidden)  # of the inputs of the gates and the candidate
        d_cell = torch.zeros_like(d_output)
        for t in reversed(range(len(hidden))):
            i, f, o, candidate = hidden[t].to(cells.dtype).chunk(4, dim=-1)
            d_i, d_f, d_o, d_candidate = d_hidden[t].chunk(4, dim=-1)
            squashed = torch.tanh(cells[t + 1])
            d_cell = d_cell + tanh_backward(d_output * o, squashed)
            d_o.copy_(sigmoid_backward(d_output * squashed, o))
            d_i.copy_(sigmoid_backward(d_cell * candidate, i))
            d_f.copy_(sigmoid_backward(d_cell * cells[t], f))
            d_candidate.copy_(tanh_backward(d_cell * i, candidate))
            d_cell = d_cell * f
            d_output = product(d_hidden[t], W_o).to(d_cell.dtype)
        d = d_hidden.flatten(0, 1)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = torch.cat([(d_output + d_cell).to(x.dtype), product(d, W_x)]).view_as(x)
        d_weights = (product(d.t(), before.flatten(0, 1).t()).to(d_cell.dtype) for before in (x[1:], outputs))
        return d_x, *d_weights, d.sum(0, dtype=d_cell.dtype)


def reference(module: LSTM, x: Tensor) -> Tensor:
    """Compute [13], Eq. 7 to 11 without peepholes, line by line: x (B, N, l, h, w, c), logits (B, K)."""
    W_xi, W_xf, W_xo, W_xc = module.input_weight.chunk(4)
    W_hi, W_hf, W_ho, W_hc = module.state_weight.chunk(4)
    b_i, b_f, b_o, b_c = module.bias.chunk(4)
    h = c = x[:, 0].mean((1, 2, 3))
    for t in range(1, x.shape[1]):
        x_t = x[:, t].mean((1, 2, 3))
        i = torch.sigmoid(x_t @ W_xi.T + h @ W_hi.T + b_i)
        f = torch.sigmoid(x_t @ W_xf.T + h @ W_hf.T + b_f)
        o = torch.sigmoid(x_t @ W_xo.T + h @ W_ho.T + b_o)
        c = f * c + i * torch.tanh(x_t @ W_xc.T + h @ W_hc.T + b_c)
        h = o * torch.tanh(c)
    return F.linear(h, module.fc.weight, module.fc.bias)
