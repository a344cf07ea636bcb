"""Adapters: networks from outside this package as `Backbone`s, with the names of their own weights."""

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
    """A backbone around another network. The state dict keeps the network's own names."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's own state dict, without a prefix for this wrapper."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load into the network itself."""
        return self.network.load_state_dict(*args, **kwargs)


class ModuleBackbone(Wrapped):
    """An adapter for any module with `channels` and `features`.

    It takes over `frame_stride`, `clip_frames`, `size`, `mean`, `std`, `num_classes` and `classify` if the
    module has them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.channels = int(network.channels)  # type: ignore[arg-type]
        for name in ("frame_stride", "clip_frames", "size", "mean", "std", "num_classes"):
            if hasattr(network, name):
                setattr(self, name, getattr(network, name))

    def features(self, x: Tensor) -> Tensor:
        """Return the network's own maps. Raises UsageError if they are not (B, l, h, w, channels)."""
        maps: Tensor = self.network.features(x)  # type: ignore[operator]
        if maps.ndim != 5 or maps.shape[-1] != self.channels:
            raise UsageError(
                f"features of {type(self.network).__name__} returned shape {tuple(maps.shape)}; "
                f"it must be (batch, l, h, w, {self.channels}), channels last"
            )
        return maps

    def classify(self, maps: Tensor) -> Tensor | None:
        """Call the network's own `classify`; None if it has none."""
        own = getattr(self.network, "classify", None)
        logits: Tensor | None = None if own is None else own(maps)
        return logits


class LibraryBackbone(Wrapped):
    """A network of a library. A subclass sets the attributes of a `Backbone` and implements `run`.

    Maps are averaged over time to l = L/8, as in the paper's networks. Logits come from the network itself
    and may use more than the map.

    Attributes:
        name: the name for `--model`.
        fixed_frames, fixed_size: whether it takes no other `clip_frames`, no other `size`.
    """

    name: str
    fixed_frames: bool = False
    fixed_size: bool = False

    @abstractmethod
    def run(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the map at the network's own length (B, l', h, w, c) and logits (B, K).

        Logits are None without a classifier.
        """

    def features(self, x: Tensor) -> Tensor:
        """Return the map, averaged over time to L/8: (B, 3, L, H, W) → (B, L/8, h, w, c)."""
        return self.maps_and_logits(x)[0]

    def maps_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return `features` and the network's own logits."""
        maps, logits = self.run(x)
        return maps.reshape(len(x), x.shape[2] // TEMPORAL_REDUCTION, -1, *maps.shape[2:]).mean(2), logits

    def classify(self, maps: Tensor) -> Tensor | None:
        """Return None: the logits come with the maps, see `maps_and_logits`."""
        return None

    def translate(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of a library's weights file to the network's own names, if they differ."""
        return state

    def require_takes(self, clip_frames: int, size: int) -> None:
        """Raise UsageError if it takes no clips of `clip_frames` frames of size×size pixels.

        The trial uses no memory for weights or clips.
        """
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
        ) as error:  # the errors that networks raise for a shape they do not take
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UsageError(
                f"{self.name} takes no clips of {counted(clip_frames, 'frame')} of "
                f"{size}×{size} pixels ({reason}); choose another "
                "--clip-frames or --size"
            ) from error


def as_backbone(network: object, name: str) -> Backbone:
    """Return `network` if it is a `Backbone`, else an adapter. Raises UsageError with what is missing."""
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
