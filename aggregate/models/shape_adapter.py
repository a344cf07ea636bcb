"""Mix models whose maps differ in shape: each model's maps are pooled, and projected by their own layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...runtime.flop_counter import MapShape
from .base import Aggregator
from .batch import ClipBatch
from .shapes import adapted_shape, projection_gflops


class ShapeAdapter(Aggregator[Any]):
    """Wraps an aggregator (`inner`) of maps of one shape, for models whose maps differ in shape.

    Each model's maps are averaged to the common l, h and w. If the number of channels differs from the common
    one, a learned 1×1×1 convolution follows; its initial outputs have the inputs' mean square. Averaging
    comes first: the two commute, and it leaves fewer positions. Costs are for the common shape;
    `video_gflops` includes the projections.
    """

    def __init__(
        self, *, map_shapes: Mapping[str, MapShape], target: MapShape, inner: Aggregator[Any]
    ) -> None:
        nn.Module.__init__(self)  # no last layer of its own
        self.inner = inner
        self.map_shapes, self.target = dict(map_shapes), target
        self._keys = {
            model: f"projection{index}"
            for index, model in enumerate(sorted(map_shapes))
            if map_shapes[model][3] != target[3]
        }
        self.projections = nn.ModuleDict(
            {key: nn.Linear(map_shapes[model][3], target[3], bias=False) for model, key in self._keys.items()}
        )
        for model, key in self._keys.items():
            bound = (3 / map_shapes[model][3]) ** 0.5
            nn.init.uniform_(self.projections[key].weight, -bound, bound)  # type: ignore[arg-type]

    def adapt(self, model: str, maps: Tensor) -> Tensor:
        """Adapt a model's maps (rows, l, h, w, c) to the common shape.

        The result has the parameters' type, or autocast's.
        """
        pooled = average_to(maps.to(self.dtype), self.target[:3])
        if (key := self._keys.get(model)) is not None:
            pooled = self.projections[key](pooled)
        return pooled

    def describe(self) -> str:
        """Return one line: which maps are averaged and projected."""
        size = "×".join(map(str, self.target[:3]))
        done = ", ".join(
            f"{model} {'×'.join(map(str, shape))}" + (" (projected)" if model in self._keys else "")
            for model, shape in self.map_shapes.items()
        )
        return (
            f"the models' maps differ in shape: all are averaged to {size}, "
            f"and projected to {self.target[3]} channels: {done}"
        )

    def init(self, x0: Tensor, model0: str) -> Any:
        """Return the inner state of the adapted map."""
        return self.inner.init(self.adapt(model0, x0), model0)

    def step(self, state: Any, x: Tensor, model: str) -> Any:
        """Return the inner state after the adapted map."""
        return self.inner.step(state, self.adapt(model, x), model)

    def readout(self, state: Any) -> Tensor:
        """Return the inner logits."""
        return self.inner.readout(state)

    def forward(self, batch: ClipBatch) -> Tensor:
        """Return the inner logits of the adapted maps."""
        logits: Tensor = self.inner(batch.map(self.adapt))
        return logits

    def step_gflops(self, map_shape: MapShape) -> float:
        """Return the inner GFLOPs of one step, for a map in the common shape."""
        return self.inner.step_gflops(map_shape)

    def gflops(self, clips: int, map_shape: MapShape) -> float:
        """Return the inner GFLOPs, for maps in the common shape."""
        return self.inner.gflops(clips, map_shape)

    def video_gflops(self, map_shapes: Mapping[str, MapShape], models: Sequence[str]) -> float:
        """Return the inner GFLOPs and those of the clips' projections."""
        projections = sum(projection_gflops(map_shapes[model], self.target) for model in models)
        return self.inner.gflops(len(models), self.target) + projections

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of its computations."""
        return self.inner.dtype

    def classify(self, pooled: Tensor) -> Tensor:
        """Return the inner logits."""
        return self.inner.classify(pooled)


def adapted(
    map_shapes: Mapping[str, MapShape],
    build: Callable[[Mapping[str, MapShape]], Aggregator[Any]],
    *,
    pooled: bool,
) -> ShapeAdapter:
    """Return what `build` makes for the common shape, adapted to maps of these shapes."""
    target = adapted_shape(map_shapes, pooled=pooled)
    return ShapeAdapter(map_shapes=map_shapes, target=target, inner=build(dict.fromkeys(map_shapes, target)))


def average_to(maps: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Average maps (rows, l, h, w, c) to (rows, *size, c), each place over its share of the positions."""
    if maps.shape[1:4] == size:
        return maps
    if size == (1, 1, 1):
        return maps.mean((1, 2, 3), keepdim=True)
    return F.adaptive_avg_pool3d(maps.movedim(-1, 1), size).movedim(1, -1)


def reference(module: ShapeAdapter, clips: Sequence[Tensor], models: Sequence[str]) -> Tensor:
    """Compute the definition, clip by clip, projected first.

    Takes clips (B, l, h, w, c), each from its model in `models`; returns the inner aggregator's input.
    """
    adapted_clips = []
    for x, model in zip(clips, models, strict=True):
        x = x.movedim(-1, 1)
        if model in module._keys:
            layer = module.projections[module._keys[model]]
            assert isinstance(layer, nn.Linear)
            x = F.conv3d(x, layer.weight[:, :, None, None, None])
        adapted_clips.append(F.adaptive_avg_pool3d(x, module.target[:3]).movedim(1, -1))
    return torch.stack(adapted_clips, dim=1)
