"""Writing a store: make it, declare a model's maps, write one shard at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace as replace_fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ..errors import StoreError
from .commit import link_if_absent, put_if_absent, replace, storage_errors, temporary_beside
from .manifest import Manifest
from .reader import Store, read_group_attributes
from .receipts import ClipFacts, Receipt, StoredObject, VideoEntry, receipt_path
from .schema import (
    FORMAT,
    FeatureSpec,
    clip_bytes,
    clip_stride_bytes,
    group_metadata,
    ids_digest,
    logits_key,
    logits_metadata,
    maps_key,
    maps_metadata,
    seal,
)

ABSENT = np.uint64(2**64 - 1)


def create(path: Path, *, shard_videos: int) -> int:
    """Make a store, or join one that is there, and return its videos a shard (the first run decides it).

    Raises:
        StoreError: the folder holds something that is not a store.
        StorageError: the disk failed, or cannot be written.
    """
    metadata = path / "zarr.json"
    with storage_errors(path):
        if (
            path.exists()
            and not metadata.exists()
            and any(p for p in path.iterdir() if not p.name.startswith("."))
        ):
            raise StoreError(f"{path} exists and is not a store; choose another --store")
        path.mkdir(parents=True, exist_ok=True)
    put_if_absent(metadata, group_metadata({"faster": {"format": FORMAT, "shard_videos": shard_videos}}))
    put_if_absent(path / "features" / "zarr.json", group_metadata())
    return Store(path).shard_videos


def require_writable(path: Path) -> None:
    """Make sure that a store can be written at `path`, before anything costly begins; leaves nothing there.

    Raises:
        StoreError: a file is there.
        StorageError: it cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file, not a store; choose another --store")
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    with storage_errors(path), temporary_beside(parent / "probe"):
        pass


def declare(
    path: Path, spec: FeatureSpec, *, recorded: Mapping[str, Any], trained_on: Iterable[str]
) -> FeatureSpec:
    """Make the arrays of one model, or join the ones that are there.

    Args:
        path: the store.
        spec: everything that decides the maps' bytes; must equal what is there.
        recorded: provenance that decides nothing: GFLOPs a clip, library versions, the weights' file.
        trained_on: ids of the videos that the weights' training saw.

    Raises:
        ProvenanceMismatch: the store's maps of this model were made otherwise.
        StorageError: the disk failed.
    """
    folder = path / spec.folder
    put_if_absent(folder / "trained_on.json", seal({"ids": sorted(set(trained_on))}))
    put_if_absent(folder.parent / "zarr.json", group_metadata())
    put_if_absent(
        folder / "zarr.json",
        group_metadata({"faster": {"spec": spec.to_dict(), "recorded": dict(recorded)}}),
    )
    spec.require_same(FeatureSpec.from_dict(read_group_attributes(folder)["spec"]))
    return spec


def fit_arrays(path: Path, spec: FeatureSpec, manifest: Manifest, shard_videos: int) -> None:
    """Bring the arrays' shapes up to the manifest's rows; repeatable, and never shrinks.

    Raises:
        StorageError: the disk failed.
    """
    folder = path / spec.folder
    arrays = {"maps": maps_metadata(manifest.rows, shard_videos, spec)}
    if spec.num_classes:
        arrays["logits"] = logits_metadata(manifest.rows, shard_videos, spec)
    for name, metadata in arrays.items():
        target = folder / name / "zarr.json"
        if not target.exists() or target.read_bytes() != metadata:
            replace(target, metadata)


