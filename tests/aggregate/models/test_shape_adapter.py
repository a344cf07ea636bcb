"""Models whose maps differ in shape, mixed by every aggregator: pooled, projected, and otherwise the same."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from batches import MODELS, NUM_CLASSES, make_batch
from faster.aggregate.models.base import Aggregator
from faster.aggregate.models.registry import build, known_names
from faster.aggregate.models.shape_adapter import (
    ShapeAdapter,
    adapted_shape,
    average_to,
    projection_gflops,
    reference,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

SHAPES = {"dear": (2, 3, 3, 16), "cheap": (1, 4, 4, 8)}
MIXING = [name for name in known_names() if name not in ("average", "tsn")]  # those have a head a model


def make(name: str, shapes: dict[str, tuple[int, int, int, int]] = SHAPES) -> ShapeAdapter:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        aggregator = build(name, map_shapes=shapes, num_classes=NUM_CLASSES).double()
        for parameter in aggregator.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    assert isinstance(aggregator, ShapeAdapter)
    return aggregator


def by_steps(aggregator: Aggregator[Any], batch: Any) -> Tensor:
    state = aggregator.init(*batch.at(0))
    for t in range(1, batch.model_of.shape[1]):
        state = aggregator.step(state, *batch.at(t))
    return aggregator.readout(state)


@pytest.mark.parametrize("name", MIXING)
def test_it_is_the_aggregator_of_pooled_and_projected_maps(name: str) -> None:
    aggregator = make(name).eval()
    batch = make_batch(5, shapes=dict(SHAPES))
    clips = [batch.at(t) for t in range(5)]
    x = reference(aggregator, [map_ for map_, _ in clips], [model for _, model in clips])
    expected = sys.modules[type(aggregator.inner).__module__].reference(aggregator.inner, x)
    torch.testing.assert_close(aggregator(batch), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(by_steps(aggregator, batch), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MIXING)
def test_the_loss_reaches_every_parameter(name: str) -> None:
    aggregator = make(name).train()
    aggregator.loss(make_batch(4, shapes=dict(SHAPES))).backward()
    for parameter_name, parameter in aggregator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-9, parameter_name


@pytest.mark.parametrize("name", MIXING)
def test_its_cost_is_what_torch_counts(name: str) -> None:
    aggregator = make(name).eval()
    batch = make_batch(4, shapes=dict(SHAPES), videos=1)
    with FlopCounterMode(display=False) as counter:
        by_steps(aggregator, batch)
    last_layer = aggregator.inner.fc.weight.numel()
    models = [MODELS[index] for index in batch.model_of[0]]
    counted = aggregator.video_gflops(SHAPES, models) * 1e9
    assert counted == pytest.approx(counter.get_total_flops() / 2 - last_layer, rel=1e-12)


def test_pooled_ones_see_the_global_average_whatever_the_sizes() -> None:
    """So that vectors that were pooled before, as a sweep keeps them, give the same."""
    for name in ("gru", "lstm", "temporal-conv"):
        aggregator = make(name).eval()
        batch = make_batch(3, shapes=dict(SHAPES))
        pooled = batch.map(lambda _, maps: maps.mean((1, 2, 3), keepdim=True))
        assert torch.equal(aggregator(batch), aggregator(pooled))


def test_the_common_shape_and_who_is_projected() -> None:
    assert adapted_shape(SHAPES) == (1, 3, 3, 16) and adapted_shape(SHAPES, pooled=True) == (1, 1, 1, 16)
    assert projection_gflops(SHAPES["dear"], (1, 3, 3, 16)) == 0
    assert list(make("fast-gru").projections) == ["projection0"]
    sizes_only = make("fast-gru", {"dear": (1, 4, 4, 8), "cheap": (1, 2, 2, 8)})
    assert not sizes_only.projections and sizes_only.target == (1, 2, 2, 8)
    assert not isinstance(
        build("fast-gru", map_shapes=dict.fromkeys(MODELS, (1, 2, 2, 8)), num_classes=2), ShapeAdapter
    )


def test_averaging_keeps_what_has_the_size() -> None:
    maps = torch.randn(2, 1, 4, 4, 3)
    assert average_to(maps, (1, 4, 4)) is maps
    torch.testing.assert_close(average_to(maps, (1, 2, 2))[:, 0, 0, 0], maps[:, 0, :2, :2].mean((1, 2)))


def test_a_projection_begins_at_the_size_of_its_input() -> None:
    torch.manual_seed(0)
    aggregator = build(
        "fast-gru", map_shapes={"dear": (1, 1, 1, 512), "cheap": (1, 1, 1, 256)}, num_classes=2
    )
    assert isinstance(aggregator, ShapeAdapter)
    maps = torch.randn(64, 1, 1, 1, 256).relu()
    out = aggregator.adapt("cheap", maps).detach()
    assert float((out**2).mean() / (maps**2).mean()) == pytest.approx(1, abs=0.1)
