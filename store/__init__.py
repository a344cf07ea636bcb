"""The contract between the stages: one dataset's maps, scores and provenance, in a Zarr store.

from faster import store

kinetics = store.open("kinetics.zarr")
maps = kinetics.features("r2plus1d50", 8).read_maps(rows=[0, 7], views=0, clips=[3, 31])
"""

from __future__ import annotations

from pathlib import Path

from .finalise import finalise
from .inspect import inspect
from .manifest import Manifest, VideoRecord
from .reader import Features, Store
from .receipts import ClipFacts
from .schema import FeatureSpec
from .writer import ShardWriter

__all__ = [
    "ClipFacts",
    "FeatureSpec",
    "Features",
    "Manifest",
    "ShardWriter",
    "Store",
    "VideoRecord",
    "finalise",
    "inspect",
    "open",
]


def open(path: str | Path) -> Store:
    """Open a store for reading; an extraction may be writing it.

    Raises:
        StoreError: the path is not a sound store.
    """
    return Store(Path(path))
