"""Max pooling over the last layer's maps, and a linear classifier [44]."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ....runtime.flop_counter import MapShape
from ..base import Aggregator
from ..batch import ClipBatch

SCALE = 0.25  # maxima of post-ReLU maps are about 3 to 8 times their means


class MaxPool(Aggregator[Tensor]):
    """Each channel's largest value over all positions of all clips. The state is the maximum so far, (B, c).

    This is the "conv pooling" of [44] with one difference: there the maximum is over time only and fully
    connected layers follow; here it is over space too, and one linear layer follows, as in the other
    aggregators. That layer reads a quarter of the maxima: the same classifiers, trained well at the others'
    learning rates.
    """

    name = "max-pool"
    recurrent = False

    def init(self, x0: Tensor, model0: str) -> Tensor:
        """Return the first clip's maxima."""
        return self._maxima(x0)

    def step(self, state: Tensor, x: Tensor, model: str) -> Tensor:
        """Return the larger of the maxima so far and this clip's."""
        return state.maximum(self._maxima(x))

    def readout(self, state: Tensor) -> Tensor:
        """Apply the last layer to the maxima."""
        return self.classify(SCALE * state)

    def forward(self, batch: ClipBatch) -> Tensor:
        """Compute the clips' maxima, and their maximum."""
        return self.readout(batch.map(lambda model, maps: self._maxima(maps)).dense(self.dtype).amax(1))

    def _maxima(self, maps: Tensor) -> Tensor:
        return maps.amax((1, 2, 3)).to(self.dtype)  # exact in the maps' own type

    def step_gflops(self, map_shape: MapShape) -> float:
        """0: a maximum has no multiply-adds."""
        return 0.0


def reference(module: MaxPool, x: Tensor) -> Tensor:
    """Compute the definition, the clips joined to one long map: x (B, N, l, h, w, c), logits (B, K)."""
    joined = x.flatten(1, 2).movedim(-1, 1)  # (B, c, N·l, h, w)
    pooled = F.adaptive_max_pool3d(joined, 1).flatten(1)
    return F.linear(SCALE * pooled, module.fc.weight, module.fc.bias)