class ShardWriter(AbstractContextManager["ShardWriter"]):
    """Writes one shard of one model: videos as they come, then `commit`. Left without it, nothing remains.

    Memory is one video's maps, whatever the shard holds. Two writers may work on the same shard; the one
    that commits second finds the first one's files and leaves them.
    """

    def __init__(
        self, path: Path, spec: FeatureSpec, *, manifest: Manifest, shard: int, view: int, shard_videos: int
    ) -> None:
        self._spec = spec
        self._folder = path / spec.folder
        self._shard, self._view, self._shard_videos = shard, view, shard_videos
        self._first = shard * shard_videos
        ids = manifest.ids[self._first : self._first + shard_videos]
        self._expected = [self._first + i for i, name in enumerate(ids) if name]
        self._ids_digest = ids_digest(ids)
        self._entries: dict[int, VideoEntry] = {}
        self._index = np.full((shard_videos, spec.clips, 2), ABSENT, dtype="<u8")
        self._logits = np.full((shard_videos, 1, spec.clips, spec.num_classes), np.nan, dtype="<f4")
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with storage_errors(self._folder):
            target = self._folder / maps_key(self._shard, self._view)
            self._file, self._temporary = self._stack.enter_context(temporary_beside(target))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(
        self, row: int, maps: NDArray[np.float16], logits: NDArray[np.float32] | None, facts: ClipFacts
    ) -> None:
        """Write one video's maps, (clips, l, h, w, c) float16, and logits, (clips, classes) float32.

        Raises:
            StorageError: the disk failed.
        """
        spec = self._spec
        if maps.shape != (spec.clips, *spec.map_shape) or maps.dtype != np.float16:
            raise ValueError(
                f"maps {maps.shape} {maps.dtype}, expected {(spec.clips, *spec.map_shape)} float16"
            )
        if (logits is not None) != bool(spec.num_classes):
            raise ValueError("logits are given exactly where the backbone has a classifier")
        stride = clip_stride_bytes(spec.map_shape)
        padding = bytes(stride - clip_bytes(spec.map_shape))
        checksums = []
        with storage_errors(self._folder):
            for clip, values in enumerate(np.ascontiguousarray(maps, dtype="<f2")):
                data = values.tobytes()
                self._index[row - self._first, clip] = (self._size, len(data))
                self._write(data)
                self._write(padding)
                checksums.append(int(google_crc32c.value(data)))
        if logits is not None:
            self._logits[row - self._first, 0] = logits
        self._enter(VideoEntry(row=row, facts=facts, crc32c=tuple(checksums)))

    def fail(self, row: int, reason: str) -> None:
        """Record that a video cannot be used, and why (one line)."""
        self._enter(VideoEntry(row=row, reason=" ".join(reason.split()) or "unknown reason"))

    def commit(self) -> Receipt:
        """Make the shard part of the store: data, then receipt, each put only where nothing was.

        Returns:
            The receipt that the store now has: this writer's, or that of another which was first.

        Raises:
            StoreError: not every video of the shard was added, or another run left files that differ in
                which videos they hold.
            StorageError: the disk failed.
        """
        if sorted(self._entries) != self._expected:
            raise StoreError(
                f"shard {self._shard} has {len(self._entries)} of its {len(self._expected)} videos"
            )
        index = self._index.tobytes()
        checksum = int(google_crc32c.value(index)).to_bytes(4, "little")
        key = maps_key(self._shard, self._view)
        with storage_errors(self._folder):
            self._write(index + checksum)
            self._file.flush()
            os.fsync(self._file.fileno())
            placed = link_if_absent(self._temporary, self._folder / key)
        objects = [StoredObject(key=key, size_bytes=self._size, sha256=self._sha256.hexdigest())]
        if not placed:
            objects = [self._adopt(key)]
        if self._spec.num_classes:
            key = logits_key(self._shard, self._view)
            put_if_absent(self._folder / key, self._logits.tobytes())
            objects.append(_stored(self._folder, key))
        receipt = Receipt(
            shard=self._shard,
            view=self._view,
            fingerprint=self._spec.fingerprint,
            ids_digest=self._ids_digest,
            objects=tuple(objects),
            videos=tuple(self._entries[row] for row in self._expected),
        )
        target = receipt_path(self._folder, self._shard, self._view)
        if not put_if_absent(target, receipt.to_bytes()):
            receipt = Receipt.from_bytes(target.read_bytes(), name=str(target))
        return receipt

    def _enter(self, entry: VideoEntry) -> None:
        if entry.row not in self._expected or entry.row in self._entries:
            raise ValueError(f"row {entry.row} is not expected in shard {self._shard}, or was given twice")
        self._entries[entry.row] = entry

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._size += len(data)

    def _adopt(self, key: str) -> StoredObject:
        """Describe the data file that another writer, or this one before it was killed, put first.

        Its bytes can differ from ours in the last bits (threads, devices), so the receipt is made from them.
        """
        path = self._folder / key
        remove = f"{path} has no receipt and is not what this run computed; remove that file and run again"
        with storage_errors(path), path.open("rb") as file, self._temporary.open("rb") as ours:
            if path.stat().st_size != self._size:
                raise StoreError(remove)
            file.seek(-self._index.nbytes - 4, os.SEEK_END)
            if file.read(self._index.nbytes) != self._index.tobytes():
                raise StoreError(remove)
            for row, entry in self._entries.items():
                checksums = []
                for offset, size in self._index[row - self._first] if entry.ok else ():
                    file.seek(int(offset))
                    ours.seek(int(offset))
                    data = file.read(int(size))
                    if not _same_but_for_rounding(data, ours.read(int(size))):
                        raise StoreError(remove)
                    checksums.append(int(google_crc32c.value(data)))
                self._entries[row] = replace_fields(entry, crc32c=tuple(checksums))
        return _stored(self._folder, key)


def _same_but_for_rounding(stored: bytes, computed: bytes) -> bool:
    """Whether two maps differ by no more than other threads or another device make them: 1 % relative RMS."""
    a, b = (np.frombuffer(data, dtype="<f2").astype(np.float64) for data in (stored, computed))
    return bool(np.isfinite(a).all() and np.sum((a - b) ** 2) <= 1e-4 * np.sum(b**2))


def _stored(folder: Path, key: str) -> StoredObject:
    path = folder / key
    with storage_errors(path), path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return StoredObject(key=key, size_bytes=path.stat().st_size, sha256=sha256)
