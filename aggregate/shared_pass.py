"""Several aggregators trained from one stream of batches, each as `training.fit` would train it alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import BestEpoch, load_last
from ..errors import RunError
from ..ranks import ALONE
from ..run_folder import open_run
from ..run_log import Log
from ..stopping import stop_requests
from ..training import TrainingOptions, TrainingRun, interruption, make_optimizer, run_config
from .task import AggregatorTask, WeighedBatch

SAVE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One of those that train together: its task, its run folder, and what beside the options decides the run."""

    task: AggregatorTask
    run_dir: Path
    config: Mapping[str, Any]


def fit_together(entries: Sequence[Entry], options: TrainingOptions) -> list[BestEpoch | RunError]:
    """Train all entries step by step in turn, each batch read once, and return each one's best epoch.

    All tasks must give the same batches. The folders end with the same bytes as `training.fit` alone would
    leave, and are resumed in the same way: entries behind the others catch up first. Where they stand is saved
    when they are stopped, and at ends of epochs a minute apart: after short epochs it would take most of the
    time. An entry whose loss or gradient is not finite ends with that RunError in its place; the others go on.

    Raises as `training.fit` does for what concerns all of them: StorageError, Interrupted, KeyboardInterrupt,
    and RunError for a folder that was begun with another config or cannot be resumed from.
    """
    device = torch.device(options.device)
    cuda = [device] if device.type == "cuda" else []
    outcomes: dict[int, BestEpoch | RunError] = {}
    with torch.random.fork_rng(devices=cuda), ExitStack() as stack:
        stream = _Stream(entries[0].task, device)
        stack.callback(stream.close)
        stop = stack.enter_context(stop_requests())
        runs: dict[int, TrainingRun] = {}
        logs: dict[int, Log] = {}
        saved = time.monotonic()
        for index, entry in enumerate(entries):
            runs[index] = _begin(entry, options, stream)
            logs[index] = stack.enter_context(runs[index].log())
        while True:
            for index in [index for index, run in runs.items() if run.finished]:
                best = runs.pop(index).state.best
                assert best is not None  # every epoch that ends has one
                outcomes[index] = best
            if not runs:
                return [outcomes[index] for index in range(len(entries))]
            place = min(_place(run) for run in runs.values())
            due = time.monotonic() - saved > SAVE_SECONDS
            for index, run in list(runs.items()):
                if _place(run) != place:
                    continue
                try:
                    _advance(run, logs[index])
                    if run.finished or (due and run.state.step == 0):
                        run.save()
                        saved = time.monotonic()
                except RunError as error:
                    del runs[index]
                    outcomes[index] = error
            if stop.asked:
                for run in runs.values():
                    run.save()
                if runs:
                    last = next(reversed(runs.values()))
                    raise interruption(stop.asked, last.run_dir, last.state)


def _begin(entry: Entry, options: TrainingOptions, stream: _Stream) -> TrainingRun:
    model = entry.task.model.to(torch.device(options.device))
    optimizer = make_optimizer(model, options)
    open_run(entry.run_dir, run_config(options, entry.config))
    standing = load_last(entry.run_dir, model, optimizer)
    task = _SharingTask(entry.task, stream)
    return TrainingRun(task, model, optimizer, options, entry.run_dir, standing, ALONE)


def _place(run: TrainingRun) -> tuple[int, int]:
    return run.state.epoch, run.state.step


def _advance(run: TrainingRun, log: Log) -> None:
    """One step, and the end of the epoch where it was the last."""
    run.train_epoch(lambda: 1, False)
    if run.state.step == run.task.steps_per_epoch:
        log(run.end_epoch())


class _Stream:
    """The batches of one task, each read once and kept until another is asked for; on the device."""

    def __init__(self, task: AggregatorTask, device: torch.device) -> None:
        self._task, self._device = task, device
        self._batches: Iterator[WeighedBatch] = iter(())
        self._place: tuple[int, int] | None = None
        self._batch: WeighedBatch | None = None

    def batch(self, epoch: int, step: int) -> WeighedBatch:
        """The batch of a step; those of one epoch are best asked for in order."""
        if self._batch is None or self._place != (epoch, step):
            if self._batch is None or self._place != (epoch, step - 1):
                self.close()
                self._batches = self._task.batches(epoch, step)
            clips, shares = next(self._batches)
            self._batch = clips.to(self._device), shares.to(self._device)
            self._place = epoch, step
        return self._batch

    def close(self) -> None:
        """End the threads that read ahead."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()


class _SharingTask:
    """A task whose batches come from the stream."""

    def __init__(self, task: AggregatorTask, stream: _Stream) -> None:
        self._task, self._stream = task, stream

    @property
    def model(self) -> nn.Module:
        return self._task.model

    @property
    def steps_per_epoch(self) -> int:
        return self._task.steps_per_epoch

    def batches(self, epoch: int, start_step: int) -> Iterator[WeighedBatch]:
        for step in range(start_step, self.steps_per_epoch):
            yield self._stream.batch(epoch, step)

    def loss(self, batch: WeighedBatch) -> Tensor:
        return self._task.loss(batch)

    def video_ids(self, batch: WeighedBatch) -> Sequence[str]:
        return self._task.video_ids(batch)

    def validate(self) -> dict[str, float]:
        return self._task.validate()
