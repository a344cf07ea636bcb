"""Convert a store's maps to another encoding: float16 to uint8, and with or without zstd."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ProvenanceMismatch, StoreError, UsageError
from ...runtime.atomic import put_if_absent, storage_errors
from ...runtime.fan_out import map_units
from ...runtime.signals import interruptible
from ...terminal.progress_bars import tqdm
from ...terminal.suggest import did_you_mean
from ..format import manifest as manifests
from ..format.receipts import (
    RECEIPT_BYTES_MAX,
    Receipt,
    list_receipts,
    read_receipt,
    read_receipts,
    receipt_path,
)
from ..format.schema import logits_key
from ..format.spec import FeatureSpec
from ..io.safe_open import read_regular
from ..options import EncodingOptions
from ..read.classifier import read_head
from ..read.features import Features
from ..read.store import Store
from ..write import create as writer
from ..write.finalise import finalise
from ..write.removal import finish_removals, remove_shards
from ..write.shard_writer import ShardWriter

KEPT = "whole shards are kept"


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The result of a run of `convert`.

    Attributes:
        models: (name, clip frames) of the converted maps.
        shards, already_whole: written in this run; already in the new store.
        removed: removed from the new store, because they were rewritten in the source since.
        videos: in the written shards, complete or failed, counted per model.
        read_bytes, written_bytes: of these shards' files.
    """

    store: str
    models: tuple[tuple[str, int], ...]
    shards: int
    already_whole: int
    removed: int
    videos: int
    read_bytes: int
    written_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class _Task:
    source: Path
    target: Path
    model: str
    clip_frames: int
    shard: int
    view: int


def convert(
    source: str | Path,
    target: str | Path,
    *,
    dtype: str = "float16",
    codec: str = "none",
    models: Sequence[str] = (),
    processes: int | None = None,
    progress: bool = True,
) -> Conversion:
    """Write a store's maps in another encoding into a new store, with all other data of the store.

    Every clip is verified as it is read. Complete shards in the new store are skipped, so an interrupted
    conversion continues, and a later run adds the shards that an extraction has written since. Shards that
    were rewritten in the source are converted again; if there are any, no other process may be writing the
    new store.

    Args:
        source: the store; only its complete shards are converted.
        target: the new store, or one that an earlier run of this function began.
        dtype: of the new maps, "float16" or "uint8".
        codec: of the new maps, "none" or "zstd".
        models: names of the models to convert; empty means all.
        processes: number of worker processes; one per core by default.
        progress: show a progress bar.

    Raises:
        UsageError: no such dtype, codec or model, or the target is the source or lies inside it.
        ProvenanceMismatch: the new store holds other videos, or maps made otherwise.
        StoreError: the maps are uint8 already, have values below zero with `dtype="uint8"`, or are damaged.
        StorageError: the disk failed.
        Interrupted: SIGTERM, SIGUSR1 or SIGUSR2; complete shards are kept.
    """
    source, target = Path(source), Path(target)
    EncodingOptions(dtype=dtype, codec=codec)  # refuses bad values
    if source.resolve() in (target.resolve(), *target.resolve().parents):
        raise UsageError(f"{target} lies in the store that is to be converted; name another place")
    store = Store(source)
    writer.require_writable(target, "NEW")
    chosen = [store.features(*key) for key in _choose(store, models)]
    for features in chosen:
        _require_float16(features)
    specs = [replace(features.spec, dtype=dtype, codec=codec) for features in chosen]
    with interruptible(KEPT):
        _declare(store, target, chosen, specs)
        new = Store(target)
        finish_removals(new)
        stale = [shard for features in chosen for shard in _stale(features, new)]
        if stale:
            remove_shards(new, stale)
        tasks, already_whole = [], 0
        for features in chosen:
            complete = set(list_receipts(new.features(features.model, features.clip_frames).folder))
            for shard, view in list_receipts(features.folder):
                if shard * new.shard_videos >= new.videos.rows:
                    continue  # of a segment that was added meanwhile
                if (shard, view) in complete:
                    already_whole += 1
                    continue
                tasks.append(
                    _Task(
                        source=source,
                        target=target,
                        model=features.model,
                        clip_frames=features.clip_frames,
                        shard=shard,
                        view=view,
                    )
                )
        done = _run(tasks, processes, progress)
        finalise(Store(target))
    return Conversion(
        store=str(target),
        models=tuple((spec.model, spec.clip_frames) for spec in specs),
        shards=len(done),
        already_whole=already_whole,
        removed=len(stale),
        videos=sum(videos for videos, _, _ in done),
        read_bytes=sum(read for _, read, _ in done),
        written_bytes=sum(written for _, _, written in done),
    )


def _choose(store: Store, models: Sequence[str]) -> list[tuple[str, int]]:
    known = {name for name, _ in store.models}
    unknown = [name for name in models if name not in known]
    if unknown:
        raise UsageError(
            f"{store.path} has no maps of {unknown[0]}; it has: {', '.join(sorted(known)) or 'none'}"
            f"{did_you_mean(unknown[0], known)}"
        )
    return [key for key in store.models if not models or key[0] in models]


def _require_float16(features: Features) -> None:
    """Refuse uint8 maps: their error cannot be undone, and float16 maps made from them would look exact."""
    if features.spec.dtype != "float16":
        raise StoreError(
            f"{features.store.path}: the maps of {features.model} are {features.spec.dtype} already, and "
            "only float16 ones can be converted; start from the float16 store, or extract again"
        )


