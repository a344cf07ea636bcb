"""Batches of mixed clips, prefetched from the store's shards."""

from __future__ import annotations

from collections.abc import Generator
from copy import copy
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import UsageError
from ...runtime.threads import prefetch
from ...terminal.text import counted
from ...training.distributed import ALONE, Ranks
from ..models.batch import ClipBatch
from .budgets import draw
from .clip_grid import random_subset, uniform_subset
from .mix import Mix

Batches = Generator[ClipBatch, None, None]
Wanted = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
PREFETCH_BATCHES = 2


class ClipReader:
    """Reads chosen clips of chosen videos into one tensor per model; pinned, for a GPU to copy from.

    At most `depth` batches are prefetched; with 0, each is read when it is requested.
    """

    def __init__(
        self,
        mix: Mix,
        labels: NDArray[np.int32],
        *,
        reads: str,
        pin: bool = False,
        depth: int = PREFETCH_BATCHES,
    ) -> None:
        self.mix, self.labels, self.reads, self.pin, self.depth = mix, labels, reads, pin, depth

    def read(
        self,
        rows: NDArray[np.int64],
        views: NDArray[np.int64],
        clips: NDArray[np.int64],
        model_of: NDArray[np.int64],
    ) -> ClipBatch:
        """Read clips (B, N) of rows (B,) in views (B,), of the models `model_of` (B, N) as in `Mix`."""
        inputs, scales = {}, {}
        row_of = np.empty(clips.shape, dtype=np.int64)
        for index, model in enumerate(self.mix.features):
            mine = model_of == index
            counts = mine.sum(axis=1)
            if not counts.any():
                continue
            row_of[mine] = np.arange(counts.sum())
            wanted = np.repeat(rows, counts), np.repeat(views, counts), clips[mine]
            inputs[model], found = self._read(model, wanted)
            if found is not None:
                scales[model] = found
        return ClipBatch(
            models=tuple(self.mix.features),
            inputs=inputs,
            scales=scales,
            model_of=torch.from_numpy(model_of.copy()),
            row_of=torch.from_numpy(row_of),
            labels=torch.from_numpy(self.labels[rows].astype(np.int64)),
            videos=torch.from_numpy(rows),
        )

    def of(self, mix: Mix) -> Self:
        """Return the same reader for another mixture of the same models."""
        other = copy(self)
        other.mix = mix
        return other

    def _read(self, model: str, wanted: Wanted) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Read a model's clips by rows, views, clips (n,): maps or logits, and the scales of uint8 maps."""
        features = self.mix.features[model]
        if self.reads == "logits":
            logits = torch.from_numpy(features.read_logits(*wanted))
            return logits.pin_memory() if self.pin else logits, None
        dtype = torch.uint8 if features.spec.dtype == "uint8" else torch.float16
        maps = torch.empty((len(wanted[0]), *features.map_shape), dtype=dtype, pin_memory=self.pin)
        stored = features.read_stored(*wanted, out=maps.numpy(), check=True)
        if stored.scales is None or stored.scale_of is None:
            return maps, None
        return maps, (torch.from_numpy(stored.scales), torch.from_numpy(stored.scale_of))


class ReadPlan(NamedTuple):
    """What a step reads: rows (B,), views (B,), clips (B, N), and models (B, N) as in `Mix.model_of`."""

    rows: NDArray[np.int64]
    views: NDArray[np.int64]
    clips: NDArray[np.int64]
    model_of: NDArray[np.int64]


def drawn_clips(mix: Mix, rows: NDArray[np.int64], rng: np.random.Generator) -> ReadPlan:
    """Draw for each video one of its complete views, and N clips in time order.

    If the mix is drawn, draw N and the patterns too.
    """
    views = np.array([rng.choice(np.flatnonzero(mix.whole[row])) for row in rows], dtype=np.int64)
    count, model_of = mix.clips, np.broadcast_to(mix.model_of, (len(rows), mix.clips))
    if mix.drawn:
        count, model_of = draw(mix, len(rows), rng)
    clips = np.stack([random_subset(rng, mix.grid, count) for _ in rows])
    return ReadPlan(rows, views, clips, model_of)


def uniform_clips(mix: Mix, rows: NDArray[np.int64]) -> ReadPlan:
    """Return for each video the centre view, and N clips spread uniformly over it."""
    chosen, _ = uniform_subset(mix.grid, mix.clips)
    clips = np.broadcast_to(chosen, (len(rows), mix.clips))
    return ReadPlan(
        rows, np.zeros(len(rows), dtype=np.int64), clips, np.broadcast_to(mix.model_of, clips.shape)
    )


class TrainLoader:
    """Training batches as a pure function of (seed, epoch, step).

    An epoch takes every video once, in a new order, in batches of nearly equal size, at most `batch_size`.
    For each video it draws one of the complete views, and N of its clips without replacement, in time order
    (FASTER §4). If the mix is drawn, it also draws N for each step and a pattern for each video. With several
    ranks, each reads its part of the same batches.
    Raises UsageError if a batch has fewer videos than there are ranks.
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
        self._split: tuple[int, list[NDArray[np.int64]]] = (-1, [])  # an epoch, and the rows of its steps
        if len(rows) // self.steps_per_epoch < ranks.count:
            raise UsageError(
                f"batches of {counted(len(rows) // self.steps_per_epoch, 'video')} cannot be shared by "
                f"{counted(ranks.count, 'process', 'processes')}; raise --batch-size, or start fewer"
            )

    def rows_of(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the rows (B,) of one step, of all ranks."""
        split = self._split
        if split[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
            self._split = split = epoch, np.array_split(order, self.steps_per_epoch)
        return split[1][step]

    def plan(self, epoch: int, step: int) -> ReadPlan:
        """Return what one step reads, of all ranks."""
        rng = np.random.default_rng([self.seed, epoch, step + 1])  # [seed, epoch, 0] would be [seed, epoch]
        return drawn_clips(self.reader.mix, self.rows_of(epoch, step), rng)

    def batches(self, epoch: int, start_step: int = 0) -> Batches:
        """Yield the epoch's batches from `start_step` on: this rank's part of each."""

        def load(step: int) -> ClipBatch:
            plan = self.plan(epoch, step)
            mine = self.ranks.shard(len(plan.rows))
            return self.reader.read(*(values[mine] for values in plan))

        steps = range(start_step, self.steps_per_epoch)
        return prefetch(map(load, steps), depth=self.reader.depth, name="clips")


def uniform_batches(
    reader: ClipReader, rows: NDArray[np.int64], *, batch_size: int, ranks: Ranks = ALONE
) -> Batches:
    """Yield the videos in order, each with N clips spread uniformly over the centre view (FASTER §4).

    Several ranks share the batches. Each video has the same batch and position as with one rank.
    """

    def load(step: int) -> ClipBatch:
        return reader.read(*uniform_clips(reader.mix, rows[step * batch_size : (step + 1) * batch_size]))

    steps = range(-(-len(rows) // batch_size))
    return prefetch(map(load, steps[ranks.shard(len(steps))]), depth=reader.depth, name="clips")
