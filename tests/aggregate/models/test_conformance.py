"""What every aggregator owes; a new one is tested by being registered."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from batches import MAP_SHAPE, MODELS, NUM_CLASSES
from faster.aggregate.models.base import Aggregator
from faster.aggregate.models.conformance import (
    CHECKS,
    Make,
    assert_same,
    batch_for,
    check_aggregator,
    outcome,
    randomised,
)
from faster.aggregate.models.pooling.average import Average
from faster.aggregate.models.pooling.max_pool import MaxPool
from faster.aggregate.models.recurrent.gru import GRU
from faster.aggregate.models.registry import build, known_names
from torch import Tensor

CASES = [(name, "maps") for name in known_names()] + [("average", "logits"), ("tsn", "logits")]


def maker(name: str, reads: str) -> Make:
    shapes = dict.fromkeys(MODELS, MAP_SHAPE)
    return lambda seed: randomised(
        lambda: build(name, map_shapes=shapes, num_classes=NUM_CLASSES, reads=reads), seed
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("name", "reads"), CASES)
def test_every_aggregator_passes(name: str, reads: str, check: Any) -> None:
    check(maker(name, reads), MAP_SHAPE)


@pytest.mark.parametrize(("name", "reads"), CASES)
def test_what_reads_maps_has_something_to_train(name: str, reads: str) -> None:
    assert bool(list(maker(name, reads)(1).parameters())) == (reads == "maps")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("clips", [1, 2, 5])
@pytest.mark.parametrize(("name", "reads"), CASES)
def test_it_is_the_equations(name: str, reads: str, clips: int, training: bool) -> None:
    aggregator = maker(name, reads)(1).train(training)
    reference = sys.modules[type(aggregator).__module__].reference
    batch = batch_for(aggregator, clips)
    inputs = [tensor.requires_grad_() for tensor in batch.inputs.values()]
    whole = outcome(aggregator, aggregator(batch), inputs)
    x = batch.dense(torch.float64)
    models = [MODELS[index] for index in batch.model_of[0]]
    by_hand = (
        reference(aggregator, x, models) if isinstance(aggregator, Average) else reference(aggregator, x)
    )
    assert_same(whole, outcome(aggregator, by_hand, inputs), len(list(aggregator.parameters())) + 2)


class ForgetsTheFirst(MaxPool):
    def step(self, state: Tensor, x: Tensor, model: str) -> Tensor:
        return self._maxima(x)


class SeesTheLastAlone(MaxPool):
    def step(self, state: Tensor, x: Tensor, model: str) -> Tensor:
        return self._maxima(x)

    def forward(self, batch: Any) -> Tensor:
        return self.readout(self._maxima(batch.dense(self.dtype)[:, -1]))


class HasALayerThatNothingUses(MaxPool):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.unused = torch.nn.Linear(2, 2)


class MixesTheVideos(MaxPool):
    def readout(self, state: Tensor) -> Tensor:
        return super().readout(state - state.mean(0))


class SaysItIsFree(GRU):
    def step_gflops(self, map_shape: Any) -> float:
        return 0.0


class KeepsAllClips(MaxPool):
    def init(self, x0: Tensor, model0: str) -> Any:
        return self._maxima(x0)[:, None]

    def step(self, state: Any, x: Tensor, model: str) -> Any:
        return torch.cat([state, self._maxima(x)[:, None]], dim=1)

    def readout(self, state: Any) -> Tensor:
        return super().readout(state.amax(1) if state.ndim == 3 else state)


class DividesByTheMaps(MaxPool):
    def readout(self, state: Tensor) -> Tensor:
        return super().readout(state / state.abs().mean(1, keepdim=True))


class KeepsHalfPrecision(MaxPool):
    def _maxima(self, maps: Tensor) -> Tensor:
        return (maps * 0.37).amax((1, 2, 3)).to(self.dtype)


class HidesAWeight(MaxPool):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.hidden = torch.rand(())

    def readout(self, state: Tensor) -> Tensor:
        return super().readout(state * self.hidden)


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (ForgetsTheFirst, "steps give what the whole sequence gives"),
        (SeesTheLastAlone, "every clip matters to its video alone"),
        (HasALayerThatNothingUses, "the loss reaches every parameter"),
        (MixesTheVideos, "every clip matters to its video alone"),
        (SaysItIsFree, "its cost is what torch counts"),
        (KeepsAllClips, "its state does not grow with the clips"),
        (DividesByTheMaps, "the emptiest and the largest maps stay finite"),
        (KeepsHalfPrecision, "half precision maps are computed in its own type"),
        (HidesAWeight, "saved and loaded it is the same"),
    ],
)
def test_a_wrong_aggregator_is_told_what_it_breaks(wrong: type[Aggregator[Any]], check: str) -> None:
    with pytest.raises(AssertionError, match=f"^{wrong.__name__}: not so: {check}"):
        check_aggregator(wrong)
