"""Convolutions over time, on globally pooled vectors [19]."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....runtime.flop_counter import MapShape
from .. import cpu_kernels
from ..base import Aggregator, pool
from ..batch import ClipBatch

LAYERS = 2
KERNEL = 3  # clips

State = tuple[Tensor, Tensor, Tensor]
Linear = Callable[[Tensor, Tensor, Tensor], Tensor]


class TemporalConv(Aggregator[State]):
    """Two layers of h_t = ReLU(Σ_j W_j h_{t−2+j} + b), j = 0, 1, 2, over pooled maps; their mean over time.

    The convolutions are causal: a layer sees the present clip and the two before it, zeros before the first,
    so the top layer sees five clips. An answer after t clips then needs no later one, and running clip by
    clip gives the same as the complete sequence. Fusing a few frames at a time, layer upon layer, is the slow
    fusion of [19], here on clips.

    The state has the last two inputs of each layer (B, 2, 2, c), the sum of the top layer's outputs (B, c),
    and their number.
    """

    name = "temporal-conv"
    reads_pooled = True
    recurrent = False

    def __init__(self, *, map_shapes: Mapping[str, MapShape], num_classes: int, dropout: float) -> None:
        super().__init__(map_shapes=map_shapes, num_classes=num_classes, dropout=dropout)
        c = self.channels
        self.weight = nn.Parameter(torch.empty(LAYERS, c, KERNEL * c))  # columns: the oldest clip's first
        self.bias = nn.Parameter(torch.zeros(LAYERS * c))  # 1-D, because biases have no weight decay
        bound = (6 / (KERNEL * c)) ** 0.5  # He's bound, which keeps the scale through a ReLU
        nn.init.uniform_(self.weight, -bound, bound)

    def init(self, x0: Tensor, model0: str) -> State:
        """Apply both layers to the first clip, with zeros before it."""
        return self._start(pool(x0, self.dtype)[:, None])

    def step(self, state: State, x: Tensor, model: str) -> State:
        """Apply both layers to one more clip and the kept ones."""
        return self._extend(state, pool(x, self.dtype)[:, None])

    def readout(self, state: State) -> Tensor:
        """Apply the last layer to the mean of the top layer's outputs."""
        _, total, count = state
        return self.classify(total / count)

    def forward(self, batch: ClipBatch) -> Tensor:
        """Apply each layer to all clips at once."""
        x = batch.map(lambda model, maps: pool(maps, self.dtype)).dense(self.dtype)
        return self.readout(self._start(x, cpu_kernels.linear))

    def _start(self, x: Tensor, linear: Linear = F.linear) -> State:
        videos, _, c = x.shape
        nothing = x.new_zeros(videos, LAYERS, KERNEL - 1, c), x.new_zeros(videos, c), x.new_zeros(())
        return self._extend(nothing, x, linear)

    def _extend(self, state: State, x: Tensor, linear: Linear = F.linear) -> State:
        """Return the state after further pooled clips (B, n, c)."""
        kept, total, count = state
        biases = self.bias.view(LAYERS, -1)
        clips = x.shape[1]
        recent = []
        for layer in range(LAYERS):
            inputs = torch.cat([kept[:, layer], x], dim=1)  # (B, KERNEL − 1 + n, c)
            recent.append(inputs[:, clips:])
            windows = torch.cat([inputs[:, j : j + clips] for j in range(KERNEL)], dim=-1)
            x = torch.relu(linear(windows, self.weight[layer], biases[layer]))
        return torch.stack(recent, dim=1), total + x.sum(1), count + clips

    def step_gflops(self, map_shape: MapShape) -> float:
        """Three c×c products per layer: six, as in a GRU."""
        return LAYERS * KERNEL * map_shape[3] ** 2 / 1e9

    def gflops(self, clips: int, map_shape: MapShape) -> float:
        """Every clip is convolved, also the first one."""
        return clips * self.step_gflops(map_shape)


def reference(module: TemporalConv, x: Tensor) -> Tensor:
    """Compute the definition with torch's own convolution: x (B, N, l, h, w, c), logits (B, K)."""
    h = x.mean((2, 3, 4)).movedim(1, 2)  # (B, c, N)
    for weight, bias in zip(module.weight, module.bias.chunk(LAYERS), strict=True):
        kernel = weight.view(-1, KERNEL, module.channels).movedim(1, 2)  # (out, in, time)
        h = torch.relu(F.conv1d(F.pad(h, (KERNEL - 1, 0)), kernel, bias))
    return F.linear(h.mean(-1), module.fc.weight, module.fc.bias)
