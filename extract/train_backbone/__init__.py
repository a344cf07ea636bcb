"""Backbone training, the paper's first stage.

from faster.extract.train_backbone import TrainBackboneConfig, train_backbone

result = train_backbone(TrainBackboneConfig(model="r2d26", source="videos", size=112))

Each public name is imported at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...runtime.lazy import lazy_names

if TYPE_CHECKING:
    from .config import TrainBackboneConfig, TrainBackboneResult
    from .train import train_backbone

__all__ = [
    "TrainBackboneConfig",
    "TrainBackboneResult",
    "train_backbone",
]

_MODULES = {
    "TrainBackboneConfig": ".config",
    "TrainBackboneResult": ".config",
    "train_backbone": ".train",
}

if not TYPE_CHECKING:  # a type checker sees the imports above, and so knows the names
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)
