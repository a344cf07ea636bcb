"""A stand-in for torchvision.models."""

from . import video

__all__ = ["video"]
