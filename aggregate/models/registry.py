"""Aggregators by name: those in `names`, registered ones, and `package.module:Class`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from ...errors import UsageError
from ...runtime.flop_counter import MapShape
from ...runtime.named_import import import_named
from .base import Aggregator
from .names import AGGREGATORS, CLASSES, unknown
from .score_skip import ScoreSkip
from .shape_adapter import adapted

AggregatorT = TypeVar("AggregatorT", bound=type[Aggregator[Any]])

_registered: dict[str, type[Aggregator[Any]]] = {}  # the user's own


def register(name: str) -> Callable[[AggregatorT], AggregatorT]:
    """Register a class as the aggregator `name` (decorator). Raises ValueError if the name is taken."""

    def add(cls: AggregatorT) -> AggregatorT:
        if name in CLASSES or name in _registered:
            raise ValueError(f"aggregator {name!r} is already registered, by {class_of(name).__qualname__}")
        cls.name = name
        _registered[name] = cls
        return cls

    return add


def known_names() -> list[str]:
    """Return the names that `build` knows, sorted."""
    return sorted({*AGGREGATORS, *_registered})


def require_known(name: str) -> None:
    """Raise UsageError if no aggregator has this name; the message lists the known ones, or the error."""
    class_of(name)


def class_of(name: str) -> type[Aggregator[Any]]:
    """Return the class of a known aggregator, or the one that `package.module:Class` names.

    Raises UsageError if there is none, or if it is not an aggregator that can be built.
    """
    if ":" in name:
        return _own_class(name)
    if name in _registered:
        return _registered[name]
    if name not in CLASSES:
        raise unknown(name, known_names())
    module, cls = CLASSES[name]
    built_in: type[Aggregator[Any]] = getattr(importlib.import_module(f".{module}", __package__), cls)
    return built_in


def _own_class(name: str) -> type[Aggregator[Any]]:
    found = import_named(name, role="aggregator", kind="class")
    what = f"aggregator {name!r}"
    if not (isinstance(found, type) and issubclass(found, Aggregator)):
        raise UsageError(f"{what} is not a subclass of faster.aggregate.Aggregator")
    if missing := sorted(found.__abstractmethods__):
        raise UsageError(f"{what} lacks {', '.join(missing)}, which every aggregator has")
    if found.reads != "maps":
        raise UsageError(f"{what} has reads = {found.reads!r}; an aggregator of your own reads 'maps'")
    try:
        inspect.signature(found).bind(map_shapes={}, num_classes=1, dropout=0.0)
    except TypeError as error:
        raise UsageError(
            f"{what} cannot be built: its __init__ must take map_shapes, "
            f"num_classes and dropout by name ({error})"
        ) from error
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
    """Return an aggregator with fresh weights, drawn from torch's global random state.

    `name` is a registered name or `package.module:Class`. `map_shapes` gives each model's (l, h, w, c).
    `dropout` acts before the last layer. `reads` is "logits" to average the models' own class logits; only
    aggregators that score each clip can do that. If maps differ in shape and the aggregator needs one shape,
    it is wrapped in a `ShapeAdapter`: each model's maps are pooled and projected first. With `skip_scores` it
    is the inner one of a `ScoreSkip`.

    Raises UsageError for an unknown name (it lists the known ones), and for `skip_scores` if the aggregator
    already scores clips.
    """
    cls = class_of(name)
    if skip_scores:
        if cls.scores_clips:
            raise UsageError(f"{name} adds up the clips' scores itself; --skip-scores is for the others")
        inner = build(name, map_shapes=map_shapes, num_classes=num_classes, dropout=dropout)
        if not isinstance(getattr(getattr(inner, "inner", inner), "fc", None), torch.nn.Linear):
            raise UsageError(
                f"{name} has no last layer `fc`, which --skip-scores starts at 0; leave the option out"
            )
        return ScoreSkip(map_shapes=map_shapes, num_classes=num_classes, inner=inner)
    extra = {} if reads == "maps" else {"reads": reads}

    def of(shapes: Mapping[str, MapShape]) -> Aggregator[Any]:
        return cls(map_shapes=shapes, num_classes=num_classes, dropout=dropout, **extra)

    if len(set(map_shapes.values())) == 1 or cls.any_shape:
        return of(map_shapes)
    return adapted(map_shapes, of, pooled=cls.reads_pooled)
