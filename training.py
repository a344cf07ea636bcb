"""The loop that both training stages share: schedule, checkpoint, exact resume, log.

A stage describes what it trains as a `Task`; `fit` runs it in a run folder, which then holds

    config.json         everything that decides the run; a rerun must agree with it
    metrics.jsonl       one line an epoch
    last.safetensors    model and optimiser, with epoch, step and best in its header (last.json: the same, to read)
    best.safetensors    the model's state of the epoch with the highest validation top-1 (best.json: its metrics)

All randomness is a function of (seed, epoch, step), so a run that was stopped goes on bit for bit as if it
had not been, on the same machine and number of threads.
"""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm

from .errors import Interrupted, RunError, UsageError
from .run_folder import open_run, write_json, write_tensors
from .stopping import STOP_SIGNALS
from .store.commit import replace

BatchT = TypeVar("BatchT")

# A finite norm this large is an overflow in the making: bf16 convolutions on a CPU gave 1e24 on sound data.
RUNAWAY_GRADIENT_NORM = 1e8


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to train: SGD with momentum, a cosine schedule after a linear warm-up (FASTER §4).

    `weight_decay` is applied to weights, not to biases and norms. Gradients longer than `max_gradient_norm`
    are scaled down to it; one that is not finite ends the run.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: float = 0.0
    max_gradient_norm: float = 10.0
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "max_gradient_norm"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("momentum", "weight_decay", "warmup_epochs", "seed"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.warmup_epochs > self.epochs:
            raise UsageError(
                f"warmup_epochs is {self.warmup_epochs}; it must not exceed epochs ({self.epochs})"
            )


class Task(Protocol[BatchT]):
    """What a stage trains. `fit` moves `model` to the device and switches it between train and eval."""

    @property
    def model(self) -> nn.Module:
        """The network that is trained; its state dict is what best.safetensors holds."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch, at least 1."""
        ...

    def batches(self, epoch: int, start_step: int) -> Iterator[BatchT]:
        """Batches start_step, start_step + 1, … of this epoch: a pure function of (seed, epoch, step)."""
        ...

    def loss(self, batch: BatchT) -> Tensor:
        """The batch's mean loss, a scalar with a gradient."""
        ...

    def video_ids(self, batch: BatchT) -> Sequence[str]:
        """The ids of the batch's videos, for messages."""
        ...

    def validate(self) -> dict[str, float]:
        """Validation figures, called in eval mode without gradients: "top1" in [0, 1], and "loss" to part ties."""
        ...


@dataclass(frozen=True, kw_only=True)
class BestEpoch:
    """The epoch, counted from 1, whose weights best.safetensors holds, and its validation figures."""

    epoch: int
    metrics: dict[str, float]


@dataclass
class _State:
    """Where a run stands: `step` steps of `epoch` are done, with these losses summed up."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best: BestEpoch | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> _State:
        fields = json.loads(text)
        best = fields.pop("best")
        return _State(**fields, best=BestEpoch(**best) if best else None)


def fit(
    task: Task[BatchT],
    options: TrainingOptions,
    run_dir: Path,
    *,
    config: Mapping[str, Any],
    progress: bool = True,
) -> BestEpoch:
    """Train `task` in `run_dir`, or go on with what was begun there, and return its best epoch.

    `config` is everything besides `options` that decides the run; it becomes config.json. On SIGTERM, SIGUSR1
    or SIGINT the state is saved after the step, and `Interrupted` or KeyboardInterrupt is raised; a second
    signal acts at once.

    Raises RunError where the folder was begun with another config, or where a loss, gradient, weight or
    validation figure is not finite; StorageError where the disk fails; Interrupted.
    """
    device = torch.device(options.device)
    model = task.model.to(device)
    optimizer = _optimizer(model, options)
    open_run(run_dir, run_config(options, config))
    state = _load_last(run_dir, model, optimizer)
    _keep_log_before(run_dir, state.epoch)
    run = _Run(task, model, optimizer, options, run_dir, state)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), _stop_signals() as stop, _tensorboard(run_dir) as board:
        while state.epoch < options.epochs:
            run.train_epoch(stop, progress)
            line = run.end_epoch()
            _append_log(run_dir, line)
            board(line)
            _save_last(run_dir, model, optimizer, state)
            if stop.asked:
                raise _interrupted(stop, run_dir, state)
    assert state.best is not None  # every epoch that ends has one
    return state.best


def run_config(options: TrainingOptions, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's config.json holds: everything that decides it."""
    return {"training": asdict(options), **config}


def learning_rate_at(options: TrainingOptions, step: int, steps_per_epoch: int) -> float:
    """The rate of global step `step` (0-based): linear warm-up, then a half cosine down to 0 [27]."""
    warmup = options.warmup_epochs * steps_per_epoch
    if step < warmup:
        return options.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / (options.epochs * steps_per_epoch - warmup)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def step_seed(seed: int, epoch: int, step: int) -> int:
    """The seed of one step's randomness (dropout and the like), in [0, 2⁶³)."""
    return int(np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _Run:
    """One run's parts, and the two halves of an epoch."""

    def __init__(
        self,
        task: Task[Any],
        model: nn.Module,
        optimizer: torch.optim.SGD,
        options: TrainingOptions,
        run_dir: Path,
        state: _State,
    ) -> None:
        self.task, self.model, self.optimizer = task, model, optimizer
        self.options, self.run_dir, self.state = options, run_dir, state

    def train_epoch(self, stop: _Stop, progress: bool) -> None:
        """Train the rest of the current epoch; save and raise Interrupted when asked to stop."""
        state, steps = self.state, self.task.steps_per_epoch
        self.model.train()
        batches = self.task.batches(state.epoch, state.step)
        title = f"epoch {state.epoch + 1}/{self.options.epochs}"
        with tqdm(total=steps, initial=state.step, desc=title, unit="step", disable=not progress) as bar:
            while state.step < steps:
                torch.manual_seed(step_seed(self.options.seed, state.epoch, state.step))
                state.loss_sum += self._train_step(next(batches))
                state.step += 1
                bar.update()
                bar.set_postfix(loss=f"{state.loss_sum / state.step:.4f}", refresh=False)
                if stop.asked:
                    _close(batches)
                    _save_last(self.run_dir, self.model, self.optimizer, state)
                    raise _interrupted(stop, self.run_dir, state)
        _close(batches)

    def _train_step(self, batch: Any) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.state.step)
        loss = self.task.loss(batch)
        value = float(loss.item())
        if not math.isfinite(value):
            raise self._not_finite("loss", value, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_gradient_norm))
        if not norm < RUNAWAY_GRADIENT_NORM:  # also true of NaN
            raise self._not_finite("norm of the gradient", norm, batch)
        self.optimizer.step()
        return value

    def end_epoch(self) -> dict[str, float]:
        """Validate, keep the weights if they are the best yet, and step on to the next epoch."""
        state, epoch = self.state, self.state.epoch
        bad = [name for name, value in self.model.state_dict().items() if not torch.isfinite(value).all()]
        if bad:
            raise RunError(f"epoch {epoch + 1}: {bad[0]} is not finite any more; lower the learning rate")
        self.model.eval()
        with torch.no_grad():
            metrics = self.task.validate()
        for name, number in metrics.items():
            if not math.isfinite(number):
                raise RunError(
                    f"epoch {epoch + 1}: the validation's {name} is {number}; lower the learning rate"
                )
        if state.best is None or _merit(metrics) > _merit(state.best.metrics):
            state.best = BestEpoch(epoch=epoch + 1, metrics=metrics)
            write_tensors(self.run_dir / "best.safetensors", self.model.state_dict())
            write_json(self.run_dir / "best.json", asdict(state.best))
        line = {
            "epoch": epoch + 1,
            "train_loss": state.loss_sum / state.step,
            "learning_rate": self._rate(state.step - 1),
            **metrics,
        }
        state.epoch, state.step, state.loss_sum = epoch + 1, 0, 0.0
        return line

    def _rate(self, step: int) -> float:
        steps = self.task.steps_per_epoch
        return learning_rate_at(self.options, self.state.epoch * steps + step, steps)

    def _not_finite(self, what: str, value: float, batch: Any) -> RunError:
        ids = list(self.task.video_ids(batch))
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        return RunError(
            f"epoch {self.state.epoch + 1}, step {self.state.step + 1}: the {what} is {value:g} on {shown}; "
            f"lower the learning rate ({self.options.learning_rate:g}) and use another run folder"
        )


