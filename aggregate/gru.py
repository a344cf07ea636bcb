"""GRU on globally pooled vectors (FASTER §3.2, Eq. 2 and 3)."""

# ruff: noqa: N806 (the paper's letters)
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Aggregator, MapShape, pool, uniform_
from .batch import ClipBatch
from .registry import register


@register("gru")
class GRU(Aggregator[Tensor]):
    """Read and update gates over the pooled maps; o_0 is the pooled x_0. The state is o_t, (B, c).

    The read gate acts before V, as in Eq. 3; cuDNN's GRU has it after. Eq. 3 prints one V: they are two, as
    in FAST-GRU, whose published cost fits only two. One bias a gate, one for the candidate.
    """

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
        """o_0: the pooled x_0."""
        return pool(x0, self.dtype)

    def step(self, state: Tensor, x: Tensor, model: str) -> Tensor:
        """Eq. 2 and 3."""
        return self._recur(state, F.linear(pool(x, self.dtype), self.input_weight, self.bias))

    def readout(self, state: Tensor) -> Tensor:
        """The last layer on o_t."""
        return self.classify(state)

    def forward(self, batch: ClipBatch) -> Tensor:
        """All input projections in one product, then the recurrence."""
        x = batch.map(lambda model, maps: pool(maps, self.dtype)).dense(self.dtype)
        state = x[:, 0]
        for projected in F.linear(x[:, 1:], self.input_weight, self.bias).unbind(1):
            state = self._recur(state, projected)
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


def plain(module: GRU, x: Tensor) -> Tensor:
    """Eq. 2 and 3, line by line: x (B, N, l, h, w, c), logits (B, K)."""
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
