"""The receipt of a shard: it confirms that the shard is complete, and holds the facts from decoding.

A shard without a receipt does not exist. Receipts hold no times, hosts or other incidental data, so an
interrupted run ends with the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from ...errors import StorageError, StoreError, one_line
from ...runtime.canonical_json import Count, UInt31, UInt32, read_as
from ..io.safe_open import read_regular
from .checksummed_json import decode_checksummed, encode_checksummed
from .schema import ids_digest

OK = 1
FAILED = 2

RECEIPT_BYTES_MAX = 1 << 28
# The text of a failed video in a receipt's file, and of nothing else: part of the format, see docs/store.md.
FAILED_BYTES = b'"facts":null'
_NAME = re.compile(r"([0-9]{6,15})\.v([0-9]{1,6})\.json")


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """What decoding found out about one video; every sequence has one entry per clip.

    Attributes:
        frames: T, frames of the video (or of its segment).
        fps: average frame rate.
        starts: index of each clip's first frame.
        times_seconds: presentation time of each clip's first frame.
        padded: number of frames of each clip that repeat the video's last one.
    """

    frames: UInt31
    fps: float
    starts: tuple[UInt31, ...]
    times_seconds: tuple[float, ...]
    padded: tuple[UInt31, ...]


@dataclass(frozen=True, kw_only=True)
class VideoEntry:
    """One video in a receipt: its facts and checksums, or the reason for its failure.

    Attributes:
        crc32c: one per clip, over the video's scales, if there are any, and then the clip's stored bytes.
        logits_crc32c: of the video's logits, all clips; None if there are none.
        quantisation_rms: relative RMS error of the video's uint8 maps; None for float16.
    """

    row: Count
    facts: ClipFacts | None = None
    crc32c: tuple[UInt32, ...] = ()
    logits_crc32c: UInt32 | None = None
    quantisation_rms: float | None = None
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the video's maps are in the shard."""
        return self.facts is not None


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """A file of a shard: its key relative to the model's folder, its size and its SHA-256."""

    key: str
    size_bytes: Count
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A shard's receipt: its files, and the result for each of its videos.

    Attributes:
        source: SHA-256 of the receipt that the shard was converted from; "" if it was extracted.
    """

    shard: Count
    view: Count
    fingerprint: str
    ids_digest: str
    objects: tuple[StoredObject, ...]
    videos: tuple[VideoEntry, ...]
    source: str = ""

    def misfit(self, fingerprint: str, ids: Sequence[str]) -> str:
        """Return why the receipt does not match these videos and that provenance; "" if it does."""
        if self.fingerprint != fingerprint:
            return "its receipt belongs to maps made otherwise"
        if self.ids_digest != ids_digest(ids):
            return "its receipt speaks of other videos than the manifest"
        return ""

    def to_bytes(self) -> bytes:
        """Return the bytes of the receipt's file."""
        return encode_checksummed(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str) -> Self:
        """Read a receipt's file.

        Raises:
            StoreError: the data are not a receipt, or were changed.
        """
        value = decode_checksummed(data, name=name)
        try:
            receipt = read_as(cls, value)
        except ValueError as error:
            raise StoreError(f"{name}: not a receipt: {error}") from error
        if any(entry.reason for entry in receipt.videos):
            entries = (replace(entry, reason=one_line(entry.reason)) for entry in receipt.videos)
            receipt = replace(receipt, videos=tuple(entries))
        return receipt


def receipt_path(folder: Path, shard: int, view: int) -> Path:
    """Return the path of a shard's receipt; `folder` is the model's."""
    return folder / "receipts" / _name(shard, view)


def _name(shard: int, view: int) -> str:
    return f"{shard:06d}.v{view}.json"


def list_receipts(folder: Path) -> list[tuple[int, int]]:
    """Return the (shard, view) pairs that have a receipt, sorted, without opening any."""
    try:
        names = [entry.name for entry in (folder / "receipts").iterdir()]
    except FileNotFoundError:
        return []
    return sorted(key for name in names if (key := _key(name)) is not None)


def receipt_times(folder: Path, *, entered: bool = False) -> dict[tuple[int, int], float]:
    """Return when each receipt was written, in seconds since 1970, by (shard, view).

    For local stores; opens no receipt.

    Args:
        folder: the model's.
        entered: use the time when the file arrived at its path, if later: a copy may keep the original's
            time.
    """
    times = {}
    try:
        with os.scandir(folder / "receipts") as entries:
            for entry in entries:
                if (key := _key(entry.name)) is not None:
                    with suppress(FileNotFoundError):  # removed meanwhile
                        found = entry.stat(follow_symlinks=False)
                        times[key] = max(found.st_mtime, found.st_ctime if entered else 0.0)
    except FileNotFoundError:
        return {}
    return times


def _key(name: str) -> tuple[int, int] | None:
    """Return the (shard, view) of a receipt's file name; None if it is not one."""
    match = _NAME.fullmatch(name)
    key = (int(match[1]), int(match[2])) if match else None
    return key if key is not None and _name(*key) == name else None


def read_receipt(folder: Path, shard: int, view: int) -> Receipt:
    """Read one receipt.

    Raises:
        StoreError: it is missing, malformed or another shard's.
        StorageError: it exists but cannot be read, so the state of the shard is unknown.
    """
    path = receipt_path(folder, shard, view)
    try:
        receipt = Receipt.from_bytes(read_regular(path, size_max=RECEIPT_BYTES_MAX), name=str(path))
    except FileNotFoundError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}; it says that a shard is whole") from error
    if (receipt.shard, receipt.view) != (shard, view):
        raise StoreError(f"{path}: is the receipt of shard {receipt.shard}, view {receipt.view}")
    return receipt


def read_receipts(folder: Path, pairs: list[tuple[int, int]]) -> Iterator[Receipt]:
    """Read several receipts, in the order given."""
    for shard, view in pairs:
        yield read_receipt(folder, shard, view)


def count_failed(folder: Path, shard: int, view: int) -> int:
    """Count the failed videos in a receipt's bytes; tens of times as fast as decoding it.

    Only for display: nothing is checked. In canonical JSON a quote within a text is escaped, so no reason or
    key contains `FAILED_BYTES`.

    Raises:
        FileNotFoundError: the receipt does not exist.
        StorageError: it cannot be read.
    """
    path = f"{folder}/receipts/{_name(shard, view)}"
    try:
        # Do not wait for a pipe in its place, and do not follow a link.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            return file.read().count(FAILED_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
