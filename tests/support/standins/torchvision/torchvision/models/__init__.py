"""A stand-in for torchvision.models."""

from faster.tests.support.standins.torchvision.torchvision.models import video

__all__ = ["video"]
