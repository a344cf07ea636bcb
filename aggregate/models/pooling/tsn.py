"""TSN's segment consensus: the mean of the clips' class scores, before the softmax [40]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..batch import ClipBatch
from .average import Average


class TSN(Average):
    """Each clip is scored by its model's linear head on its pooled map; the video's logits are their mean.

    This is the average consensus of [40], with each clip as a segment. It differs from `average` in two ways:
    the mean comes before the softmax, and the heads are trained together, by the video's loss instead of each
    clip's. The state is the sum of the logits (B, K), and their number. Models may differ in shape.
    """

    name = "tsn"
    reads_pooled = True

    def init(self, x0: Tensor, model0: str) -> tuple[Tensor, int]:
        """Return the first clip's logits."""
        return self.clip_logits(model0, x0), 1

    def step(self, state: tuple[Tensor, int], x: Tensor, model: str) -> tuple[Tensor, int]:
        """Add one clip's logits."""
        total, count = state
        return total + self.clip_logits(model, x), count + 1

    def readout(self, state: tuple[Tensor, int]) -> Tensor:
        """Return the mean of the logits."""
        total, count = state
        return total / count

    def forward(self, batch: ClipBatch) -> Tensor:
        """Return the mean of all clips' logits."""
        return batch.map(self.clip_logits).dense(self.dtype).mean(1)

    def losses(self, batch: ClipBatch, *, label_smoothing: float = 0.0) -> Tensor:
        """Return each video's softmax loss (B,)."""
        return F.cross_entropy(self(batch), batch.labels, reduction="none", label_smoothing=label_smoothing)


def reference(module: TSN, x: Tensor, models: list[str]) -> Tensor:
    """Compute the definition, clip by clip: x (B, N, …), `models` the model of each time; logits (B, K)."""
    scores = []
    for t, model in enumerate(models):
        clip = x[:, t]
        if module.reads == "maps":
            head = module.head(model)
            vector = F.adaptive_avg_pool3d(clip.movedim(-1, 1), 1).flatten(1)
            clip = F.linear(vector, head.weight, head.bias)
        scores.append(clip)
    return torch.stack(scores).mean(0)
