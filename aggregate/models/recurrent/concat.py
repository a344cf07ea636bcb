"""Concat: previous and current map, projected together (FASTER §3.3, Eq. 5)."""

# ruff: noqa: N806 (the paper's letters)
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....runtime.flop_counter import MapShape
from ..base import Aggregator, uniform_
from ..batch import ClipBatch

MAX_STEPS = 32  # steps with their own running statistics; the paper's longest video has 31
MOMENTUM = 0.1  # of the running statistics


class Concat(Aggregator[tuple[Tensor, int]]):
    """o_t = ReLU(BN(W o_{t−1} + U x_t)) on complete maps; o_0 = x_0.

    The state is o_t (B, positions, c) and the number of steps done. The statistics of o drift from step to
    step, so batch norm keeps running statistics for each step; the scale and shift are shared. In evaluation,
    a step beyond the trained ones uses the statistics of the last trained step.
    """

    name = "concat"
    running_mean: Tensor
    running_var: Tensor
    trained_steps: Tensor

    def __init__(self, *, map_shapes: Mapping[str, MapShape], num_classes: int, dropout: float) -> None:
        super().__init__(map_shapes=map_shapes, num_classes=num_classes, dropout=dropout)
        c = self.channels
        self.input_weight = nn.Parameter(torch.empty(c, c))  # U
        self.state_weight = nn.Parameter(torch.empty(c, c))  # W
        self.norm_weight = nn.Parameter(torch.ones(c))
        self.norm_bias = nn.Parameter(torch.zeros(c))
        self.register_buffer("running_mean", torch.zeros(MAX_STEPS, c))
        self.register_buffer("running_var", torch.ones(MAX_STEPS, c))
        self.register_buffer("trained_steps", torch.zeros((), dtype=torch.int64))
        uniform_(self.input_weight, 2 * c)
        uniform_(self.state_weight, 2 * c)

    def init(self, x0: Tensor, model0: str) -> tuple[Tensor, int]:
        """Return o_0 = x_0 and no step done."""
        return x0.to(self.dtype).flatten(1, 3), 0

    def step(self, state: tuple[Tensor, int], x: Tensor, model: str) -> tuple[Tensor, int]:
        """Eq. 5."""
        return self._recur(state, F.linear(x.to(self.dtype).flatten(1, 3), self.input_weight))

    def readout(self, state: tuple[Tensor, int]) -> Tensor:
        """Apply the last layer to the pooled o_t."""
        return self.classify(state[0].mean(1))

    def forward(self, batch: ClipBatch) -> Tensor:
        """Compute all input projections in one product, then the recurrence."""
        x = batch.dense(self.dtype).flatten(2, 4)  # (B, N, positions, c)
        state = x[:, 0], 0
        for projected in F.linear(x[:, 1:], self.input_weight).unbind(1):
            state = self._recur(state, projected)
        return self.readout(state)

    def _recur(self, state: tuple[Tensor, int], projected: Tensor) -> tuple[Tensor, int]:
        previous, steps = state
        total = projected + F.linear(previous, self.state_weight)
        return torch.relu(self._norm(total.flatten(0, 1), steps).view_as(total)), steps + 1

    def _norm(self, rows: Tensor, steps: int) -> Tensor:
        if self.training:
            slot = min(steps, MAX_STEPS - 1)
            self.trained_steps.clamp_(min=slot + 1)
        else:
            slot = min(steps, max(int(self.trained_steps) - 1, 0))
        # Update a copy: the row of a buffer is a view, and a second step must not find it changed.
        mean, var = self.running_mean[slot].clone(), self.running_var[slot].clone()
        out = F.batch_norm(rows, mean, var, self.norm_weight, self.norm_bias, self.training, MOMENTUM)
        if self.training:
            with torch.no_grad():
                self.running_mean[slot], self.running_var[slot] = mean, var
        return out

    def step_gflops(self, map_shape: MapShape) -> float:
        """Two c×c products per position."""
        frames, height, width, c = map_shape
        return frames * height * width * 2 * c * c / 1e9


def reference(module: Concat, x: Tensor) -> Tensor:
    """Compute Eq. 5, line by line, as 1×1×1 convolutions: x (B, N, l, h, w, c), logits (B, K)."""
    U = module.input_weight[:, :, None, None, None]
    W = module.state_weight[:, :, None, None, None]
    x = x.movedim(-1, 2)  # (B, N, c, l, h, w)
    o = x[:, 0]
    for t in range(1, x.shape[1]):
        total = F.conv3d(o, W) + F.conv3d(x[:, t], U)
        slot = min(t, max(int(module.trained_steps), 1)) - 1
        mean = None if module.training else module.running_mean[slot]
        var = None if module.training else module.running_var[slot]
        normed = F.batch_norm(total, mean, var, module.norm_weight, module.norm_bias, module.training)
        o = torch.relu(normed)
    pooled = F.adaptive_avg_pool3d(o, 1).flatten(1)
    return F.linear(pooled, module.fc.weight, module.fc.bias)
