"""Write one shard of one model: videos in any order, then commit."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError
from ...runtime.atomic import link_if_absent, put_if_absent, storage_errors, temporary_beside
from ...terminal.text import counted
from ..format.encoding import checksum, compress, quantise
from ..format.manifest import Manifest
from ..format.receipts import ClipFacts, Receipt, StoredObject, VideoEntry, read_receipt, receipt_path
from ..format.schema import ids_digest, logits_key, maps_key, scales_key, shard_keys
from ..format.shard_file import ABSENT, ShardFile, index_bytes
from ..format.spec import FeatureSpec
from ..io.safe_open import read_floats

HASH_BLOCK_BYTES = 1 << 20


class ShardWriter(AbstractContextManager["ShardWriter"]):
    """Writes one shard of one model: videos in any order, then `commit`. Without a commit, nothing remains.

    Needs memory for one video's maps, for a shard of any size. Two writers may work on the same shard; the
    second one to commit finds the first one's files and keeps them.
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
        self._scales = np.full((shard_videos, spec.map_shape[3]), np.nan, dtype="<f4")
        self._logits = np.full((shard_videos, spec.clips, spec.num_classes), np.nan, dtype="<f4")
        self._sha256 = hashlib.sha256()
        self._hashed: list[Future[None]] = []
        self._size = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with storage_errors(self._folder):
            target = self._folder / maps_key(self._shard, self._view)
            self._file, self._temporary = self._stack.enter_context(temporary_beside(target))
            descriptor = os.open(self._temporary, os.O_RDONLY | os.O_CLOEXEC)
            self._stack.callback(os.close, descriptor)
            self._readable = descriptor
        # SHA-256 is about as fast as the disk: one thread reads back the written data and hashes them.
        self._hasher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sha256")
        self._stack.callback(self._hasher.shutdown, cancel_futures=True)
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
            StoreError: the store's dtype cannot hold the maps.
            StorageError: the disk failed.
        """
        spec = self._spec
        if maps.shape != (spec.clips, *spec.map_shape) or maps.dtype != np.float16:
            raise ValueError(
                f"maps {maps.shape} {maps.dtype}, expected {(spec.clips, *spec.map_shape)} float16"
            )
        if (logits is not None) != bool(spec.num_classes):
            raise ValueError("logits are given exactly where the backbone has a classifier")
        within = row - self._first
        values, start, rms = np.ascontiguousarray(maps, dtype="<f2").view(np.uint8), 0, None
        if spec.dtype == "uint8":
            values, scale, rms = quantise(maps)
            self._scales[within] = scale
            start = checksum(self._scales[within].tobytes())
        clips = values.reshape(spec.clips, -1)
        if spec.codec == "zstd":
            parts = [compress(clip.data) for clip in clips]
            sizes = strides = np.array([len(part) for part in parts])
            block = memoryview(b"".join(parts))
        else:
            if spec.clip_bytes < spec.clip_stride_bytes:
                clips = np.pad(clips, ((0, 0), (0, spec.clip_stride_bytes - spec.clip_bytes)))
            sizes = np.full(spec.clips, spec.clip_bytes)
            strides = np.full(spec.clips, spec.clip_stride_bytes)
            block = clips.reshape(-1).data
        offsets = np.cumsum(strides) - strides
        self._index[within, :, 0] = self._size + offsets
        self._index[within, :, 1] = sizes
        checksums = tuple(
            checksum(block[offset : offset + size], start)
            for offset, size in zip(offsets.tolist(), sizes.tolist(), strict=True)
        )
        with storage_errors(self._folder):
            self._write(block)
        if logits is not None:
            self._logits[within] = logits
        self._enter(
            VideoEntry(
                row=row,
                facts=facts,
                crc32c=checksums,
                logits_crc32c=None if logits is None else checksum(self._logits[within].tobytes()),
                quantisation_rms=rms,
            )
        )

    def fail(self, row: int, reason: str) -> None:
        """Record that a video cannot be used, and why, in one line."""
        self._enter(VideoEntry(row=row, reason=" ".join(reason.split()) or "unknown reason"))

    def commit(self, *, source: str = "") -> Receipt:
        """Add the shard to the store: data, then receipt; each is written only if it does not exist.

        Args:
            source: SHA-256 of the receipt that the shard is converted from.

        Returns:
            The receipt in the store: this writer's, or that of another writer which was first.

        Raises:
            StoreError: a video of the shard was not added, or another run left files with other contents.
            StorageError: the disk failed.
        """
        if sorted(self._entries) != self._expected:
            raise StoreError(
                f"shard {self._shard} has {len(self._entries):,} of its "
                f"{counted(len(self._expected), 'video')}"
            )
        data = {
            scales_key(self._shard, self._view): self._scales,
            logits_key(self._shard, self._view): self._logits,
        }
        keys = shard_keys(self._spec, self._shard, self._view)
        with storage_errors(self._folder):
            self._write(memoryview(index_bytes(self._index)))
            os.fsync(self._file.fileno())
            for block in self._hashed:
                block.result()
            ours = link_if_absent(self._temporary, self._folder / keys[0])
        objects = [StoredObject(key=keys[0], size_bytes=self._size, sha256=self._sha256.hexdigest())]
        for key in keys[1:]:
            ours &= put_if_absent(self._folder / key, data[key].tobytes())
            sha256 = hashlib.sha256(data[key].tobytes()).hexdigest()
            objects.append(StoredObject(key=key, size_bytes=data[key].nbytes, sha256=sha256))
        target = receipt_path(self._folder, self._shard, self._view)
        if not ours and target.exists():  # another writer committed first; its results count
            return read_receipt(self._folder, self._shard, self._view)
        receipt = Receipt(
            shard=self._shard,
            view=self._view,
            fingerprint=self._spec.fingerprint,
            ids_digest=self._ids_digest,
            objects=tuple(objects) if ours else self._adopt(keys),
            videos=tuple(self._entries[row] for row in self._expected),
            source=source,
        )
        if not put_if_absent(target, receipt.to_bytes()):
            return read_receipt(self._folder, self._shard, self._view)
        return receipt

    def _enter(self, entry: VideoEntry) -> None:
        if entry.row not in self._expected or entry.row in self._entries:
            raise ValueError(f"row {entry.row} is not expected in shard {self._shard}, or was given twice")
        self._entries[entry.row] = entry

    def _write(self, block: memoryview) -> None:
        self._file.write(block)
        self._file.flush()
        self._hashed.append(self._hasher.submit(self._hash, self._size, self._size + len(block)))
        self._size += len(block)

    def _hash(self, at: int, end: int) -> None:
        while at < end:
            block = os.pread(self._readable, min(HASH_BLOCK_BYTES, end - at), at)
            if not block:
                raise OSError(errno.EIO, "what was written cannot be read back", str(self._temporary))
            self._sha256.update(block)
            at += len(block)

    def _adopt(self, keys: list[str]) -> tuple[StoredObject, ...]:
        """Describe files that another writer, or this one before it was killed, wrote first.

        Their bytes may differ from ours in the last bits (threads, devices), so the receipt describes them.
        """
        spec, scales, logits = self._spec, self._scales, self._logits
        try:
            with ExitStack() as stack:
                theirs, ours = (
                    stack.enter_context(closing(ShardFile(path, spec, self._shard_videos)))
                    for path in (self._folder / keys[0], self._temporary)
                )
                if spec.dtype == "uint8":
                    scales = read_floats(
                        self._folder / scales_key(self._shard, self._view), self._scales.shape
                    )
                if spec.num_classes:
                    logits = read_floats(
                        self._folder / logits_key(self._shard, self._view), self._logits.shape
                    )
                for row, entry in self._entries.items():
                    within = row - self._first
                    if not entry.ok:
                        if theirs.sizes[within * spec.clips : (within + 1) * spec.clips].any():
                            raise StoreError(
                                f"{theirs.path}: holds video {within} of the shard, which failed here"
                            )
                        continue
                    scale = scales[within] if spec.dtype == "uint8" else None
                    maps, stored = theirs.read_video(within, scale)
                    computed, _ = ours.read_video(within, None if scale is None else self._scales[within])
                    _require_close(maps, computed, theirs.path)
                    _require_close(logits[within], self._logits[within], theirs.path)
                    start = 0 if scale is None else checksum(scale.tobytes())
                    checksums = tuple(checksum(data, start) for data in stored)
                    scores = None if entry.logits_crc32c is None else checksum(logits[within].tobytes())
                    self._entries[row] = replace(entry, crc32c=checksums, logits_crc32c=scores)
        except StoreError as error:
            raise StoreError(
                f"{error}; it has no receipt and is not what this run computed: remove it by faster verify "
                f"{self._folder.parents[2]} --repair, and run again"
            ) from error
        with storage_errors(self._folder):
            return tuple(_stored(self._folder, key) for key in keys)


def _require_close(stored: NDArray[Any], computed: NDArray[Any], path: Path) -> None:
    """Check that maps differ by at most 1 % relative RMS, which other threads or another device may cause."""
    a, b = stored.astype(np.float64), computed.astype(np.float64)
    if not (np.isfinite(a).all() and np.sum((a - b) ** 2) <= 1e-4 * np.sum(b**2)):
        raise StoreError(f"{path}: other values than were computed here")


def _stored(folder: Path, key: str) -> StoredObject:
    with (folder / key).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return StoredObject(key=key, size_bytes=size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
