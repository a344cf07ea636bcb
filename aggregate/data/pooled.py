"""Globally pooled vectors of a store's clips in memory: all that aggregators on pooled maps need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...store import Features, Store
from ..models.base import pool
from .loader import ClipReader, Wanted
from .mix import Mix

_READ_BYTES = 64 << 20  # of maps at a time
_BYTES = 4  # a float32


@dataclass(frozen=True)
class PooledVectors:
    """One model's pooled maps x̄ of some videos, all views and clips.

    Fields:

        values   (videos, views, M, c) float32, NaN if a view is not complete
        slot_of  (rows,) int64, the index of each store row in `values`; −1 for rows not read
    """

    values: Tensor
    slot_of: NDArray[np.int64]


def pooled_bytes(features: Features, videos: int) -> int:
    """Return the bytes that the vectors of this many videos take."""
    return videos * features.views * features.clips * features.map_shape[3] * _BYTES


def pool_maps(
    store: Store,
    features: Features,
    rows: NDArray[np.int64],
    *,
    device: torch.device,
) -> PooledVectors:
    """Read every clip of the videos once and pool it, as the aggregators do.

    `rows` are store rows. Incomplete views are skipped. Raises StoreError if a clip is damaged.
    """
    views, clips, channels = features.views, features.clips, features.map_shape[3]
    values = torch.full((len(rows), views, clips, channels), float("nan"))
    slot_of = np.full(len(store.videos.ids), -1, dtype=np.int64)
    slot_of[rows] = np.arange(len(rows))
    alone = Mix.of_one(features, clips)
    reader = ClipReader(alone, store.videos.labels, reads="maps", pin=device.type == "cuda")
    clip_bytes = 2 * int(np.prod(features.map_shape))
    at_once = max(1, _READ_BYTES // (clips * clip_bytes))
    for view in range(views):
        complete = rows[features.ok[rows, view]]
        for here in _blocks(complete, at_once):
            every = np.broadcast_to(np.arange(clips), (len(here), clips))
            batch = reader.read(here, np.full(len(here), view), every, np.zeros_like(every)).to(device)
            vectors = pool(batch.inputs[features.model], torch.float32).cpu()
            values[torch.from_numpy(slot_of[here]), view] = vectors.view(len(here), clips, channels)
    return PooledVectors(values, slot_of)


class PooledReader(ClipReader):
    """A `ClipReader` whose maps are one position, x̄ itself: pooling them again changes no bit."""

    def __init__(self, mix: Mix, labels: NDArray[np.int32], vectors: dict[str, PooledVectors]) -> None:
        super().__init__(mix, labels, reads="maps", depth=0)
        self.vectors = vectors

    def _read(self, model: str, wanted: Wanted) -> tuple[Tensor, None]:
        """Return a model's clips, by rows, views and clips (n,), as (n, 1, 1, 1, c) float32."""
        rows, views, clips = wanted
        vectors = self.vectors[model]
        taken = vectors.values[tuple(map(torch.from_numpy, (vectors.slot_of[rows], views, clips)))]
        return taken[:, None, None, None, :], None


def free_memory_bytes() -> int:
    """Return the memory available without swapping: the machine's, or what the process's cgroup has left."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    free = 1024 * next(int(line.split()[1]) for line in text.splitlines() if line.startswith("MemAvailable"))
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and used.exists() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    return max(free, 0)


def _blocks(rows: NDArray[np.int64], at_once: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), at_once):
        yield rows[start : start + at_once]
