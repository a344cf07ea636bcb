"""What every backbone is: clips in, res5 maps out, and class logits where it has a classifier."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from ...errors import UsageError

# Per-channel mean and deviation of Kinetics-400's RGB in [0, 1]: the values that torchvision's video networks
# use.
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
    clip_frames: int | None = None
    """L that it was made for; None where any multiple of 8 will do."""
    size: int | None = None
    """Pixels of a frame's side that it was made for; None where any will do."""
    mean: tuple[float, float, float] = KINETICS_MEAN
    std: tuple[float, float, float] = KINETICS_STD
    num_classes: int | None = None
    """K of the logits; None where it has no classifier."""
    takes_bf16: bool = False
    """Whether `--precision auto` may compute it in bfloat16; so asked for, any network is."""
    classifier_key: str = "fc.weight"
    """Name of the classifier's weight in the state dict; its first dimension is K."""
    class_names: tuple[str, ...] | None = None
    """What the logits stand for, where the network itself tells."""

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

    def maps_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """`features`, and the logits of the same clips; for networks whose logits are not a function of the map."""
        maps = self.features(x)
        return maps, self.classify(maps)

    def require_takes(self, clip_frames: int, size: int) -> None:
        """Raise UsageError where it takes no clips of `clip_frames` frames of size×size pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each clip: (B, 3, L, H, W) → (B, K). Raises UsageError where there is no classifier."""
        _, logits = self.maps_and_logits(x)
        if logits is None:
            raise UsageError("this backbone has no classifier; build it with num_classes to get logits")
        return logits
