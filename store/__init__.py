"""Read and write a Zarr store: the maps, logits and provenance of one dataset.

from faster import store

kinetics = store.open("kinetics.zarr")
maps = kinetics.features("r2plus1d50", 8).read_maps(rows=[0, 7], views=0, clips=[3, 31])
"""

from __future__ import annotations

from pathlib import Path

from .format.manifest import Manifest, VideoRecord
from .format.receipts import ClipFacts
from .format.spec import FeatureSpec
from .maintain.inspect import inspect
from .read.features import Features, StoredMaps
from .read.store import Store
from .write.finalise import finalise
from .write.shard_writer import ShardWriter

__all__ = [
    "ClipFacts",
    "FeatureSpec",
    "Features",
    "Manifest",
    "ShardWriter",
    "Store",
    "StoredMaps",
    "VideoRecord",
    "finalise",
    "inspect",
    "open",
]


def open(path: str | Path, *, mapped: bool = False) -> Store:
    """Open a store for reading, also while an extraction writes to it.

    Args:
        path: the store's folder, or s3://bucket/folder.
        mapped: read clips through memory maps. This is faster if the store fits in memory. A file that is
            truncated while it is mapped kills the process, so do not use it for stores on network file
            systems that other processes write to.

    Raises:
        StoreError: the path is not a valid store, or object storage cannot be read.
        UsageError: `mapped` with object storage, or object storage without its client
            (`pip install faster-video[cloud]`).
    """
    return Store(Path(path), mapped=mapped)
