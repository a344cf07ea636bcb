"""Batches of mixed clips, read straight from the store's shards ahead of the step that needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UsageError
from ..ranks import ALONE, Ranks
from ..store.grid import random_subset, uniform_subset
from .batch import ClipBatch
from .selection import Mix

Batches = Generator[ClipBatch, None, None]
PREFETCH_BATCHES = 2


class ClipReader:
    """Reads chosen clips of chosen videos into one tensor a model; pinned, for a GPU to copy from.

    `threads` read batches ahead of the step that needs them; with 0 each is read when it is asked for.
    """

    def __init__(
        self, mix: Mix, labels: NDArray[np.int32], *, reads: str, pin: bool = False, threads: int = 1
    ) -> None:
        self.mix, self.labels, self.reads, self.pin, self.threads = mix, labels, reads, pin, threads

    def read(self, rows: NDArray[np.int64], views: NDArray[np.int64], clips: NDArray[np.int64]) -> ClipBatch:
        """Clips (B, N) of rows (B,) in views (B,): the mix says which model gives each time."""
        inputs, scales = {}, {}
        model_of = np.broadcast_to(self.mix.model_of, clips.shape)
        row_of = np.empty(clips.shape, dtype=np.int64)
        for index, (model, features) in enumerate(self.mix.features.items()):
            times = self.mix.model_of == index
            count = int(times.sum())
            row_of[:, times] = np.arange(len(rows) * count).reshape(len(rows), count)
            wanted = np.repeat(rows, count), np.repeat(views, count), clips[:, times].reshape(-1)
            if self.reads == "logits":
                tensor = torch.from_numpy(features.read_logits(*wanted))
                inputs[model] = tensor.pin_memory() if self.pin else tensor
            else:
                shape = (len(rows) * count, *features.map_shape)
                dtype = torch.uint8 if features.spec.dtype == "uint8" else torch.float16
                inputs[model] = torch.empty(shape, dtype=dtype, pin_memory=self.pin)
                stored = features.read_stored(*wanted, out=inputs[model].numpy(), check=True)
                if stored.scales is not None and stored.scale_of is not None:
                    scales[model] = torch.from_numpy(stored.scales), torch.from_numpy(stored.scale_of)
        return ClipBatch(
            models=tuple(self.mix.features),
            inputs=inputs,
            scales=scales,
            model_of=torch.from_numpy(model_of.copy()),
            row_of=torch.from_numpy(row_of),
            labels=torch.from_numpy(self.labels[rows].astype(np.int64)),
            videos=torch.from_numpy(rows),
        )


class TrainLoader:
    """Training batches as a pure function of (seed, epoch, step).

    An epoch takes every video once, in a new order, in batches as equal as can be, none larger than
    `batch_size`. Of each video it draws one of the views that are whole, and N clips of it without
    replacement, in time order (FASTER §4). Of several ranks each reads its part of the same batches.

    Raises UsageError where a batch has fewer videos than there are ranks.
    """

    def __init__(
        self,
        reader: ClipReader,
        rows: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.reader, self.rows, self.seed, self.ranks = reader, rows, seed, ranks
        self.steps_per_epoch = -(-len(rows) // batch_size)
        self._split: tuple[int, list[NDArray[np.int64]]] = (-1, [])  # an epoch, and its steps' rows
        if len(rows) // self.steps_per_epoch < ranks.count:
            raise UsageError(
                f"batches of {len(rows) // self.steps_per_epoch} videos cannot be shared by {ranks.count} processes; "
                "raise --batch-size, or start fewer"
            )

    def rows_of(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Rows (B,) of one step, of all ranks."""
        split = self._split
        if split[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
            self._split = split = epoch, np.array_split(order, self.steps_per_epoch)
        return split[1][step]

    def plan(self, epoch: int, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Rows (B,), views (B,) and clips (B, N) of one step, of all ranks."""
        rows = self.rows_of(epoch, step)
        rng = np.random.default_rng([self.seed, epoch, step + 1])  # [seed, epoch, 0] would be [seed, epoch]
        mix = self.reader.mix
        views = np.array([rng.choice(np.flatnonzero(mix.whole[row])) for row in rows], dtype=np.int64)
        clips = np.stack([random_subset(rng, mix.grid, mix.clips) for _ in rows])
        return rows, views, clips

    def batches(self, epoch: int, start_step: int = 0) -> Batches:
        """The epoch's batches from `start_step` on: this rank's part of each."""

        def load(step: int) -> ClipBatch:
            rows, views, clips = self.plan(epoch, step)
            mine = self.ranks.part(len(rows))
            return self.reader.read(rows[mine], views[mine], clips[mine])

        return _prefetched(load, range(start_step, self.steps_per_epoch), self.reader.threads)


def uniform_batches(reader: ClipReader, rows: NDArray[np.int64], *, batch_size: int) -> Batches:
    """The videos in order, each with its N clips spread uniformly over the centre view (FASTER §4)."""
    mix = reader.mix
    chosen, _ = uniform_subset(mix.grid, mix.clips)

    def load(step: int) -> ClipBatch:
        here = rows[step * batch_size : (step + 1) * batch_size]
        clips = np.broadcast_to(chosen, (len(here), mix.clips))
        return reader.read(here, np.zeros(len(here), dtype=np.int64), clips)

    return _prefetched(load, range(-(-len(rows) // batch_size)), reader.threads)


def _prefetched(load: Callable[[int], ClipBatch], steps: range, threads: int) -> Batches:
    """`load(step)` for each step, read by threads up to two ahead; closing the iterator ends them."""
    if not threads:
        yield from map(load, steps)
        return
    pending: deque[Future[ClipBatch]] = deque()
    ahead = iter(steps)
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="clips") as pool:
        try:
            pending.extend(pool.submit(load, step) for step in islice(ahead, PREFETCH_BATCHES))
            while pending:
                batch = pending.popleft().result()
                pending.extend(pool.submit(load, step) for step in islice(ahead, 1))
                yield batch
        finally:
            for future in pending:
                future.cancel()