def _declare(store: Store, target: Path, chosen: Sequence[Features], specs: Sequence[FeatureSpec]) -> None:
    """Create or join the new store: its videos, and every model's arrays and provenance."""
    videos = store.videos  # read once: a segment that is added later waits for the next run
    shard_videos = writer.create(target, shard_videos=store.shard_videos).shard_videos
    for number in range(len(videos.segments)):
        name = f"manifest/{number:06d}.json"
        put_if_absent(target / name, (store.path / name).read_bytes())
    manifest = manifests.load(target)
    if shard_videos != store.shard_videos or manifest.segments != videos.segments:
        raise ProvenanceMismatch(f"{target} holds other videos than {store.path}; convert into another store")
    for features, spec in zip(chosen, specs, strict=True):
        writer.declare(
            target,
            spec,
            recorded={**features.provenance, "converted_from": features.spec.fingerprint},
            trained_on=features.trained_on,
            head=read_head(features),
        )
        writer.fit_arrays(target, spec, manifest, shard_videos)


def _stale(features: Features, new: Store) -> Iterator[tuple[str, int, int, int]]:
    """Yield the new store's shards whose source shard has changed; extracted shards have no source.

    If the source's shard no longer exists, the converted one may be the last good copy, and stays.

    A source shard that cannot be converted is refused here, before its converted shard is removed.
    """
    folder = new.features(features.model, features.clip_frames).folder
    for receipt in read_receipts(folder, list_receipts(folder)):
        found = _source(features, receipt.shard, receipt.view)
        if not found or receipt.source in ("", found):
            continue
        _require_sound(features, read_receipt(features.folder, receipt.shard, receipt.view))
        yield features.model, features.clip_frames, receipt.shard, receipt.view


def _source(features: Features, shard: int, view: int) -> str:
    """Return the SHA-256 of a shard's receipt, "" if it has none."""
    path = receipt_path(features.folder, shard, view)
    with storage_errors(path):
        try:
            data = read_regular(path, size_max=RECEIPT_BYTES_MAX)
        except FileNotFoundError:
            return ""
    return hashlib.sha256(data).hexdigest()


def _run(tasks: Sequence[_Task], processes: int | None, progress: bool) -> list[tuple[int, int, int]]:
    """Convert the shards in parallel; the first error ends the run after the shards in progress."""
    _features.cache_clear()  # may hold stores of an earlier run in this process
    with tqdm(total=len(tasks), desc="convert", unit="shard", disable=not (progress and tasks)) as bar:
        return map_units(_convert_shard, tasks, workers=processes, what_is_kept=KEPT, on_done=bar.update)


@cache
def _features(path: Path, model: str, clip_frames: int) -> Features:
    """Open once per process, to read a manifest of 240,000 videos only once."""
    return Store(path).features(model, clip_frames)


def _convert_shard(task: _Task) -> tuple[int, int, int]:
    """Convert a shard; return its number of videos and its files' bytes before and after."""
    features = _features(task.source, task.model, task.clip_frames)
    target = _features(task.target, task.model, task.clip_frames)
    # Read the digest before the content: if the receipt is replaced in between, the next run notices.
    of = _source(features, task.shard, task.view)
    receipt = read_receipt(features.folder, task.shard, task.view)
    _require_sound(features, receipt)
    rows = [entry.row for entry in receipt.videos if entry.ok]
    clips = np.arange(features.clips)
    logits = {}
    if features.num_classes:
        every = features.read_logits(np.repeat(rows, len(clips)), task.view, np.tile(clips, len(rows)))
        logits = dict(zip(rows, every.reshape(len(rows), len(clips), features.num_classes), strict=True))
    with ShardWriter(
        target.store.path,
        target.spec,
        manifest=target.store.videos,
        shard=task.shard,
        view=task.view,
        shard_videos=target.store.shard_videos,
    ) as shard_writer:
        for entry in receipt.videos:
            if entry.facts is None:
                shard_writer.fail(entry.row, entry.reason)
                continue
            maps = features.read_maps(entry.row, task.view, clips)
            shard_writer.add(entry.row, maps, logits.get(entry.row), entry.facts)
        written = shard_writer.commit(source=of)
    features.close()
    sizes = [sum(stored.size_bytes for stored in r.objects) for r in (receipt, written)]
    return len(receipt.videos), sizes[0], sizes[1]


def _require_sound(features: Features, receipt: Receipt) -> None:
    """Check the receipt and the logits, which the new receipt confirms; maps are verified clip by clip."""
    store, first = features.store, receipt.shard * features.store.shard_videos
    ids = store.videos.ids[first : first + store.shard_videos]
    fix = f"run: faster verify {store.path} --repair"
    if why := receipt.misfit(features.spec.fingerprint, ids):
        raise StoreError(f"{features.folder}, shard {receipt.shard}: {why}; {fix}")
    key = logits_key(receipt.shard, receipt.view)
    for stored in receipt.objects:
        if stored.key == key:
            try:
                data = read_regular(features.folder / key, size_max=stored.size_bytes)
            except OSError as error:
                raise StoreError(f"{features.folder / key}: {error.strerror}; {fix}") from error
            if hashlib.sha256(data).hexdigest() != stored.sha256:
                raise StoreError(f"{features.folder / key}: its bytes are not those that were written; {fix}")
