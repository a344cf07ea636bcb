"""Several aggregators trained from one stream of batches, each as `training.loop.fit` would train it alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from ...errors import RunError
from ...runtime.signals import stop_requests
from ...training.checkpoint import BestEpoch, Standing, load_last
from ...training.distributed import ALONE
from ...training.log import Log
from ...training.loop import TrainingRun, interruption, run_config, write_best
from ...training.options import TrainingOptions, make_optimizer
from ...training.run_folder import alone_in, open_run
from ..models.base import Aggregator
from ..task import AggregatorTask, WeighedBatch

SAVE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class PassMember:
    """One of those that train together: its task, its run folder, and what beside the options decides the run."""

    task: AggregatorTask
    run_dir: Path
    config: Mapping[str, Any]


def fit_together(entries: Sequence[PassMember], options: TrainingOptions) -> list[BestEpoch | RunError]:
    """Train all entries step by step in turn, each batch read once, and return each one's best epoch.

    All tasks must give the same batches and the same validation share, which is read once for all, too. The
    folders end with the same bytes as `training.loop.fit` alone would leave, and are resumed in the same way: entries
    behind the others catch up first. Where they stand is saved when they are stopped, and at ends of epochs a
    minute apart, the best weights too: after short epochs it would take most of the time. An entry whose loss or gradient is not finite ends with that RunError in its place; the others go on.

    Raises as `training.loop.fit` does for what concerns all of them: StorageError, Interrupted, KeyboardInterrupt,
    and RunError for a folder that was begun with another config or cannot be resumed from.
    """
    device = torch.device(options.device)
    cuda = [device] if device.type == "cuda" else []
    outcomes: dict[int, BestEpoch | RunError] = {}
    with torch.random.fork_rng(devices=cuda), ExitStack() as stack:
        stream = _Stream(entries[0].task, device)
        stack.callback(stream.close)
        stop = stack.enter_context(stop_requests())
        runs: dict[int, _SharingRun] = {}
        logs: dict[int, Log] = {}
        saved = time.monotonic()
        for index, entry in enumerate(entries):
            open_run(entry.run_dir, run_config(options, entry.config))
            stack.enter_context(alone_in(entry.run_dir))
            runs[index] = _begin(entry, options, stream)
            logs[index] = stack.enter_context(runs[index].log())

        def each(indices: Sequence[int], do: Callable[[int, _SharingRun], None]) -> None:
            """Of those that are left, in turn; one that fails is left out from then on."""
            for index in indices:
                if index in runs:
                    try:
                        do(index, runs[index])
                    except RunError as error:
                        del runs[index]
                        outcomes[index] = error

        while True:
            for index in [index for index, run in runs.items() if run.finished]:
                best = runs.pop(index).state.best
                assert best is not None  # every epoch that ends has one
                outcomes[index] = best
            if not runs:
                return [outcomes[index] for index in range(len(entries))]
            place = min(run.place for run in runs.values())
            here = [index for index, run in runs.items() if run.place == place]
            each(here, lambda index, run: run.train_step())
            ended = [index for index in here if index in runs and runs[index].epoch_is_over]
            if ended:
                _validate_together([runs[index] for index in ended])
                each(ended, lambda index, run: logs[index](run.end_epoch()))
                if time.monotonic() - saved > SAVE_SECONDS:
                    each(ended, lambda index, run: run.save())
                    saved = time.monotonic()
                else:
                    each(ended, lambda index, run: run.save() if run.finished else None)
            if stop.asked:
                for run in runs.values():
                    run.save()
                if runs:
                    last = next(reversed(runs.values()))
                    raise interruption(stop.asked, last.run_dir, last.state)


def _begin(entry: PassMember, options: TrainingOptions, stream: _Stream) -> _SharingRun:
    model = entry.task.model.to(torch.device(options.device))
    optimizer = make_optimizer(model, options)
    standing = load_last(entry.run_dir, model, optimizer)
    return _SharingRun(entry.task, stream, optimizer, options, entry.run_dir, standing)


def _validate_together(runs: Sequence[_SharingRun]) -> None:
    """Score the validation share by all of them in one pass, for each one's `end_epoch`."""
    for run in runs:
        run.model.eval()
    logits = runs[0].task.own.validation_logits([run.task.model for run in runs])
    for run, own in zip(runs, logits, strict=True):
        run.task.logits = own


class _SharingRun(TrainingRun):
    """A run that goes step by step, and whose best weights are written when it is saved: seldom."""

    task: _SharingTask

    def __init__(
        self,
        task: AggregatorTask,
        stream: _Stream,
        optimizer: Optimizer,
        options: TrainingOptions,
        run_dir: Path,
        standing: Standing,
    ) -> None:
        shared = _SharingTask(task, stream)
        super().__init__(shared, task.model, optimizer, options, run_dir, standing, ALONE)
        self._best: tuple[dict[str, Tensor], BestEpoch] | None = None

    @property
    def place(self) -> tuple[int, int]:
        """The epoch, and the step of it, that comes next."""
        return self.state.epoch, self.state.step

    @property
    def epoch_is_over(self) -> bool:
        """Whether all steps of the epoch are done."""
        return self.state.step == self.task.steps_per_epoch

    def train_step(self) -> None:
        """The next step of the epoch, where there is one."""
        self.train_epoch(lambda: 1, False)

    def keep_best(self, best: BestEpoch) -> None:
        """Copy the weights."""
        weights = self.model.state_dict()
        self._best = {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}, best

    def save(self) -> None:
        """Write the best weights, then where the run stands: the one never names weights that are not there."""
        if self._best is not None:
            write_best(self.run_dir, *self._best)
            self._best = None
        super().save()


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
    """A task (`own`) whose batches come from the stream, and whose validation was scored with the others'."""

    def __init__(self, task: AggregatorTask, stream: _Stream) -> None:
        self.own, self._stream = task, stream
        self.logits: NDArray[np.float64] | None = None

    @property
    def model(self) -> Aggregator[Any]:
        return self.own.model

    @property
    def steps_per_epoch(self) -> int:
        return self.own.steps_per_epoch

    def batches(self, epoch: int, start_step: int) -> Iterator[WeighedBatch]:
        for step in range(start_step, self.steps_per_epoch):
            yield self._stream.batch(epoch, step)

    def loss(self, batch: WeighedBatch) -> Tensor:
        return self.own.loss(batch)

    def video_ids(self, batch: WeighedBatch) -> Sequence[str]:
        return self.own.video_ids(batch)

    def validate(self) -> dict[str, float]:
        assert self.logits is not None
        return self.own.figures(self.logits)
