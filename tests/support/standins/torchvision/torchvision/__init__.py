"""A stand-in for torchvision: see `libraries.py`."""

from . import models

__all__ = ["models"]
