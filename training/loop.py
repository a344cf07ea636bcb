"""The training loop of both stages: schedule, validation, exact resume, any number of ranks.

A stage describes its training as a `Task`; `fit` runs it in a run folder, which then holds

    config.json         everything that decides the run; a rerun must have the same
    metrics.jsonl       one line per epoch, and the same as TensorBoard events
    timing.jsonl        one line per epoch: its seconds, and the share of them spent waiting for data
    last.safetensors    model and optimiser, with epoch, step and best in its header (last.json: the header)
    best.safetensors    the model's state after the epoch with the best validation top-1 (best.json: metrics)

All randomness is a function of (seed, epoch, step, rank). So a resumed run is bit for bit equal to an
uninterrupted one, on the same machine with the same number of threads and ranks.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import Interrupted, RunError
from ..runtime.signals import stop_requests
from ..terminal.progress_bars import tqdm
from .checkpoint import BestEpoch, TrainState, load_last, save_last, write_best
from .distributed import ALONE, Ranks
from .log import Log, epoch_log
from .options import TrainingOptions, learning_rate_at, make_optimizer
from .run_folder import init_run_dir, lock_run_dir, remove_unfinished
from .task import BatchT, LossOf, Task

# A finite norm this large is an overflow in progress: bf16 convolutions on a CPU gave 1e24 on good data.
RUNAWAY_GRADIENT_NORM = 1e8


def fit(
    task: Task[BatchT],
    options: TrainingOptions,
    run_dir: Path,
    *,
    config: Mapping[str, Any],
    progress: bool = True,
    ranks: Ranks = ALONE,
    varies: bool = False,
) -> BestEpoch:
    """Train `task` in `run_dir`, or resume the run there, and return its best epoch.

    `config` is everything besides `options` that decides the run; it is written to config.json. On SIGTERM,
    SIGUSR1 or SIGINT the state is saved after the step, and `Interrupted` or KeyboardInterrupt is raised; a
    second signal acts immediately. Of several ranks only the first writes; all read the folder. `varies`
    means that steps may use different parameters.

    Raises RunError if the folder has another config, or if a loss, gradient, weight or validation figure is
    not finite; StorageError if the disk fails; Interrupted.
    """
    with (
        TrainingRun.begun(task, options, run_dir, config=config, ranks=ranks, varies=varies) as run,
        own_randomness(options),
        stop_requests() as stop,
    ):
        while not run.finished:
            asked = run.train_epoch(lambda: stop.asked, progress and ranks.is_main)
            if not asked:
                run.end_epoch()
                asked = ranks.largest(stop.asked)
            run.save()
            if asked:
                raise run.interruption(asked)
    return run.best


def run_config(options: TrainingOptions, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a run's config.json: everything that decides the run."""
    return {"training": asdict(options), **config}


def step_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """Return the seed of one step's randomness (such as dropout) on one rank, in [0, 2⁶³)."""
    key = [seed, epoch, step, rank] if rank else [seed, epoch, step]
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def own_randomness(options: TrainingOptions) -> AbstractContextManager[None]:
    """Restore the caller's random state at the end: every step sets its own seed."""
    device = torch.device(options.device)
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


