"""The progress of an extraction, seen from outside: what is complete, being written, and pending.

It only reads the store, not the jobs. So it works while they write, after they died, and from another
machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError
from ...runtime.atomic import TEMPORARY_SUFFIX
from ...store import Store
from ...store.format.receipts import count_failed, receipt_times
from ...store.io.s3 import require_local
from ...store.read.features import Features

RECENT_SECONDS = 600.0  # a shard whose file changed within this time is being written
RATE_SECONDS = 3600.0  # the rate is that of the last hour in which shards were completed
MEASURED_SECONDS = (
    30.0  # over which it is measured at least: one batch may end several shards at once, in milliseconds
)
AT_ONCE_SHARE = 0.01  # of that time: shards this close to the first one ended together with it
READS_AT_ONCE = 16  # receipts; a network file system answers many requests together


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """The progress of one model's maps, over all views.

    Attributes:
        shards, whole, running: all shards; those with a receipt; those with a recent write.
        lacking: shards without a receipt in some view, ascending.
        videos, videos_whole, videos_failed: counted once per view.
        shards_per_hour: of this model, in the last hour in which its shards were completed; None if it cannot
            be measured, because no two were completed half a minute or more apart.
        seconds_left: at that rate, or at a lower one if the current shards already take longer; None if it is
            not known or nothing is running.
    """

    model: str
    clip_frames: int
    shards: int
    whole: int
    running: int
    lacking: tuple[int, ...]
    videos: int
    videos_whole: int
    videos_failed: int
    shards_per_hour: float | None
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class Status:
    """The result of `faster status`."""

    store: str
    models: tuple[ModelStatus, ...]

    @property
    def complete(self) -> bool:
        """Whether every shard of every model is complete."""
        return all(not model.lacking for model in self.models)

    @property
    def lacking(self) -> tuple[int, ...]:
        """The shards that are missing for some model, ascending."""
        return tuple(sorted({shard for model in self.models for shard in model.lacking}))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**asdict(self), "complete": self.complete}


@dataclass
class Watch:
    """Repeated counts of a store; what does not change is read once."""

    path: str | Path
    _failed: dict[tuple[Path, int, int, float], int] = field(default_factory=dict)

    def look(self) -> Status:
        """Count what the store holds of each model, and what is being written.

        Raises:
            StoreError: it is not a store, holds no model yet, or is on object storage.
        """
        require_local(Path(self.path))
        store = Store(Path(self.path))
        models = store.models
        if not models:
            raise StoreError(f"{store.path}: no model was begun in it; see: faster extract --help")
        members = np.add.reduceat(
            store.videos.exists, range(0, store.videos.rows, store.shard_videos), dtype=np.int64
        )
        return Status(
            store=str(store.path),
            models=tuple(self._of_model(store.features(*key), members) for key in models),
        )

    def _of_model(self, features: Features, members: NDArray[np.int64]) -> ModelStatus:
        shards = {(i, view) for i in np.flatnonzero(members).tolist() for view in range(features.views)}
        put = {key: seconds for key, seconds in receipt_times(features.folder).items() if key in shards}
        pending = shards - put.keys()
        now = time.time()
        in_hand = [
            now - begun
            for begun, written in _being_written(features, pending)
            if now - written < RECENT_SECONDS
        ]
        running = len(in_hand)
        failed = self._count_failed(features, put)
        videos = int(members.sum()) * features.views
        rate = _rate(put.values())
        return ModelStatus(
            model=features.model,
            clip_frames=features.clip_frames,
            shards=len(shards),
            whole=len(put),
            running=running,
            lacking=tuple(sorted({shard for shard, _ in pending})),
            videos=videos,
            videos_whole=videos - int(sum(members[shard] for shard, _ in pending)) - failed,
            videos_failed=failed,
            shards_per_hour=rate,
            seconds_left=_left(len(pending), rate, in_hand) if rate and running else None,
        )

    def _count_failed(self, features: Features, put: Mapping[tuple[int, int], float]) -> int:
        """Count the failed videos of complete shards. Each receipt that is not consolidated is read once."""
        failed, known = features.consolidated_failures()
        folder = features.folder
        unread = [
            (shard, view, seconds)
            for (shard, view), seconds in put.items()
            if not known[shard, view] and (folder, shard, view, seconds) not in self._failed
        ]

        def count(part: Sequence[tuple[int, int, float]]) -> None:
            for shard, view, seconds in part:
                with suppress(FileNotFoundError):  # removed meanwhile
                    self._failed[folder, shard, view, seconds] = count_failed(folder, shard, view)

        with ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="receipts") as pool:
            list(pool.map(count, [unread[i::READS_AT_ONCE] for i in range(READS_AT_ONCE)]))
        read = sum(
            self._failed.get((folder, shard, view, seconds), 0)
            for (shard, view), seconds in put.items()
            if not known[shard, view]
        )
        return read + int(failed[known].sum())


def begun(path: Path) -> bool:
    """Whether an extraction has begun the store: it has a model and a list of videos."""
    require_local(path)
    return any(path.glob("features/*/L*/zarr.json")) and any(path.glob("manifest/*.json"))


def status(path: str | Path) -> Status:
    """Count what a store holds of each model, and what is being written.

    Raises:
        StoreError: it is not a store, holds no model yet, or is on object storage.
    """
    return Watch(path).look()


def _rate(times: Iterable[float]) -> float | None:
    """Return the shards per hour of the last hour.

    The shards that ended after the first are divided by the time from the first to the last.
    """
    seconds = sorted(times)
    recent = [value for value in seconds if value > seconds[-1] - RATE_SECONDS] if seconds else []
    measured = recent[-1] - recent[0] if recent else 0.0
    if measured < MEASURED_SECONDS:
        return None
    later = sum(value > recent[0] + AT_ONCE_SHARE * measured for value in recent)
    return later / measured * 3600


def _left(shards: int, rate: float, in_hand: Sequence[float]) -> float:
    """Return the seconds for `shards` shards at `rate` per hour, or at the current shards' rate if lower.

    `in_hand` holds the seconds since each current shard was begun.
    """
    slowest = max(in_hand)
    return shards * max(3600 / rate, slowest / len(in_hand))


def _being_written(features: Features, pending: set[tuple[int, int]]) -> Iterator[tuple[float, float]]:
    """Yield when each shard's temporary file was made and last written, for shards that have a folder."""
    folder = features.folder / "maps" / "c"
    begun = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    for shard, view in pending:
        if str(shard) not in begun:
            continue
        files = (folder / str(shard) / str(view)).rglob(f".*{TEMPORARY_SUFFIX}")
        # A folder changes when a file is made in it: at the latest when the current file was made.
        times = [(_seconds(file.parent), _seconds(file)) for file in files]
        if times:
            yield max(times, key=lambda of_file: of_file[1])


def _seconds(file: Path) -> float:
    """Return when a file was last written; 0 if it is gone."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
