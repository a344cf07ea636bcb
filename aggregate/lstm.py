"""LSTM on globally pooled vectors (FASTER §3.3)."""

# ruff: noqa: N806 (the paper's letters)
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Aggregator, MapShape, pool, uniform_
from .batch import ClipBatch
from .registry import register


@register("lstm")
class LSTM(Aggregator[tuple[Tensor, Tensor]]):
    """Three gates and a cell [13] over the pooled maps; o_0 and the first cell are the pooled x_0.

    The state is (o_t, cell), each (B, c). One bias a gate, one for the candidate. Without the peepholes
    (diagonal weights from cell to gates) that [13] also draws, as in the field's common implementations.
    """

    def __init__(self, *, map_shapes: Mapping[str, MapShape], num_classes: int, dropout: float) -> None:
        super().__init__(map_shapes=map_shapes, num_classes=num_classes, dropout=dropout)
        c = self.channels
        self.input_weight = nn.Parameter(torch.empty(4 * c, c))  # rows: input, forget, output, candidate
        self.state_weight = nn.Parameter(torch.empty(4 * c, c))
        self.bias = nn.Parameter(torch.zeros(4 * c))
        uniform_(self.input_weight, c)
        uniform_(self.state_weight, c)

    def init(self, x0: Tensor, model0: str) -> tuple[Tensor, Tensor]:
        """o_0 and the first cell: the pooled x_0."""
        pooled = pool(x0, self.dtype)
        return pooled, pooled

    def step(self, state: tuple[Tensor, Tensor], x: Tensor, model: str) -> tuple[Tensor, Tensor]:
        """One step of [13], Eq. 7 to 11."""
        return self._recur(state, F.linear(pool(x, self.dtype), self.input_weight, self.bias))

    def readout(self, state: tuple[Tensor, Tensor]) -> Tensor:
        """The last layer on o_t."""
        return self.classify(state[0])

    def forward(self, batch: ClipBatch) -> Tensor:
        """All input projections in one product, then the recurrence."""
        x = batch.map(lambda model, maps: pool(maps, self.dtype)).dense(self.dtype)
        state = x[:, 0], x[:, 0]
        for projected in F.linear(x[:, 1:], self.input_weight, self.bias).unbind(1):
            state = self._recur(state, projected)
        return self.classify(state[0])

    def _recur(self, state: tuple[Tensor, Tensor], projected: Tensor) -> tuple[Tensor, Tensor]:
        output, cell = state
        total = projected + F.linear(output, self.state_weight)
        i, f, o, candidate = total.chunk(4, dim=-1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(candidate)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def step_gflops(self, map_shape: MapShape) -> float:
        """Eight c×c products."""
        return 8 * map_shape[3] ** 2 / 1e9


def plain(module: LSTM, x: Tensor) -> Tensor:
    """[13], Eq. 7 to 11 without peepholes, line by line: x (B, N, l, h, w, c), logits (B, K)."""
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
