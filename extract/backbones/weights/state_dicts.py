"""State dicts in weights files from elsewhere: read them, and map their names to a network's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ....errors import WeightsError
from .. import Backbone, ResNet3D
from ..adapters import LibraryBackbone
from .pickled import listed, other_objects, reason_of, saved_anew, shown

StateDict = Mapping[str, Tensor]

WRAPPERS = ("module.", "_orig_mod.")
"""The prefixes that DataParallel and torch.compile put before every name."""

COUNTS = ".num_batches_tracked"
NORM_EPSILON = 1e-5
IG65M_EPSILON = 1e-3

# torchvision's VideoResNet with (2+1)D convolutions → ResNet3D with basic blocks, by name prefix.
_STEM = {
    "stem.0.": "conv1.0.conv.",
    "stem.1.": "conv1.0.norm.",
    "stem.3.": "conv1.2.conv.",
    "stem.4.": "conv1.2.norm.",
}
_IN_CONV = {"0.0.": "0.conv.", "0.1.": "0.norm.", "0.3.": "2.conv.", "1.": "2.norm."}
_IN_BLOCK = {
    **{f"conv{i}.{theirs}": f"residual.conv{i}.{ours}" for i in (1, 2) for theirs, ours in _IN_CONV.items()},
    "downsample.0.": "shortcut.conv.",
    "downsample.1.": "shortcut.norm.",
}


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file: bare, or under "state_dict" or "model", without a wrapper's prefix.

    Nothing in the file is ever executed. Raises WeightsError for anything else.
    """
    try:
        if path.suffix == ".safetensors":
            loaded: Any = safetensors.torch.load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader has no exception type of its own for invalid files
        if objects := other_objects(path, str(error)):
            raise WeightsError(
                f"{path} cannot be read as weights: it holds other Python objects beside tensors "
                f"({listed(objects)}), and to read such a file may run any "
                f"code in it, so nothing of it was read; {saved_anew(path)}"
            ) from error
        raise WeightsError(f"{path} cannot be read as weights: {reason_of(error)}") from error
    content = loaded
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise WeightsError(
            f'{path} holds no state dict, names with tensors, bare or under "state_dict" or "model", but '
            f"{shown(loaded)}" + (f"; {saved_anew(path, content)}" if _has_tensors(loaded) else "")
        )
    state = dict(loaded)
    for prefix in WRAPPERS:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _has_tensors(loaded: Any) -> bool:
    """Whether there is a tensor to save, here or one level deeper."""
    values = list(loaded.values()) if isinstance(loaded, Mapping) else []
    deeper = [inner for value in values if isinstance(value, Mapping) for inner in value.values()]
    return any(isinstance(value, Tensor) for value in values + deeper)


def fit_names(state: StateDict, backbone: Backbone) -> dict[str, Tensor]:
    """Rename the state to the network's own names if its layout is known; leave the rest as it is.

    - A library's own files: as the library writes them.
    - torchvision's R(2+1)D with basic blocks to our `r2plus1d34`, and so IG-65M's
      (github.com/moabitcoin/ig65m-pytorch). IG-65M's first blocks of layers 2 to 4 have 288, 576 and 1152
      mid-channels in their second convolution, as ours. Their batch norm adds 1e-3 to the variance and ours
      1e-5: the difference is added to the running variance, which gives the same outputs.
    - Counts of batches: older files do not have them, and no output depends on them.
    """
    fitted = dict(state)
    if isinstance(backbone, LibraryBackbone):
        fitted = backbone.translate(fitted)
    elif isinstance(backbone, ResNet3D) and "stem.0.weight" in state:
        fitted = {_own_name(name): value for name, value in state.items()}
        for name in [name for name in fitted if name.endswith("running_var")]:
            fitted[name] = fitted[name] + (IG65M_EPSILON - NORM_EPSILON)
    if not any(name.endswith(COUNTS) for name in fitted):
        fitted |= {name: value for name, value in backbone.state_dict().items() if name.endswith(COUNTS)}
    return fitted


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def require_fits(state: StateDict, backbone: Backbone, model: str, path: Path) -> None:
    """Raise WeightsError if names, shapes or types differ or values are not finite.

    The message gives the counts and the first three of each.
    """
    own: StateDict = backbone.state_dict()
    both = [name for name in own if name in state]
    problems = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "mis-shaped": [
            f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
            for name in both
            if state[name].shape != own[name].shape
        ],
        "of another type": [
            f"{name} {str(state[name].dtype).removeprefix('torch.')}"
            for name in both
            if own[name].is_floating_point() and state[name].dtype not in FLOATS
        ],
        # Fused layers turn NaN into zero, so maps would look valid.
        "not finite": [name for name in both if not bool(torch.isfinite(state[name].float()).all())],
        "below zero": [
            name for name in both if name.endswith("running_var") and bool((state[name].float() < 0).any())
        ],
    }
    if any(problems.values()):
        what = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for kind, names in problems.items()
            if names
        )
        raise WeightsError(
            f"{path} does not fit {model}: {what}; it must hold exactly this network's state dict"
        )


def _own_name(name: str) -> str:
    """Return ResNet3D's name for a name of torchvision's VideoResNet; other names are returned unchanged."""
    block = re.fullmatch(r"layer([1-4])\.(\d+)\.(.+)", name)
    start, rest, table = (
        (f"res{int(block[1]) + 1}.{block[2]}.", block[3], _IN_BLOCK) if block else ("", name, _STEM)
    )
    for theirs, ours in table.items():
        if rest.startswith(theirs):
            return start + ours + rest.removeprefix(theirs)
    return name
