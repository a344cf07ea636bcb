"""FAST-GRU: a GRU on whole maps with bottleneck gates (FASTER §3.2, Eq. 3 and 4)."""

# ruff: noqa: N806 (the paper's letters)
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
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
        x = batch.dense(self.dtype).flatten(2, 4)  # (B, N, positions, c)
        state = x[:, 0]
        for projected in F.linear(x[:, 1:], self.input_weight).unbind(1):
            state = self._recur(state, projected)
        return self.readout(state)

    def _recur(self, state: Tensor, projected: Tensor) -> Tensor:
        n = self.narrow
        squeezed = torch.relu(projected[..., : 2 * n] + F.linear(state, self.squeeze_weight))
        read = torch.sigmoid(F.linear(squeezed[..., :n], self.read_weight, self.read_bias))
        update = torch.sigmoid(F.linear(squeezed[..., n:], self.update_weight, self.update_bias))
        recalled = F.linear(read * state, self.candidate_weight, self.candidate_bias)
        candidate = torch.tanh(projected[..., 2 * n :] + recalled)
        return torch.lerp(state, candidate, update)

    def step_gflops(self, map_shape: MapShape) -> float:
        """Six c×c/4 and two c×c products a position: 3.5 c²."""
        frames, height, width, c = map_shape
        return frames * height * width * (6 * c * (c // REDUCTION) + 2 * c * c) / 1e9


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
