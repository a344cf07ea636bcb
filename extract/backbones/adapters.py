"""Networks of the user's own: `package.module:function`, checked and made a `Backbone`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...errors import UsageError
from .base import Backbone


class Adapted(Backbone):
    """Any module with `channels` and `features`, seen as a `Backbone`.

    Its `frame_stride`, `mean`, `std`, `num_classes` and `classify` are taken where it has them. The names in
    its state dict stay its own, so that its own weights files load.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.channels = int(network.channels)  # type: ignore[arg-type]
        for name in ("frame_stride", "mean", "std", "num_classes"):
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

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own state dict, without a prefix for this wrapper."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load into the network itself."""
        return self.network.load_state_dict(*args, **kwargs)


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
    return Adapted(network)


def import_function(name: str) -> Callable[..., object]:
    """The function that `package.module:function` names; modules of the current folder are found last.

    Raises UsageError where the module, or the function in it, does not exist. An error inside the module
    itself is the module's own and passes through.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise UsageError(f"model {name!r}: the form is package.module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # a console script does not have it; last, so that it shadows nothing
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise UsageError(
            f"model {name!r}: no module {error.name!r} here or installed; the form is package.module:function"
        ) from error
    function: Callable[..., object] | None = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"model {name!r}: module {module_name!r} has no function {function_name!r}")
    return function
