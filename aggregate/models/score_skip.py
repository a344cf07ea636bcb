"""The backbones' averaged scores as a skip connection: an aggregator learns what to add to averaging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import DataError
from ...runtime.flop_counter import MapShape
from ...store import Store
from ...store.read.classifier import read_head
from ..data.mix import Mix
from .base import Aggregator
from .batch import ClipBatch
from .pooling.average import Average
from .shape_adapter import ShapeAdapter

SCORES = "scores."
"""Prefix of the names of the backbones' own classifiers."""

Heads = Mapping[str, tuple[Tensor, Tensor]]  # weight (K, c) and bias (K,) of each model's classifier


class ScoreSkip(Aggregator[tuple[Any, tuple[Tensor, int]]]):
    """log(mean of the clips' softmax scores) + the inner aggregator's logits, whose last layer starts at 0.

    So the untrained one answers as averaging does, and the trained one differs only by what training adds.
    The scores are those of the backbones' own classifiers on the pooled maps; `take` loads them, and they are
    not trained. Costs are those of both aggregators.
    """

    def __init__(
        self, *, map_shapes: Mapping[str, MapShape], num_classes: int, inner: Aggregator[Any]
    ) -> None:
        nn.Module.__init__(self)  # no last layer of its own
        self.inner = inner
        self.scores = Average(map_shapes=map_shapes, num_classes=num_classes, dropout=0.0).requires_grad_(
            False
        )
        last = (inner.inner if isinstance(inner, ShapeAdapter) else inner).fc
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def take(self, heads: Heads) -> None:
        """Copy each model's own classifier."""
        with torch.no_grad():
            for model, (weight, bias) in heads.items():
                self.scores.head(model).weight.copy_(weight)
                self.scores.head(model).bias.copy_(bias)

    def init(self, x0: Tensor, model0: str) -> tuple[Any, tuple[Tensor, int]]:
        """Return both states after the first clip."""
        return self.inner.init(x0, model0), self.scores.init(x0, model0)

    def step(
        self, state: tuple[Any, tuple[Tensor, int]], x: Tensor, model: str
    ) -> tuple[Any, tuple[Tensor, int]]:
        """Return both states after one more clip."""
        inner, scores = state
        return self.inner.step(inner, x, model), self.scores.step(scores, x, model)

    def readout(self, state: tuple[Any, tuple[Tensor, int]]) -> Tensor:
        """Return the sum of both answers."""
        inner, scores = state
        return self.scores.readout(scores) + self.inner.readout(inner)

    def forward(self, batch: ClipBatch) -> Tensor:
        """Return the sum of both answers."""
        logits: Tensor = self.scores(batch) + self.inner(batch)
        return logits

    def step_gflops(self, map_shape: MapShape) -> float:
        """Both steps."""
        return self.inner.step_gflops(map_shape) + self.scores.step_gflops(map_shape)

    def gflops(self, clips: int, map_shape: MapShape) -> float:
        """Both aggregators."""
        return self.inner.gflops(clips, map_shape) + self.scores.gflops(clips, map_shape)

    def video_gflops(self, map_shapes: Mapping[str, MapShape], models: Sequence[str]) -> float:
        """Both aggregators, each clip by its own head."""
        inner = self.inner.video_gflops(map_shapes, models)
        return inner + self.scores.video_gflops(map_shapes, models)

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of its computations."""
        return self.inner.dtype


def own_heads(store: Store, mix: Mix) -> Heads:
    """Return the classifier of each model in use, from the store.

    Raises:
        DataError: a model has none for the store's classes.
    """
    heads = {}
    for model, features in mix.features.items():
        if features.class_names != store.class_names:
            raise DataError(
                f"{model} has no classifier for the store's classes, and --skip-scores adds its scores; "
                "leave the option out, or extract with weights that were trained on these classes"
            )
        head = read_head(features)
        if head is None:
            raise DataError(
                f"the store keeps no linear classifier of {model} (its scores are not a linear layer on the "
                "map's mean, or it was imported), and --skip-scores adds its scores; leave the option out"
            )
        heads[model] = (torch.tensor(head[0]), torch.tensor(head[1]))
    return heads