class TrainingRun(Generic[BatchT]):
    """One run in its folder; `fit` drives it by epochs, or a caller by steps, together with other runs.

    An epoch is `train_step` on each of its batches, in order, and then `end_epoch`; `state` tells the next
    step. The model must be in train mode before a step.
    """

    def __init__(
        self,
        task: Task[BatchT],
        optimizer: Optimizer,
        options: TrainingOptions,
        run_dir: Path,
        state: TrainState,
        ranks: Ranks,
        *,
        log: Log,
        varies: bool = False,
    ) -> None:
        self.task, self.model, self.optimizer = task, task.model, optimizer
        self.options, self.run_dir, self.state, self.ranks, self.log = options, run_dir, state, ranks, log
        trains = any(parameter.requires_grad for parameter in self.model.parameters())
        self.loss = ranks.sharing_gradients(LossOf(task), varies=varies) if trains else LossOf(task)

    @classmethod
    @contextmanager
    def begun(
        cls,
        task: Task[BatchT],
        options: TrainingOptions,
        run_dir: Path,
        *,
        config: Mapping[str, Any],
        ranks: Ranks = ALONE,
        varies: bool = False,
    ) -> Iterator[Self]:
        """Resume or start the run; no other process writes the folder until the block ends.

        Raises as `fit` does for the folder.
        """
        model = task.model.to(torch.device(options.device))
        optimizer = make_optimizer(model, options)
        with ExitStack() as stack:
            if ranks.is_main:
                init_run_dir(run_dir, run_config(options, config))
                stack.enter_context(lock_run_dir(run_dir))
                remove_unfinished(run_dir)
            ranks.wait()
            state = load_last(run_dir, model, optimizer)
            ranks.wait()  # until all have read the files, which the first rank will overwrite
            log = stack.enter_context(
                epoch_log(run_dir, epochs_done=state.epoch) if ranks.is_main else nullcontext(_log_nothing)
            )
            yield cls(task, optimizer, options, run_dir, state, ranks, log=log, varies=varies)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or none was better for `patience` epochs."""
        state, patience = self.state, self.options.patience
        if state.epoch >= self.options.epochs:
            return True
        return patience is not None and state.best is not None and state.epoch - state.best.epoch >= patience

    @property
    def best(self) -> BestEpoch:
        """The best epoch of a finished run."""
        assert self.state.best is not None  # set by the first epoch that ends
        return self.state.best

    @property
    def epoch_is_over(self) -> bool:
        """Whether all steps of the epoch are done."""
        return self.state.step >= self.task.steps_per_epoch

    def train_epoch(self, asked_here: Callable[[], int], progress: bool) -> int:
        """Train the rest of the current epoch, or until the step after which a rank was asked to stop.

        Returns the signal that asked, or 0 if the epoch is done.
        """
        state, steps = self.state, self.task.steps_per_epoch
        self.model.train()
        batches = self.task.batches(state.epoch, state.step)
        title = f"epoch {state.epoch + 1}/{self.options.epochs}"
        asked, waited, began = 0, 0.0, time.perf_counter()
        with tqdm(total=steps, initial=state.step, desc=title, unit="step", disable=not progress) as bar:
            while not self.epoch_is_over and not asked:
                asking = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - asking
                self.train_step(batch)
                bar.update()
                share = waited / (time.perf_counter() - began)
                bar.set_postfix(
                    loss=f"{state.loss_sum / state.step:.4f}", waited=f"{share:.0%}", refresh=False
                )
                asked = self.ranks.largest(asked_here())
        _close(batches)
        if not asked:
            self._log_time(time.perf_counter() - began, waited)
        return asked

    def _log_time(self, seconds: float, waited: float) -> None:
        """Log the time (of a resumed epoch, the rest) outside metrics.jsonl, which must be reproducible."""
        if self.ranks.is_main:
            line = {"epoch": self.state.epoch + 1, "seconds": seconds, "waited": waited / seconds}
            with (self.run_dir / "timing.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def train_step(self, batch: BatchT) -> None:
        """Train on the epoch's next batch. Raises RunError if its loss or gradient is not finite."""
        state = self.state
        torch.manual_seed(step_seed(self.options.seed, state.epoch, state.step, self.ranks.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.state.step)
        device = torch.device(self.options.device).type
        with torch.autocast(device, torch.bfloat16, enabled=self.options.precision == "bf16"):
            loss = self.loss(batch)
        value = float(loss.item())
        mean = self.ranks.total(value)
        if not math.isfinite(mean):
            raise self._not_finite("loss", mean, batch if not math.isfinite(value) else None)
        self.optimizer.zero_grad(set_to_none=True)
        (loss * self.ranks.count).backward()  # DDP averages over the ranks, but we need the sum
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_gradient_norm))
        if not norm < RUNAWAY_GRADIENT_NORM:  # also true of NaN
            raise self._not_finite("norm of the gradient", norm, batch)
        self.optimizer.step()
        state.loss_sum += mean
        state.step += 1

    def end_epoch(self, validate: Callable[[], dict[str, float]] | None = None) -> None:
        """Validate, keep the weights if they are the best so far, log the epoch, and advance to the next.

        `validate` replaces the task's own validation, if its results are known already.
        """
        state, epoch = self.state, self.state.epoch
        self.ranks.broadcast_buffers(self.model)
        bad = [name for name, value in self.model.state_dict().items() if not _is_finite(value)]
        if bad:
            raise RunError(f"epoch {epoch + 1}: {bad[0]} is not finite any more; lower the learning rate")
        self.model.eval()
        with torch.no_grad():
            metrics = (validate or self.task.validate)()
        for name, number in metrics.items():
            if not math.isfinite(number):
                raise RunError(
                    f"epoch {epoch + 1}: the validation's {name} is {number}; lower the learning rate"
                )
        if not metrics or state.best is None or _merit(metrics) > _merit(state.best.metrics):
            state.best = BestEpoch(epoch=epoch + 1, metrics=metrics)
            if self.ranks.is_main:
                self.keep_best(state.best)
        line: dict[str, float] = {
            "epoch": epoch + 1,
            "train_loss": state.loss_sum / state.step,
            "learning_rate": self._rate(state.step - 1),
            **metrics,
        }
        state.epoch, state.step, state.loss_sum = epoch + 1, 0, 0.0
        self.log(line)

    def keep_best(self, best: BestEpoch) -> None:
        """Write the model's weights as the best so far."""
        write_best(self.run_dir, self.model.state_dict(), best)

    def save(self) -> None:
        """Write the checkpoint, on the first rank."""
        if self.ranks.is_main:
            save_last(self.run_dir, self.model, self.optimizer, self.state)

    def interruption(self, asked: int) -> BaseException:
        """Return the exception for stop signal `asked`: KeyboardInterrupt for SIGINT, else `Interrupted`."""
        kind = KeyboardInterrupt if asked == signal.SIGINT else Interrupted
        return kind(
            f"stopped after step {self.state.step} of epoch {self.state.epoch + 1}; "
            f"the same command goes on from there ({self.run_dir})"
        )

    def _rate(self, step: int) -> float:
        steps = self.task.steps_per_epoch
        return learning_rate_at(self.options, self.state.epoch * steps + step, steps)

    def _not_finite(self, what: str, value: float, batch: Any | None) -> RunError:
        """Return the error that ends the run, with the video ids of the ranks that give a batch."""
        own = [] if batch is None else list(self.task.video_ids(batch))
        ids = [name for part in self.ranks.all_gather(own) for name in part]
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        return RunError(
            f"epoch {self.state.epoch + 1}, step {self.state.step + 1}: the {what} is {value:g} on {shown}; "
            f"lower the learning rate ({self.options.learning_rate:g}) and use another run folder"
        )


def _log_nothing(line: Mapping[str, float]) -> None:
    """Log nothing; for all ranks except the first."""


def _merit(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Return a sort key: higher top-1, then lower loss, because a small validation split has many ties."""
    return metrics["top1"], -metrics.get("loss", 0.0)


def _is_finite(value: Tensor) -> bool:
    """Return whether all elements are finite, in one pass; NaN shows in both minimum and maximum."""
    return not value.numel() or all(bool(torch.isfinite(end)) for end in torch.aminmax(value))


def _close(batches: Iterator[Any]) -> None:
    """Close a generator of batches now, so that its threads end."""
    close = getattr(batches, "close", None)
    if close is not None:
        close()
