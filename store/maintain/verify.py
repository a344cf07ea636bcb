"""Verify every byte of a store against its receipts, and remove bad shards."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import StoreError
from ...runtime.atomic import TEMPORARY_SUFFIX, storage_errors
from ...runtime.fan_out import map_units
from ...terminal.progress_bars import tqdm
from ...terminal.text import counted
from ..format.receipts import list_receipts, read_receipt, receipt_path
from ..format.schema import arrays_metadata, shard_keys
from ..io.s3 import require_verifiable
from ..io.safe_open import METADATA_BYTES_MAX, open_regular, read_regular, require_inside
from ..read.coverage import index_holds
from ..read.features import Features
from ..read.store import Store
from ..write.create import fit_arrays
from ..write.removal import list_tombstones, remove_file, remove_shards
from .remake import Makers, remaking_commands

# Errors that mean that a shard's file is missing or unreadable; after other errors its state is unknown.
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


@dataclass(frozen=True, kw_only=True)
class BadShard:
    """A shard that fails verification, and why."""

    model: str
    clip_frames: int
    shard: int
    view: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of `verify`.

    Attributes:
        shards, size_bytes: receipts and bytes that were read.
        bad: shards that fail verification.
        descriptions: changed array metadata, `trained_on.json` or classifier, or an index that differs from
            the receipts. Repair derives the metadata and the index again and removes the others; the commands
            in `remake` write these again.
        leftovers: temporary files, and data without a receipt, relative to the store; readers ignore them.
        remake: the commands that make the bad parts again after their removal, as far as the store records
            them.
        repaired: whether all of these were repaired or removed.
    """

    shards: int
    size_bytes: int
    bad: tuple[BadShard, ...]
    descriptions: tuple[str, ...]
    leftovers: tuple[str, ...]
    remake: tuple[str, ...]
    repaired: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class _Task:
    folder: Path
    model: str
    clip_frames: int
    shard: int
    view: int
    fingerprint: str
    ids: tuple[str, ...]
    rows: tuple[int, ...]
    keys: tuple[str, ...]


def verify(
    path: str | Path,
    *,
    repair: bool = False,
    processes: int | None = None,
    cluster: str | None = None,
    progress: bool = True,
    makers: Makers | None = None,
) -> Verification:
    """Verify every receipt and every byte of its files; with `repair`, remove exactly the bad parts.

    Args:
        path: the store. With `repair`, no extraction may be writing to it.
        repair: remove bad shards and leftovers, and rewrite the derived arrays.
        processes: number of worker processes; one per core by default.
        cluster: use dask workers instead, see `dask_cluster.connect`.
        progress: show a progress bar.
        makers: build the commands in `remake`; without it, there are none.

    Raises:
        UsageError: the store is on object storage.
        StoreError: the store itself cannot be read: its metadata or manifest is damaged.
        StorageError: the disk failed, or permission to read a file is denied.
        Interrupted: SIGTERM, SIGUSR1 or SIGUSR2, or a process died; nothing was removed.
    """
    require_verifiable(Path(path))
    store = Store(Path(path))
    for receipts in store.path.glob("features/*/L*/receipts"):
        if not (receipts.parent / "zarr.json").is_file():
            raise StoreError(
                f"{receipts.parent}/zarr.json is missing, and what its shards are stands there; the faster "
                "extract command that made them writes it again (nothing was removed)"
            )
    models = [store.features(*key) for key in store.models]
    tasks = [task for features in models for task in _tasks(store, features)]
    bad, size_bytes = [], 0
    with tqdm(total=len(tasks), desc="verify", unit="shard", disable=not progress) as bar:
        checked = map_units(
            _check,
            tasks,
            workers=processes,
            what_is_kept="nothing was removed",
            cluster=cluster,
            on_done=bar.update,
        )
    for task, (reason, size) in zip(tasks, checked, strict=True):
        size_bytes += size
        if reason:
            bad.append(
                BadShard(
                    model=task.model,
                    clip_frames=task.clip_frames,
                    shard=task.shard,
                    view=task.view,
                    reason=reason,
                )
            )
    leftovers = sorted(_leftovers(store, models))
    descriptions = [
        str(file.relative_to(store.path)) for features in models for file in _altered(store, features)
    ]
    descriptions += [str(file.relative_to(store.path)) for file in _stale_indexes(store, models, bad)]
    if repair:
        with storage_errors(store.path):
            for name in descriptions:  # before `remove_shards`, which consolidates
                if name.endswith("/head"):  # completely: one array of a classifier has no use
                    shutil.rmtree(store.path / name)
                else:
                    remove_file(store.path / name, store.path)
        remove_shards(store, [(b.model, b.clip_frames, b.shard, b.view) for b in bad])
        with storage_errors(store.path):
            for name in leftovers:
                remove_file(store.path / name, store.path)
        for features in models:
            fit_arrays(store.path, features.spec, store.videos, store.shard_videos)
    return Verification(
        shards=len(tasks),
        size_bytes=size_bytes,
        bad=tuple(bad),
        descriptions=tuple(descriptions),
        leftovers=tuple(leftovers),
        remake=()
        if makers is None
        else remaking_commands(store, _to_remake(models, bad, descriptions), makers),
        repaired=repair,
    )


