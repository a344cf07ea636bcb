"""The interface of every backbone: clips in, res5 maps out, and class logits if it has a classifier."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from ...errors import UsageError

# Mean and standard deviation per channel of Kinetics-400's RGB in [0, 1]; torchvision's video networks use
# these values.
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


class Backbone(nn.Module):
    """A clip-level network (FASTER §3.4).

    A subclass sets `channels` and implements `features`. It overrides other attributes if they differ. If its
    classifier is not `fc` on the pooled map, it overrides `classify`.
    """

    channels: int
    """c of the maps."""
    frame_stride: int = 1
    """Step between the frames that it takes from the video; a property of the network."""
    clip_frames: int | None = None
    """L that it was made for; None if any multiple of 8 works."""
    size: int | None = None
    """Pixels of the frame side that it was made for; None if any works."""
    mean: tuple[float, float, float] = KINETICS_MEAN
    std: tuple[float, float, float] = KINETICS_STD
    num_classes: int | None = None
    """K of the logits; None if it has no classifier."""
    takes_bf16: bool = False
    """Whether `--precision auto` may compute it in bfloat16. `--precision bf16` does so for any network."""
    classifier_key: str = "fc.weight"
    """Name of the classifier's weight in the state dict; its first dimension is K."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes, if the network itself knows them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc: nn.Module | None = None  # here, not on the class, where it would hide a subclass's module

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Return the map of each clip: (B, 3, L, H, W) float, normalised → (B, l, h, w, c)."""

    def classify(self, maps: Tensor) -> Tensor | None:
        """Return logits by global average pooling and `fc`: (B, l, h, w, c) → (B, K); None without `fc`."""
        if self.fc is None:
            return None
        logits: Tensor = self.fc(maps.mean(dim=(1, 2, 3)))
        return logits

    def maps_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return `features` and the logits of the same clips.

        Override it if the logits are not a function of the map.
        """
        maps = self.features(x)
        return maps, self.classify(maps)

    def require_takes(self, clip_frames: int, size: int) -> None:
        """Raise UsageError if it takes no clips of `clip_frames` frames of size×size pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each clip: (B, 3, L, H, W) → (B, K). UsageError without a classifier."""
        _, logits = self.maps_and_logits(x)
        if logits is None:
            raise UsageError("this backbone has no classifier; build it with num_classes to get logits")
        return logits
