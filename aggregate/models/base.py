"""The aggregator interface: start at the first clip, take one clip at a time, answer after any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ...runtime.flop_counter import MapShape
from .batch import ClipBatch

StateT = TypeVar("StateT")


class Aggregator(nn.Module, ABC, Generic[StateT]):
    """The base class of aggregators: o_t = f(o_{t−1}, x_t), o_0 = x_0 (FASTER §3.1).

    The pooled o_{N−1} goes through a fully connected layer. `forward` over a batch gives the same as `init`,
    then `step` for each further clip, then `readout`. A clip x is (B, l, h, w, c) if `reads` is "maps" and
    (B, K) if it is "logits". Costs are multiply-adds as the paper counts them: the steps, but not the pooling
    or the last layer.
    """

    name: ClassVar[str]
    recurrent: ClassVar[bool] = True  # o_0 = x_0
    any_shape: ClassVar[bool] = False  # whether it takes maps of different shapes directly
    reads_pooled: ClassVar[bool] = False  # whether it uses only the global average of a map
    scores_clips: ClassVar[bool] = False  # whether its heads score each clip
    reads: str = "maps"

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        cls.reads_pooled = vars(cls).get(
            "reads_pooled", False
        )  # not inherited: a subclass may look at positions

    def __init__(self, *, map_shapes: Mapping[str, MapShape], num_classes: int, dropout: float) -> None:
        super().__init__()
        self.channels = common_shape(map_shapes)[3]
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.channels, num_classes)

    @abstractmethod
    def init(self, x0: Tensor, model0: str) -> StateT:
        """Return the state after the first clip, which came from `model0`."""

    @abstractmethod
    def step(self, state: StateT, x: Tensor, model: str) -> StateT:
        """Return the state after one more clip, which came from `model`."""

    @abstractmethod
    def readout(self, state: StateT) -> Tensor:
        """Return the video's logits (B, K) after the clips so far."""

    @abstractmethod
    def forward(self, batch: ClipBatch) -> Tensor:
        """Return the videos' logits (B, K) after all their clips."""

    @abstractmethod
    def step_gflops(self, map_shape: MapShape) -> float:
        """Return the GFLOPs of one step of one video."""

    def gflops(self, clips: int, map_shape: MapShape) -> float:
        """Return the GFLOPs of one video: N − 1 steps, because the first clip is the first state."""
        return (clips - 1) * self.step_gflops(map_shape)

    def video_gflops(self, map_shapes: Mapping[str, MapShape], models: Sequence[str]) -> float:
        """Return the GFLOPs of one video whose clip at each time comes from the given model."""
        return self.gflops(len(models), common_shape({model: map_shapes[model] for model in models}))

    def loss(self, batch: ClipBatch) -> Tensor:
        """Return the batch's mean softmax loss."""
        return self.losses(batch).mean()

    def losses(self, batch: ClipBatch, *, label_smoothing: float = 0.0) -> Tensor:
        """Return each video's softmax loss (B,). Labels are smoothed to 1 − s, and all classes share s."""
        return F.cross_entropy(self(batch), batch.labels, reduction="none", label_smoothing=label_smoothing)

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of its computations."""
        return self.fc.weight.dtype

    def classify(self, pooled: Tensor) -> Tensor:
        """Return the logits (B, K) of pooled vectors (B, c)."""
        logits: Tensor = self.fc(self.dropout(pooled))
        return logits


def common_shape(map_shapes: Mapping[str, MapShape]) -> MapShape:
    """Return the map shape of all models. Raises UsageError if they differ."""
    shapes = set(map_shapes.values())
    if len(shapes) != 1:
        listed = ", ".join(f"{model}: {'×'.join(map(str, shape))}" for model, shape in map_shapes.items())
        raise UsageError(
            f"the models' maps differ in shape ({listed}); this aggregator takes maps of one shape"
        )
    return shapes.pop()


def pool(maps: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the global average, (rows, l, h, w, c) to (rows, c), summed in `dtype`."""
    return maps.mean((1, 2, 3), dtype=dtype)


def uniform_(weight: Tensor, fan_in: int) -> None:
    """Fill a weight from U(−1/√fan_in, 1/√fan_in), the usual default for recurrent layers."""
    nn.init.uniform_(weight, -(fan_in**-0.5), fan_in**-0.5)
