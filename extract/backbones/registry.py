"""Backbones by name: the values of `--model`.

@register("mynet")
def mynet(num_classes: int | None) -> nn.Module: ...

build("r2plus1d50")                     # a network of the paper
build("r2d14-w16", num_classes=6)       # narrower: stem width 16 instead of 64
build("torchvision:r3d_18")             # a network of another library
build("package.module:function")        # any importable function of the same form

Names and plans do not import torch; building does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ...errors import UsageError
from ...runtime.named_import import import_named
from ...terminal.suggest import did_you_mean
from .libraries import registry as libraries
from .networks.plans import PLANS, STEM_WIDTH, NetworkPlan

if TYPE_CHECKING:
    from torch import nn

    from .base import Backbone

_Builder = TypeVar("_Builder", bound=Callable[..., object])

_builders: dict[str, Callable[..., object]] = {}
_scalable: set[str] = set()


def register(name: str, *, scalable: bool = False) -> Callable[[_Builder], _Builder]:
    """Decorate `function(num_classes: int | None) -> nn.Module` so that `build(name)` calls it.

    A `scalable` function also takes `width: int`, and is also known as `<name>-w<width>`. Raises UsageError
    if the name is taken or has characters other than letters, digits, `_`, `.` and `-`.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or re.search(r"-w\d+$", name):
        raise UsageError(
            f"{name!r} cannot be a model's name: letters, digits, _ . - only, and no -w<width> at its end"
        )

    def decorate(function: _Builder) -> _Builder:
        if name in _builders:
            raise UsageError(f"model {name!r} is registered already; choose another name")
        _builders[name] = function
        if scalable:
            _scalable.add(name)
        return function

    return decorate


def build(name: str, num_classes: int | None = None) -> Backbone:
    """Return the backbone called `name`, freshly initialised, with a classifier for `num_classes`.

    With `num_classes` None it has no classifier. Raises UsageError for an unknown name (the message lists the
    known and the nearest names), for a library that is not installed, and for a user's function that does not
    return an `nn.Module` with `channels` and `features`.
    """
    base, width = _split(name)
    if (found := libraries.split_name(name)) is not None:
        return libraries.build(*found, num_classes)
    from .adapters import as_backbone

    if ":" in name:
        return as_backbone(import_named(name, role="model", kind="function")(num_classes), name)
    settings = {} if width is None else {"width": width}
    return as_backbone(_builders[base](num_classes, **settings), name)


def on_meta(name: str, num_classes: int | None = None) -> Backbone:
    """Return the backbone called `name` without memory for its weights: for shapes, costs and facts only."""
    _split(name)  # an unknown name fails before torch is imported
    import torch

    with torch.device("meta"):
        return build(name, num_classes)


def plan_of(name: str) -> NetworkPlan | None:
    """Return the plan of a network of the paper; None for any other network.

    Raises UsageError for a name without a colon that is not known.
    """
    base, width = _split(name)
    plan = PLANS.get(base)
    return plan if plan is None or width is None else replace(plan, width=width)


def require_known(name: str) -> None:
    """Raise UsageError if no backbone has this name, without making its weights.

    Any `package.module:function` passes.
    """
    _split(name)
    if libraries.split_name(name) is not None:
        on_meta(name)


def known_names() -> list[str]:
    """Return every registered name, sorted; most also exist as `<name>-w<width>`, see `is_scalable`."""
    return sorted(_builders)


def is_scalable(name: str) -> bool:
    """Whether `<name>-w<width>` exists too."""
    return name in _scalable


def _split(name: str) -> tuple[str, int | None]:
    """Return the registered name and the requested width; a name with a colon is not split."""
    if ":" in name or name in _builders:
        return name, None
    base, _, width = name.rpartition("-w")
    if base in _scalable and re.fullmatch(r"[1-9]\d{0,3}", width):
        if int(width) == STEM_WIDTH:
            raise UsageError(f"{name!r} is {base!r}: one name for one network, so use that")
        return base, int(width)
    raise UsageError(_unknown(name))


def _unknown(name: str) -> str:
    """Return the error line for a name that is not registered."""
    base, dash, width = name.rpartition("-w")
    stem = base if dash and width.isdigit() else name
    hint = "" if stem in _builders else did_you_mean(stem, _builders)
    return (
        f"unknown model {name!r}{hint or ';'} known: {', '.join(known_names())}; narrower ones as r2d26-w16; "
        f"others as {', '.join(library.example for library in libraries.LIBRARIES.values())}; your own as "
        "package.module:function"
    )


def _member(plan: NetworkPlan, num_classes: int | None, *, width: int = STEM_WIDTH) -> nn.Module:
    from .networks.resnet3d import resnet3d

    return resnet3d(plan.kind, plan.depth, num_classes, width=width)


for _name, _plan in PLANS.items():
    register(_name, scalable=True)(partial(_member, _plan))
