"""Train several aggregators from one stream of batches, each as `training.loop.fit` would alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import RunError
from ...runtime.signals import stop_requests
from ...training.checkpoint import BestEpoch, write_best
from ...training.loop import TrainingRun, own_randomness
from ..data.loader import ClipReader
from ..run_setup import PreparedRun
from ..task import AggregatorTask, WeighedBatch

SAVE_SECONDS = 60.0


def fit_together(prepared: Sequence[PreparedRun], reader: ClipReader) -> list[BestEpoch | RunError]:
    """Train all of them in turn, step by step, reading each batch once; return each one's best epoch.

    All must have the same options, batches and validation share; the share is also read once for all. The
    folders end with the same bytes as `training.loop.fit` alone would write, and are resumed in the same way:
    those behind the others catch up first. Their state and best weights are saved when they are interrupted,
    and at ends of epochs a minute apart: after every short epoch, saving would take most of the time. A run
    whose loss or gradient is not finite ends with that RunError as its result; the others continue.

    Raises as `training.loop.fit` does for errors of all of them: StorageError, Interrupted,
    KeyboardInterrupt, and RunError for a folder that was begun with another config or cannot be resumed.
    """
    options, tasks = prepared[0].options, [one.task(reader) for one in prepared]
    outcomes: dict[int, BestEpoch | RunError] = {}
    with own_randomness(options), ExitStack() as stack:
        stream = _Stream(tasks[0], torch.device(options.device))
        stack.callback(stream.close)
        stop = stack.enter_context(stop_requests())
        runs: dict[int, _SharingRun] = {}
        saved = time.monotonic()
        for index, (one, task) in enumerate(zip(prepared, tasks, strict=True)):
            begun = _SharingRun.begun(task, options, one.run, config=one.values)
            runs[index] = stack.enter_context(begun)

        @contextmanager
        def left_out_where_it_fails(index: int) -> Iterator[None]:
            try:
                yield
            except RunError as error:
                del runs[index]
                outcomes[index] = error

        while True:
            for index in [index for index, run in runs.items() if run.finished]:
                outcomes[index] = runs.pop(index).best
            if not runs:
                return [outcomes[index] for index in range(len(prepared))]
            place = min(run.place for run in runs.values())
            here = {index: run for index, run in runs.items() if run.place == place}
            for index, run in here.items():
                with left_out_where_it_fails(index):
                    if not run.epoch_is_over:
                        run.model.train()
                        run.train_step(stream.batch(*place))
            ended = {index: run for index, run in here.items() if index in runs and run.epoch_is_over}
            if ended:
                due = time.monotonic() - saved > SAVE_SECONDS
                logits = _validation_logits(list(ended.values()))
                for (index, run), own in zip(ended.items(), logits, strict=True):
                    with left_out_where_it_fails(index):
                        run.end_epoch(partial(run.task.figures, own))
                        if due or run.finished:
                            run.save()
                if due:
                    saved = time.monotonic()
            if stop.asked:
                for run in runs.values():
                    run.save()
                if runs:
                    raise next(reversed(runs.values())).interruption(stop.asked)


def _validation_logits(runs: Sequence[_SharingRun]) -> list[NDArray[np.float64]]:
    """Return each run's logits of the validation share, scored in one pass."""
    for run in runs:
        run.model.eval()
    return runs[0].task.validation_logits([run.task.model for run in runs])


class _SharingRun(TrainingRun[WeighedBatch]):
    """A run that writes its best weights only when it is saved, which is seldom."""

    task: AggregatorTask
    _best: tuple[dict[str, Tensor], BestEpoch] | None = None

    @property
    def place(self) -> tuple[int, int]:
        """The next epoch and step."""
        return self.state.epoch, self.state.step

    def keep_best(self, best: BestEpoch) -> None:
        """Copy the weights."""
        weights = self.model.state_dict()
        self._best = {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}, best

    def save(self) -> None:
        """Write the best weights, then the state, so that the state never names missing weights."""
        if self._best is not None:
            write_best(self.run_dir, *self._best)
            self._best = None
        super().save()


class _Stream:
    """The batches of one task on the device, each read once and kept until the next is requested."""

    def __init__(self, task: AggregatorTask, device: torch.device) -> None:
        self._task, self._device = task, device
        self._batches: Iterator[WeighedBatch] = iter(())
        self._place: tuple[int, int] | None = None
        self._batch: WeighedBatch | None = None

    def batch(self, epoch: int, step: int) -> WeighedBatch:
        """Return the batch of a step. Requests in order within an epoch are fastest."""
        if self._batch is None or self._place != (epoch, step):
            if self._batch is None or self._place != (epoch, step - 1):
                self.close()
                self._batches = self._task.batches(epoch, step)
            clips, shares = next(self._batches)
            self._batch = clips.to(self._device), shares.to(self._device)
            self._place = epoch, step
        return self._batch

    def close(self) -> None:
        """Stop the prefetch threads."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
