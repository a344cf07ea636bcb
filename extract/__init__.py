"""The GPU stage: videos → clips → frozen backbones → feature maps in a store; and backbone training.

from faster.extract import ExtractConfig, extract

summary = extract(ExtractConfig(source="videos", models=("r2plus1d50", "r2d26"), store="kinetics.zarr"))

Each public name is imported at its first use. The package itself does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..runtime.lazy import lazy_names

if TYPE_CHECKING:
    from .config import ExtractConfig
    from .progress import ExtractSummary
    from .run import extract

__all__ = [
    "ExtractConfig",
    "ExtractSummary",
    "extract",
]

_MODULES = {
    "ExtractConfig": ".config",
    "ExtractSummary": ".progress",
    "extract": ".run",
}

if not TYPE_CHECKING:  # a type checker sees the imports above, and so knows the names
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)
