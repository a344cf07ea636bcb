"""Clip-level backbones (FASTER §3.4): build one by name, or register your own."""

from .base import Backbone
from .registry import build, is_scalable, known_names, register, require_known
from .resnet3d import ResNet3D

__all__ = ["Backbone", "ResNet3D", "build", "is_scalable", "known_names", "register", "require_known"]
