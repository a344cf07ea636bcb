"""Attentive probe, the usual evaluation of frozen video backbones: one learned query sees all positions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....errors import UsageError
from ....runtime.flop_counter import MapShape
from ....terminal.text import counted
from ..base import Aggregator, uniform_
from ..batch import ClipBatch

HEADS = 8

State = tuple[Tensor, Tensor, Tensor]


class AttentiveProbe(Aggregator[State]):
    """Multi-head cross-attention of one learned query to all positions, layer norm, a linear classifier.

    The query sees positions, not pooled vectors, so it can choose where in a map to look. Each position is
    layer-normalised first, because the models' maps differ in scale.

    With one query, neither keys nor values need a product at each position. A head's score is q·(W_K x), and
    qᵀW_K is one learned vector. Its weights sum to 1, so W_V acts once, on the weighted mean. A position
    costs 2·H·c multiply-adds instead of 2c², which makes all positions affordable. A bias of the keys would
    cancel in the softmax.

    The state is the softmax so far, which does not grow with the clips: each head's largest score (B, H), and
    relative to it the sum of the weights (B, H) and of the weighted positions (B, H, c).
    """

    name = "attentive-probe"
    recurrent = False

    def __init__(self, *, map_shapes: Mapping[str, MapShape], num_classes: int, dropout: float) -> None:
        super().__init__(map_shapes=map_shapes, num_classes=num_classes, dropout=dropout)
        c = self.channels
        if c % HEADS:
            raise UsageError(
                f"the maps have {counted(c, 'channel')}; attentive-probe needs a multiple of {HEADS}"
            )
        self.query_weight = nn.Parameter(torch.empty(HEADS, c))  # rows: qᵀW_K of each head
        self.value_weight = nn.Parameter(torch.empty(c, c))  # rows: head by head
        self.value_bias = nn.Parameter(torch.zeros(c))
        self.norm = nn.LayerNorm(c)
        uniform_(self.query_weight, c)
        uniform_(self.value_weight, c)

    def init(self, x0: Tensor, model0: str) -> State:
        """Return the softmax over the first clip's positions."""
        return self._attend(x0.to(self.dtype).flatten(1, 3))

    def step(self, state: State, x: Tensor, model: str) -> State:
        """Return the softmax over the positions so far and this clip's."""
        largest, weights, weighted = state
        new_largest, new_weights, new_weighted = self._attend(x.to(self.dtype).flatten(1, 3))
        top = largest.maximum(new_largest)
        old, new = (largest - top).exp(), (new_largest - top).exp()
        return (
            top,
            old * weights + new * new_weights,
            old[..., None] * weighted + new[..., None] * new_weighted,
        )

    def readout(self, state: State) -> Tensor:
        """Return the last layer on the normalised values of the weighted means."""
        _, weights, weighted = state
        means = weighted / weights[..., None]  # (B, H, c)
        values = self.value_weight.view(HEADS, -1, self.channels)  # (H, c/H, c)
        attended = torch.einsum("bhc,hdc->bhd", means, values).flatten(1) + self.value_bias
        return self.classify(self.norm(attended))

    def forward(self, batch: ClipBatch) -> Tensor:
        """Compute one softmax over all clips' positions."""
        return self.readout(self._attend(batch.dense(self.dtype).flatten(1, 4)))

    def _attend(self, x: Tensor) -> State:
        """Return the softmax's three parts over positions (B, positions, c)."""
        # The norm's scale and shift would be absorbed by the query and the values.
        x = F.layer_norm(x, (self.channels,))
        scores = F.linear(x, self.query_weight)  # (B, positions, H)
        largest = scores.detach().amax(1)  # divided out again: no gradient
        weights = (scores - largest[:, None]).exp()
        return largest, weights.sum(1), weights.transpose(1, 2) @ x

    def step_gflops(self, map_shape: MapShape) -> float:
        """Two products of the heads with c per position: the scores, and the weighted sum."""
        frames, height, width, c = map_shape
        return frames * height * width * 2 * HEADS * c / 1e9

    def gflops(self, clips: int, map_shape: MapShape) -> float:
        """Every clip is attended to, also the first one; the values' c×c product comes once."""
        return clips * self.step_gflops(map_shape) + map_shape[3] ** 2 / 1e9


def reference(module: AttentiveProbe, x: Tensor) -> Tensor:
    """Compute the definition, head by head: x (B, N, l, h, w, c), logits (B, K)."""
    c = module.channels
    x = x.flatten(1, 4)  # (B, positions, c)
    x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, correction=0, keepdim=True) + 1e-5)
    heads = []
    for query, value in zip(module.query_weight, module.value_weight.chunk(HEADS), strict=True):
        weights = torch.softmax(x @ query, dim=1)  # (B, positions)
        heads.append((weights[..., None] * (x @ value.T)).sum(1))
    attended = torch.cat(heads, dim=-1) + module.value_bias
    normed = F.layer_norm(attended, (c,), module.norm.weight, module.norm.bias)
    return F.linear(normed, module.fc.weight, module.fc.bias)
