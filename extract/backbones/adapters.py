"""Networks that are not this package's: wrapped as a `Backbone`, under the names of their own weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...runtime.flop_counter import meta_copy
from ...terminal.text import counted
from .base import Backbone

TEMPORAL_REDUCTION = 8
"""l = L / 8, in every network's maps."""


class Wrapped(Backbone):
    """A backbone around another network. The names in its state dict stay the network's own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own state dict, without a prefix for this wrapper."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load into the network itself."""
        return self.network.load_state_dict(*args, **kwargs)


class ModuleBackbone(Wrapped):
    """Any module with `channels` and `features`, seen as a `Backbone`.

    Its `frame_stride`, `clip_frames`, `size`, `mean`, `std`, `num_classes` and `classify` are taken where it
    has them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.channels = int(network.channels)  # type: ignore[arg-type]
        for name in ("frame_stride", "clip_frames", "size", "mean", "std", "num_classes"):
            if hasattr(network, name):
                setattr(self, name, getattr(network, name))

    def features(self, x: Tensor) -> Tensor:
        """The network's own maps; raises UsageError if they are not (B, l, h, w, channels)."""
        maps: Tensor = self.network.features(x)  # type: ignore[operator]
        if maps.ndim != 5 or maps.shape[-1] != self.channels:
            raise UsageError(
                f"features of {type(self.network).__name__} returned shape {tuple(maps.shape)}; "
                f"it must be (batch, l, h, w, {self.channels}), channels last"
            )
        return maps

    def classify(self, maps: Tensor) -> Tensor | None:
        """The network's own `classify`, None where it has none."""
        own = getattr(self.network, "classify", None)
        logits: Tensor | None = None if own is None else own(maps)
        return logits


class LibraryBackbone(Wrapped):
    """A network of a library. A subclass sets what a Backbone sets and implements `run`.

    Maps are averaged over time to l = L/8, as many as the paper's networks give, whatever the network keeps.
    Logits are what the network itself gives, from all that it knows of the clip: they need not be a function
    of the map.

    Attributes:
        name: what `--model` says.
        fixed_frames, fixed_size: whether it takes no other `clip_frames`, no other `size`.
    """

    name: str
    fixed_frames: bool = False
    fixed_size: bool = False

    @abstractmethod
    def run(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map with the network's own length (B, l', h, w, c), and logits (B, K), None without a classifier."""

    def features(self, x: Tensor) -> Tensor:
        """The map, averaged over time to L/8: (B, 3, L, H, W) → (B, L/8, h, w, c)."""
        return self.maps_and_logits(x)[0]

    def maps_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """`features`, and the network's own logits."""
        maps, logits = self.run(x)
        return maps.reshape(len(x), x.shape[2] // TEMPORAL_REDUCTION, -1, *maps.shape[2:]).mean(2), logits

    def classify(self, maps: Tensor) -> Tensor | None:
        """None: the logits come with the maps, see `maps_and_logits`."""
        return None

    def translate(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A weights file of the library, under the network's own names: as it is, where they are the same."""
        return state

    def require_takes(self, clip_frames: int, size: int) -> None:
        """Raise UsageError where it takes no clips of `clip_frames` frames of size×size pixels; tried without memory."""
        for flag, asked, own, fixed in (
            ("--clip-frames", clip_frames, self.clip_frames, self.fixed_frames),
            ("--size", size, self.size, self.fixed_size),
        ):
            if fixed and asked != own:
                raise UsageError(
                    f"{self.name} takes {flag} {own} and no other (its position embeddings are so many); "
                    f"{asked} is asked: leave {flag} out, or say {flag} {own}"
                )
        if clip_frames % TEMPORAL_REDUCTION:
            raise UsageError(
                f"{self.name}: a clip of {counted(clip_frames, 'frame')}; --clip-frames takes a multiple of "
                f"{TEMPORAL_REDUCTION}"
            )
        try:
            with torch.no_grad():
                meta_copy(self).maps_and_logits(torch.empty(1, 3, clip_frames, size, size, device="meta"))  # type: ignore[operator]
        except (
            RuntimeError,
            ValueError,
            AssertionError,
        ) as error:  # what networks raise for a shape they do not take
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UsageError(
                f"{self.name} takes no clips of {counted(clip_frames, 'frame')} of "
                f"{size}×{size} pixels ({reason}); choose another "
                "--clip-frames or --size"
            ) from error


def as_backbone(network: object, name: str) -> Backbone:
    """`network` itself where it is a `Backbone`, else adapted. Raises UsageError that names what it lacks."""
    if not isinstance(network, nn.Module):
        raise UsageError(f"model {name!r} gave a {type(network).__name__}; it must return a torch.nn.Module")
    missing = [what for what in ("channels", "features") if not hasattr(network, what)]
    if missing:
        raise UsageError(
            f"model {name!r} gave a {type(network).__name__} without {' and '.join(missing)}; it needs "
            "`channels: int` and `features(x: (B,3,L,H,W)) -> (B,l,h,w,channels)`"
        )
    if isinstance(network, Backbone):
        return network
    return ModuleBackbone(network)
