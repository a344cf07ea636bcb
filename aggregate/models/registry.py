"""Aggregators by name: those of the table in `names`, and the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ...errors import UsageError
from ...runtime.flop_counter import MapShape
from .base import Aggregator
from .names import AGGREGATORS, CLASSES, unknown
from .score_skip import ScoreSkip
from .shape_adapter import adapted

AggregatorT = TypeVar("AggregatorT", bound=type[Aggregator[Any]])

_registered: dict[str, type[Aggregator[Any]]] = {}  # the user's own


def register(name: str) -> Callable[[AggregatorT], AggregatorT]:
    """Class decorator: make an aggregator known as `name`. Raises ValueError where the name is taken."""

    def add(cls: AggregatorT) -> AggregatorT:
        if name in CLASSES or name in _registered:
            raise ValueError(f"aggregator {name!r} is already registered, by {class_of(name).__qualname__}")
        cls.name = name
        _registered[name] = cls
        return cls

    return add


def known_names() -> list[str]:
    """The names that `build` knows, sorted."""
    return sorted({*AGGREGATORS, *_registered})


def require_known(name: str) -> None:
    """Raise UsageError where no aggregator has this name; the message lists those that are."""
    if name not in CLASSES and name not in _registered:
        raise unknown(name, known_names())


def class_of(name: str) -> type[Aggregator[Any]]:
    """The class of the aggregator called `name`. Raises UsageError for an unknown name (it lists the known ones)."""
    require_known(name)
    if name in _registered:
        return _registered[name]
    module, cls = CLASSES[name]
    found: type[Aggregator[Any]] = getattr(importlib.import_module(f".{module}", __package__), cls)
    return found


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
    to average the models' own class logits, which only those can do that score each clip. Where maps differ in shape
    and the aggregator needs one, it is `ShapeAdapter`: each model's maps are pooled and projected first. With `skip_scores`
    it is the inner one of a `ScoreSkip`.

    Raises UsageError for an unknown name (it lists the known ones), or for `skip_scores` where clips are scored anyway.
    """
    cls = class_of(name)
    if skip_scores:
        if cls.scores_clips:
            raise UsageError(f"{name} adds up the clips' scores itself; --skip-scores is for the others")
        inner = build(name, map_shapes=map_shapes, num_classes=num_classes, dropout=dropout)
        return ScoreSkip(map_shapes=map_shapes, num_classes=num_classes, inner=inner)
    extra = {} if reads == "maps" else {"reads": reads}

    def of(shapes: Mapping[str, MapShape]) -> Aggregator[Any]:
        return cls(map_shapes=shapes, num_classes=num_classes, dropout=dropout, **extra)

    if len(set(map_shapes.values())) == 1 or cls.any_shape:
        return of(map_shapes)
    return adapted(map_shapes, of, pooled=cls.reads_pooled)
