"""Create a store, and a model's arrays in it; `shard_writer` fills them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StorageError, StoreError
from ...runtime.atomic import (
    TEMPORARY_SUFFIX,
    fix_of,
    put_if_absent,
    replace,
    storage_errors,
    temporary_beside,
)
from ...runtime.file_names import require_text
from ..format.attributes import read_spec, sealed_attributes
from ..format.checksummed_json import FORMAT, encode_checksummed
from ..format.manifest import Manifest
from ..format.schema import array_metadata, arrays_metadata, group_metadata
from ..format.spec import FeatureSpec
from ..io.s3 import require_local
from ..read.store import Store

Head = tuple[NDArray[np.float32], NDArray[np.float32]]


def create(path: Path, *, shard_videos: int) -> Store:
    """Create a store, or join an existing one; the first run decides the videos per shard.

    Raises:
        UsageError: the path is on object storage.
        StoreError: the folder holds something that is not a store.
        StorageError: the disk failed, or cannot be written.
    """
    require_local(path)
    metadata = path / "zarr.json"
    with storage_errors(path):
        if (
            path.exists()
            and not metadata.exists()
            and any(p for p in path.iterdir() if not p.name.startswith("."))
        ):
            raise StoreError(f"{path} exists and is not a store; choose another --store")
        path.mkdir(parents=True, exist_ok=True)
    put_if_absent(
        metadata, group_metadata(sealed_attributes({"format": FORMAT, "shard_videos": shard_videos}))
    )
    return Store(path)


def require_writable(path: Path, option: str = "--store") -> None:
    """Check that a store can be written at `path`, before expensive work begins; leaves no file there.

    Messages name the `option` that gave the path.

    Raises:
        UsageError: the path is on object storage, or not UTF-8.
        StoreError: the path is a file.
        StorageError: it cannot be written.
    """
    require_local(path)
    require_text(path, "--store")
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file, not a store; choose another {option}")
    parent = path
    try:
        parent = next(above for above in (path, *path.absolute().parents) if above.exists())
        if not parent.is_dir():
            raise StorageError(
                f"{path}: {parent} is a file, and a folder is needed there; choose another {option}"
            )
        with temporary_beside(parent / "probe") as (file, probe):
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            linked = probe.with_name(f"{probe.stem}-linked{TEMPORARY_SUFFIX}")
            os.link(probe, linked)  # writing a store needs hard links; some file systems have none
            linked.unlink()
    except OSError as error:
        fix = fix_of(error, f"choose another place with {option}", place=option)
        raise StorageError(f"{path}: {parent} takes no store ({error.strerror or error}); {fix}") from error


def declare(
    path: Path,
    spec: FeatureSpec,
    *,
    recorded: Mapping[str, Any],
    trained_on: Iterable[str],
    head: Head | None = None,
) -> FeatureSpec:
    """Create the arrays of one model, or join the existing ones.

    Args:
        path: the store.
        spec: everything that decides the maps' bytes; must equal the stored spec.
        recorded: other provenance: GFLOPs per clip, library versions, the weights' file.
        trained_on: ids of the videos that the weights were trained on.
        head: weight (K, c) and bias (K,) of the classifier on the map's mean, if the backbone's is linear.

    Raises:
        ProvenanceMismatch: the store's maps of this model were made otherwise.
        StorageError: the disk failed.
    """
    folder = path / spec.folder
    put_if_absent(folder / "trained_on.json", encode_checksummed({"ids": sorted(set(trained_on))}))
    for above in (path / "features", folder.parent):
        put_if_absent(above / "zarr.json", group_metadata())
    if head is not None:
        files = _head_files(head)
        for name, data in files.items():
            put_if_absent(folder / "head" / name, data)
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        recorded = {**recorded, "head_sha256": digests}
    put_if_absent(
        folder / "zarr.json",
        group_metadata(sealed_attributes({"spec": spec.to_dict(), "recorded": dict(recorded)})),
    )
    spec.require_same(read_spec(folder))
    return spec


def _head_files(head: Head) -> dict[str, bytes]:
    """Return a linear classifier as the files of two Zarr arrays, by key."""
    files = {}
    for name, values, axes in (("weight", head[0], ["class", "c"]), ("bias", head[1], ["class"])):
        shape = list(values.shape)
        key = "/".join("0" * len(shape))
        files[f"{name}/c/{key}"] = np.ascontiguousarray(values, "<f4").tobytes()
        files[f"{name}/zarr.json"] = array_metadata(shape=shape, chunks=shape, dtype="float32", names=axes)
    return {**files, "zarr.json": group_metadata()}


def fit_arrays(path: Path, spec: FeatureSpec, manifest: Manifest, shard_videos: int) -> None:
    """Extend the arrays' shapes to the manifest's rows; repeatable, and never shrinks.

    Raises:
        StorageError: the disk failed.
    """
    folder = path / spec.folder
    for name, metadata in arrays_metadata(manifest.rows, shard_videos, spec).items():
        target = folder / name / "zarr.json"
        if not target.exists() or target.read_bytes() != metadata:
            replace(target, metadata)
