"""Aggregators by name. A new one is a decorated class; the conformance suite then tests it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ...errors import UsageError
from ...runtime.flop_counter import MapShape
from ..data.pooled import POOLED_AGGREGATORS
from .base import Aggregator
from .names import AGGREGATORS, MODULES, unknown
from .shape_adapter import adapted

AggregatorT = TypeVar("AggregatorT", bound=type[Aggregator[Any]])

SCORERS = ("average", "tsn")
"""Aggregators whose heads score each clip."""

_REGISTRY: dict[str, type[Aggregator[Any]]] = {}


def register(name: str) -> Callable[[AggregatorT], AggregatorT]:
    """Class decorator: make an aggregator known as `name`. Raises ValueError where the name is taken."""

    def add(cls: AggregatorT) -> AggregatorT:
        if name in _REGISTRY:
            raise ValueError(f"aggregator {name!r} is already registered, by {_REGISTRY[name].__qualname__}")
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return add


def known_names() -> list[str]:
    """The names that `build` knows, sorted."""
    for name in AGGREGATORS:  # each registers itself
        importlib.import_module(f".{MODULES[name]}", __package__)
    return sorted(_REGISTRY)


def require_known(name: str) -> None:
    """Raise UsageError where no aggregator has this name; the message lists those that are."""
    if name not in known_names():
        raise unknown(name, list(_REGISTRY))


def build(
    name: str,
    *,
    map_shapes: Mapping[str, MapShape],
    num_classes: int,
    dropout: float = 0.0,
    reads: str = "maps",
    skip_scores: bool = False,
) -> Aggregator[Any]:
    """An aggregator with fresh weights, drawn from torch's global random state.

    `map_shapes` gives each model's (l, h, w, c). `dropout` acts before the last layer. `reads` is "logits"
    to average the models' own class logits, which only "average" and "tsn" can do. Where maps differ in shape
    and the aggregator needs one, it is `Adapted`: each model's maps are pooled and projected first. With `skip_scores`
    it is the inner one of a `ScoreSkip`.

    Raises UsageError for an unknown name (it lists the known ones), or for `skip_scores` where clips are scored anyway.
    """
    require_known(name)
    if skip_scores:
        if name in SCORERS:
            raise UsageError(f"{name} adds up the clips' scores itself; --skip-scores is for the others")
        from .score_skip import ScoreSkip  # which imports an aggregator, and those import this module

        inner = build(name, map_shapes=map_shapes, num_classes=num_classes, dropout=dropout)
        return ScoreSkip(map_shapes=map_shapes, num_classes=num_classes, inner=inner)
    extra = {} if reads == "maps" else {"reads": reads}

    def of(shapes: Mapping[str, MapShape]) -> Aggregator[Any]:
        return _REGISTRY[name](map_shapes=shapes, num_classes=num_classes, dropout=dropout, **extra)

    if len(set(map_shapes.values())) == 1 or _REGISTRY[name].any_shape:
        return of(map_shapes)
    return adapted(map_shapes, of, pooled=name in POOLED_AGGREGATORS)
