"""Clip-level backbones (FASTER §3.4): build one by name, or register your own."""

from .base import Backbone
from .libraries import LIBRARIES
from .registry import build, is_scalable, known_names, on_meta, register, require_known
from .resnet3d import ResNet3D

__all__ = [
    "LIBRARIES",
    "Backbone",
    "ResNet3D",
    "build",
    "is_scalable",
    "known_names",
    "on_meta",
    "register",
    "require_known",
]
