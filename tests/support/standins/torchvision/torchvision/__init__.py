"""A stand-in for torchvision: see `libraries.py`."""

from faster.tests.support.standins.torchvision.torchvision import models

__all__ = ["models"]