def _to_remake(
    models: list[Features], bad: list[BadShard], descriptions: list[str]
) -> Iterator[tuple[str, int]]:
    """Yield the models from which repair removes something that cannot be derived."""
    yield from ((shard.model, shard.clip_frames) for shard in bad)
    for features in models:
        lost = {f"{features.spec.folder}/{name}" for name in ("head", "trained_on.json")}
        if not lost.isdisjoint(descriptions):
            yield features.model, features.clip_frames


def _altered(store: Store, features: Features) -> Iterator[Path]:
    """Yield changed files outside shards: array metadata, `trained_on.json`, classifier."""
    for name, metadata in arrays_metadata(store.videos.rows, store.shard_videos, features.spec).items():
        file = features.folder / name / "zarr.json"
        if _sha256(file) != hashlib.sha256(metadata).hexdigest():
            yield file
    try:
        _ = features.trained_on
    except StoreError:
        yield features.folder / "trained_on.json"
    head = features.folder / "head"
    require_inside(head, store.path)
    if head.exists():
        digests = features.provenance.get("head_sha256")
        known = digests if isinstance(digests, dict) else {}
        if any(_sha256(head / str(name)) != sha256 for name, sha256 in known.items()):
            yield head


def _stale_indexes(store: Store, models: list[Features], bad: list[BadShard]) -> Iterator[Path]:
    """Yield the attributes of every index that differs from the valid receipts."""
    broken = {(shard.model, shard.clip_frames, shard.shard, shard.view) for shard in bad}
    for features in models:
        valid = [
            (shard, view)
            for shard, view in list_receipts(features.folder)
            if (features.model, features.clip_frames, shard, view) not in broken
        ]
        if not index_holds(
            features.folder, features.spec, videos=store.videos, shard_videos=store.shard_videos, whole=valid
        ):
            yield features.folder / "index" / "zarr.json"


def _sha256(file: Path) -> str | None:
    """Return the SHA-256 of a small file; None if it is missing, a link, or large."""
    try:
        return hashlib.sha256(read_regular(file, size_max=METADATA_BYTES_MAX)).hexdigest()
    except (OSError, StoreError):
        return None


def _tasks(store: Store, features: Features) -> Iterator[_Task]:
    ids, size = store.videos.ids, store.shard_videos
    for name in ("receipts", "maps/c", "scales/c", "logits/c"):
        require_inside(features.folder / name, store.path)
    for shard, view in list_receipts(features.folder):
        if shard * size >= len(ids) or view >= features.views:
            raise StoreError(
                f"{receipt_path(features.folder, shard, view)}: a shard beyond the manifest's "
                f"{counted(len(ids), 'row')}: a file of "
                f"{store.path / 'manifest'} is missing; restore it (nothing was removed)"
            )
        keys = shard_keys(features.spec, shard, view)
        here = range(shard * size, min((shard + 1) * size, len(ids)))
        yield _Task(
            folder=features.folder.absolute(),  # dask workers may have another working directory
            model=features.model,
            clip_frames=features.clip_frames,
            shard=shard,
            view=view,
            fingerprint=features.spec.fingerprint,
            ids=tuple(ids[here.start : here.stop]),
            rows=tuple(row for row in here if ids[row]),
            keys=tuple(keys),
        )


def _check(task: _Task) -> tuple[str, int]:
    """Return why a shard fails verification, "" if it does not, and the number of bytes read."""
    size_bytes = 0
    try:
        receipt = read_receipt(task.folder, task.shard, task.view)
    except StoreError as error:
        return str(error), 0
    if why := receipt.misfit(task.fingerprint, task.ids):
        return why, 0
    if tuple(entry.row for entry in receipt.videos) != task.rows:
        return "its receipt speaks of other videos than the manifest", 0
    if tuple(stored.key for stored in receipt.objects) != task.keys:
        return "its receipt names other files than a shard has", 0
    for stored in receipt.objects:
        try:
            with open_regular(task.folder / stored.key) as file:
                size = os.fstat(file.fileno()).st_size
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            if error.errno not in _DAMAGE:
                with storage_errors(task.folder / stored.key):
                    raise
            return f"{stored.key}: {error.strerror}", size_bytes
        except StoreError as error:
            return str(error), size_bytes
        size_bytes += size
        if size != stored.size_bytes:
            return f"{stored.key}: {size} bytes, its receipt says {stored.size_bytes}", size_bytes
        if sha256 != stored.sha256:
            return f"{stored.key}: its bytes are not those that were written", size_bytes
    return "", size_bytes


def _leftovers(store: Store, models: list[Features]) -> Iterator[str]:
    """Yield temporary files of killed runs, and files of shards without a receipt."""
    for file in store.path.rglob(f".*{TEMPORARY_SUFFIX}"):
        if file.is_symlink() or file.is_file():
            yield str(file.relative_to(store.path))
    for features in models:
        yield from (str(file.relative_to(store.path)) for file in list_tombstones(features.folder))
        complete = set(list_receipts(features.folder))
        for name in ("maps", "scales", "logits"):
            for file in (features.folder / name / "c").rglob("*"):
                parts = file.relative_to(features.folder / name / "c").parts
                if not (file.is_symlink() or file.is_file()) or file.name.endswith(TEMPORARY_SUFFIX):
                    continue
                numbers = [int(part) if part.isdecimal() else -1 for part in parts[:2]]
                if tuple(numbers) not in complete:
                    yield str(file.relative_to(store.path))
