"""Networks of other libraries by name: `torchvision:r3d_18`, `timm:resnet18`, `hf:MCG-NJU/videomae-base`.

A library is imported only when one of its networks is named.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ....errors import UsageError
from ....terminal.suggest import nearest

if TYPE_CHECKING:
    from ..adapters import LibraryBackbone


@dataclass(frozen=True, kw_only=True)
class Library:
    """One library of networks.

    Attributes:
        prefix: before the colon of a name. package: what is imported. extra: the optional dependency with it.
        module: module of this package with `build(name, num_classes)`, `known_names()` and
            `pretrained(name)`.
        offers: the possible names, for a person. example: a complete name.
    """

    prefix: str
    package: str
    extra: str
    module: str
    offers: str
    example: str

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'faster-video[{self.extra}]'"

    @property
    def installed(self) -> bool:
        """Whether it is installed, found without importing it."""
        return importlib.util.find_spec(self.package) is not None


LIBRARIES = {
    library.prefix: library
    for library in (
        Library(
            prefix="torchvision",
            package="torchvision",
            extra="torchvision",
            module=".torchvision_models",
            offers="r2plus1d_18, r3d_18, mc3_18, s3d, mvit_v2_s and swin3d_t",
            example="torchvision:r2plus1d_18",
        ),
        Library(
            prefix="timm",
            package="timm",
            extra="timm",
            module=".timm_models",
            offers="any image network, over one frame of every eight",
            example="timm:resnet18",
        ),
        Library(
            prefix="hf",
            package="transformers",
            extra="transformers",
            module=".hf_models",
            offers="VideoMAE and V-JEPA 2, by repository or folder",
            example="hf:MCG-NJU/videomae-base-finetuned-kinetics",
        ),
    )
}


def split_name(model: str) -> tuple[Library, str] | None:
    """Return the library and the network's name in it; None if the model is of no library."""
    prefix, colon, name = model.partition(":")
    return (LIBRARIES[prefix], name) if colon and prefix in LIBRARIES else None


def build(library: Library, name: str, num_classes: int | None) -> LibraryBackbone:
    """Return the library's network, freshly initialised.

    Raises UsageError if the library is not installed or has no such network.
    """
    backbone: LibraryBackbone = _module(library).build(name, num_classes)
    backbone.name = f"{library.prefix}:{name}"
    return backbone


def pretrained(model: str) -> str | Path | None:
    """Return where the library keeps a model's weights: the checkpoint's file or a URL; None without."""
    found = split_name(model)
    if found is None:
        return None
    library, name = found
    place: str | Path | None = _module(library).pretrained(name)
    return place


def require(package: str, extra: str) -> Any:
    """Import the package. Raises UsageError with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UsageError(
            f"{package} cannot be imported ({error}); install it with: pip install 'faster-video[{extra}]'"
        ) from error


def unknown(model: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that the library does not have, with the nearest names."""
    prefix, _, name = model.partition(":")
    near = " or ".join(f"{prefix}:{other}" for other in nearest(name, known, most=3))
    hint = f"did you mean {near}?" if near else f"{LIBRARIES[prefix].offers} can be named"
    return UsageError(f"unknown model {model!r}; {hint}")


def _module(library: Library) -> ModuleType:
    return importlib.import_module(library.module, package=__package__)
