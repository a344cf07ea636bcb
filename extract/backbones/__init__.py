"""Clip-level backbones (FASTER §3.4): build one by name, or register your own.

Names and costs need no torch.
"""

from typing import TYPE_CHECKING

from .libraries.registry import LIBRARIES
from .registry import build, is_scalable, known_names, on_meta, plan_of, register, require_known

if TYPE_CHECKING:
    from .base import Backbone
    from .networks.resnet3d import ResNet3D

__all__ = [
    "LIBRARIES",
    "Backbone",
    "ResNet3D",
    "build",
    "is_scalable",
    "known_names",
    "on_meta",
    "plan_of",
    "register",
    "require_known",
]


def __getattr__(name: str) -> object:
    """Import one of the two classes on demand, because their modules import torch."""
    if name == "Backbone":
        from .base import Backbone

        return Backbone
    if name == "ResNet3D":
        from .networks.resnet3d import ResNet3D

        return ResNet3D
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