def _merit(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Higher top-1, then, of equal ones, lower loss: a small validation share ties often."""
    return metrics["top1"], -metrics.get("loss", 0.0)


def _optimizer(model: nn.Module, options: TrainingOptions) -> torch.optim.SGD:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
        momentum=options.momentum,
    )


def _close(batches: Iterator[Any]) -> None:
    """End a generator of batches now, so that its threads end with it."""
    close = getattr(batches, "close", None)
    if close is not None:
        close()


# --- the checkpoint --------------------------------------------------------------------------------------


def _save_last(run_dir: Path, model: nn.Module, optimizer: torch.optim.SGD, state: _State) -> None:
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum/{name}"] = buffer
    # One file is one commit: where the run stands travels with its tensors. The .json is for people.
    write_tensors(run_dir / "last.safetensors", tensors, {"state": state.to_json()})
    write_json(run_dir / "last.json", asdict(state))


def _load_last(run_dir: Path, model: nn.Module, optimizer: torch.optim.SGD) -> _State:
    path = run_dir / "last.safetensors"
    if not path.exists():
        return _State()
    try:
        with safe_open(path, framework="pt") as file:
            state = _State.from_json(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        weights = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
        model.load_state_dict(weights)
    except Exception as error:  # the library has one exception type per cause, none of them ours
        raise RunError(f"{path} cannot be resumed from: {error}; delete {run_dir} to start again") from error
    for name, parameter in model.named_parameters():
        if f"momentum/{name}" in tensors:
            buffer = torch.empty_like(parameter, requires_grad=False).copy_(tensors[f"momentum/{name}"])
            optimizer.state[parameter]["momentum_buffer"] = buffer
    return state


def _append_log(run_dir: Path, line: Mapping[str, float]) -> None:
    with (run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _keep_log_before(run_dir: Path, epoch: int) -> None:
    """Drop the lines of epochs that will be trained again: a kill can come between log and checkpoint."""
    path = run_dir / "metrics.jsonl"
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        replace(path, "".join(lines[:epoch]).encode())


# --- stopping and logging --------------------------------------------------------------------------------


@dataclass
class _Stop:
    asked: int = 0  # the signal's number
    previous: dict[int, Any] = field(default_factory=dict)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = number
        self.restore()  # the next signal acts at once

    def restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    stop = _Stop()
    if threading.current_thread() is threading.main_thread():  # only there can signals be handled
        for number in (*STOP_SIGNALS, signal.SIGINT):
            stop.previous[number] = signal.signal(number, stop)
    try:
        yield stop
    finally:
        stop.restore()


def _interrupted(stop: _Stop, run_dir: Path, state: _State) -> BaseException:
    kind = KeyboardInterrupt if stop.asked == signal.SIGINT else Interrupted
    return kind(
        f"stopped after step {state.step} of epoch {state.epoch + 1}; "
        f"the same command goes on from there ({run_dir})"
    )


@contextmanager
def _tensorboard(run_dir: Path) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """What writes one epoch's figures as TensorBoard events; does nothing where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        yield lambda line: None
        return
    with SummaryWriter(run_dir) as writer:

        def write(line: Mapping[str, float]) -> None:
            for name, value in line.items():
                if name != "epoch":
                    writer.add_scalar(name, value, int(line["epoch"]))

        yield write
