"""How far an extraction is, from the outside: what its store holds, what is being written, and what is left.

Nothing is asked of the jobs themselves, so it works while they write, after they died, and from another machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StoreError
from ..store import Store
from ..store.commit import TEMPORARY_SUFFIX
from ..store.features import Features
from ..store.receipts import count_failed, list_receipts, receipt_path
from ..store.remote import require_local

RECENT_SECONDS = 600.0  # a shard whose file was written to since then is being written
RATE_SECONDS = 3600.0  # the rate is that of the last hour in which shards became whole


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """One model's maps, all views.

    Attributes:
        shards, whole, running: shards in all; those with a receipt; those that something was written to just now.
        lacking: the shards that have no receipt in some view, ascending.
        videos, videos_whole, videos_failed: counted once a view.
        shards_per_hour: of the last hour in which shards became whole; None where less than two did.
        seconds_left: at that rate; None where it is not known, or nothing is running.
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
    """What `faster status` shows."""

    store: str
    models: tuple[ModelStatus, ...]

    @property
    def complete(self) -> bool:
        """Whether every shard of every model is whole."""
        return all(not model.lacking for model in self.models)

    @property
    def lacking(self) -> tuple[int, ...]:
        """The shards that some model lacks, ascending."""
        return tuple(sorted({shard for model in self.models for shard in model.lacking}))

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "complete": self.complete}


def status(path: str | Path) -> Status:
    """Count what a store holds of each model that was begun, and what is being written.

    Raises:
        StoreError: it is no store, holds no model yet, or lies on object storage.
    """
    require_local(Path(path))
    store = Store(Path(path))
    models = store.models
    if not models:
        raise StoreError(f"{store.path}: no model was begun in it; see: faster extract --help")
    return Status(store=str(store.path), models=tuple(_of_model(store, *key) for key in models))


def _of_model(store: Store, model: str, clip_frames: int) -> ModelStatus:
    features = store.features(model, clip_frames)
    size, views = store.shard_videos, features.views
    members = np.add.reduceat(store.videos.exists, range(0, store.videos.rows, size), dtype=np.int64)
    shards = {(shard, view) for shard in np.flatnonzero(members).tolist() for view in range(views)}
    whole = shards.intersection(list_receipts(features.folder))
    lacking = shards - whole
    now = time.time()
    running = sum(now - seconds < RECENT_SECONDS for seconds in _being_written(features, lacking))
    failed = sum(count_failed(features.folder, shard, view) for shard, view in whole)
    done = int(sum(members[shard] for shard, _ in whole))
    rate = _rate(_seconds(receipt_path(features.folder, *key)) for key in whole)
    return ModelStatus(
        model=model,
        clip_frames=clip_frames,
        shards=len(shards),
        whole=len(whole),
        running=running,
        lacking=tuple(sorted({shard for shard, _ in lacking})),
        videos=int(members.sum()) * views,
        videos_whole=done - failed,
        videos_failed=failed,
        shards_per_hour=rate,
        seconds_left=len(lacking) / rate * 3600 if rate and running else None,
    )


def _rate(times: Iterator[float]) -> float | None:
    """Shards an hour: those of the last hour, over the time from the first to the last of them."""
    seconds = sorted(times)
    recent = [value for value in seconds if value > seconds[-1] - RATE_SECONDS] if seconds else []
    if len(recent) < 2 or recent[0] == recent[-1]:
        return None
    return (len(recent) - 1) / (recent[-1] - recent[0]) * 3600


def _being_written(features: Features, lacking: set[tuple[int, int]]) -> Iterator[float]:
    """When each shard's temporary file was last written to; of only those shards that have a folder yet."""
    folder = features.folder / "maps" / "c"
    begun = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    for shard, view in lacking:
        if str(shard) not in begun:
            continue
        files = (folder / str(shard) / str(view)).rglob(f".*{TEMPORARY_SUFFIX}")
        times = [_seconds(file) for file in files]
        if times:
            yield max(times)


def _seconds(file: Path) -> float:
    """When a file was last written to; 0 where it is gone meanwhile."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
