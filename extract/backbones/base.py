"""What every backbone is: clips in, res5 maps out, and class logits where it has a classifier."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from ...errors import UsageError

# Per-channel mean and deviation of Kinetics-400's RGB in [0, 1]: the values that torchvision's video networks use.
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


class Backbone(nn.Module):
    """A clip-level network (FASTER §3.4).

    A subclass sets `channels`, implements `features`, and overrides the other attributes where they differ.
    One with another kind of classifier than `fc` on the pooled map overrides `classify`.
    """

    channels: int
    """c of the maps."""
    frame_stride: int = 1
    """Every how many frames of the video it takes one; part of what the network is."""
    mean: tuple[float, float, float] = KINETICS_MEAN
    std: tuple[float, float, float] = KINETICS_STD
    num_classes: int | None = None
    """K of the logits; None where it has no classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.fc: nn.Module | None = None  # here, not on the class, where it would hide a subclass's module

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Map of each clip: (B, 3, L, H, W) float, normalised → (B, l, h, w, c)."""

    def classify(self, maps: Tensor) -> Tensor | None:
        """Logits of each map, by global average pooling and `fc`: (B, l, h, w, c) → (B, K); None without `fc`."""
        if self.fc is None:
            return None
        logits: Tensor = self.fc(maps.mean(dim=(1, 2, 3)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each clip: (B, 3, L, H, W) → (B, K). Raises UsageError where there is no classifier."""
        logits = self.classify(self.features(x))
        if logits is None:
            raise UsageError("this backbone has no classifier; build it with num_classes to get logits")
        return logits
