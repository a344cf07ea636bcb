"""NetVLAD over all positions of all clips [2], as ActionVLAD pools a video [12]."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....runtime.flop_counter import MapShape
from ..base import Aggregator
from ..batch import ClipBatch

CLUSTERS = 16
SHARPNESS = 8  # α/√c


class NetVLAD(Aggregator[Tensor]):
    """V_k = Σ a_k(x) (x − c_k) over positions x, normalised, with a = softmax(w_k·x + b_k) (Eq. 3, 4 of [2]).

    The positions are first scaled to unit length. Then each V_k is normalised (intra-normalisation), then all
    V together; a linear layer reads the K·c values. The state is the sums V, (B, K, c).

    There are 16 clusters: at c = 2048 and 400 classes the linear layer then has 13 M weights, about as many
    as FAST-GRU; with the 64 of [2, 12] it would have 52 M.

    [2] starts at a data set's own clusters: c_k by k-means, w_k = 2α c_k, b_k = −α |c_k|², with α such that
    the largest assignment is on average 100 times the second. Without data, c_k are random directions without
    negative values, because post-ReLU maps have none, and α = 8√c: the ratio (its geometric mean) was 70 and
    93 on the maps of the demo's two backbones, and is 20 for random directions. The mean is subtracted from
    all w_k, and the common −α from all b_k: the softmax is the same, and half precision can hold the scores.
    """

    name = "netvlad"
    recurrent = False

    def __init__(self, *, map_shapes: Mapping[str, MapShape], num_classes: int, dropout: float) -> None:
        super().__init__(map_shapes=map_shapes, num_classes=num_classes, dropout=dropout)
        c = self.channels
        self.fc = nn.Linear(CLUSTERS * c, num_classes)
        alpha = SHARPNESS * c**0.5
        centres = F.normalize(torch.randn(CLUSTERS, c).abs(), dim=-1)
        self.centres = nn.Parameter(centres)
        self.assign_weight = nn.Parameter(2 * alpha * (centres - centres.mean(0)))
        self.assign_bias = nn.Parameter(torch.zeros(CLUSTERS))

    def init(self, x0: Tensor, model0: str) -> Tensor:
        """Return the first clip's sums."""
        return self._residuals(x0)

    def step(self, state: Tensor, x: Tensor, model: str) -> Tensor:
        """Add one clip's sums."""
        return state + self._residuals(x)

    def readout(self, state: Tensor) -> Tensor:
        """Apply the last layer to the sums, normalised per cluster and then together."""
        return self.classify(F.normalize(F.normalize(state, dim=-1).flatten(1), dim=-1))

    def forward(self, batch: ClipBatch) -> Tensor:
        """Compute the clips' sums, and their sum."""
        return self.readout(batch.map(lambda model, maps: self._residuals(maps)).dense(self.dtype).sum(1))

    def _residuals(self, maps: Tensor) -> Tensor:
        """Return Σ a_k(x) (x − c_k) over each clip's positions: (rows, l, h, w, c) to (rows, K, c)."""
        x = F.normalize(maps.to(self.dtype).flatten(1, 3), dim=-1)
        assigned = F.linear(x, self.assign_weight, self.assign_bias).softmax(-1)  # (rows, positions, K)
        return assigned.transpose(1, 2) @ x - assigned.sum(1)[..., None] * self.centres

    def step_gflops(self, map_shape: MapShape) -> float:
        """Two K×c products per position: the assignment, and the sum."""
        frames, height, width, c = map_shape
        return frames * height * width * 2 * CLUSTERS * c / 1e9

    def gflops(self, clips: int, map_shape: MapShape) -> float:
        """Every clip is assigned, also the first one."""
        return clips * self.step_gflops(map_shape)


def reference(module: NetVLAD, x: Tensor) -> Tensor:
    """Compute Eq. 3 and 4 of [2], cluster by cluster: x (B, N, l, h, w, c), logits (B, K)."""
    x = x.flatten(1, 4)  # (B, positions, c)
    x = x / x.norm(dim=-1, keepdim=True)
    scores = [x @ w + b for w, b in zip(module.assign_weight, module.assign_bias, strict=True)]
    total = torch.stack([score.exp() for score in scores]).sum(0)
    parts = []
    for score, centre in zip(scores, module.centres, strict=True):
        a = score.exp() / total  # (B, positions)
        v = (a[..., None] * (x - centre)).sum(1)
        parts.append(v / v.norm(dim=-1, keepdim=True))
    vlad = torch.cat(parts, dim=-1)
    vlad = vlad / vlad.norm(dim=-1, keepdim=True)
    return F.linear(vlad, module.fc.weight, module.fc.bias)
