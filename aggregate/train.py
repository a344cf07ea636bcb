"""Stage two of the paper: train an aggregator on a store's maps (FASTER §4, "Setups for learning to aggregate")."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from .. import store as stores
from ..checkpoint import BestEpoch
from ..errors import RunError, UsageError
from ..ranks import Ranks, joined
from ..run_folder import open_run, run_began, write_json, write_tensors
from ..run_log import has_tensorboard
from ..store import Store
from ..store.sealed import digest
from ..training import TrainingOptions, fit, run_config
from .base import Aggregator
from .evaluate import Evaluation, notes, report
from .initial import identity, start_from
from .loader import ClipReader
from .parts import Parts, choose_parts
from .registry import require_known
from .runs import RunConfig, load_best, load_config, load_run, store_changes, store_fingerprint
from .selection import Mix, choose_mix, choose_split
from .task import AggregatorTask

# The usual rate and decay of each optimiser, taken where none is given.
LEARNING_RATES = {"sgd": 0.1, "adamw": 0.001}
WEIGHT_DECAYS = {"sgd": 1e-4, "adamw": 0.01}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What `faster train-agg` takes; None is settled from what the store holds, and said.

    Attributes:
        store: the store's folder.
        aggregator: a name that the registry knows.
        pattern: "1:7", "all-E", "all-C"; by default 1:7, or all-E where the store has one model.
        clips: N, by default all M clips of the store's grid.
        expensive, cheap: models; of two the dearer and the cheaper.
        clip_frames: L, where the store has more than one clip length.
        split: a named split; the only one, or the first by name.
        out: the run folder, by default runs/<store>-<aggregator>-<pattern>-n<N>-s<seed>.
        init: a run folder whose aggregator to start from, with a new classifier where the classes differ.
        batch_size: videos a step, of all processes together.
        optimizer, momentum, max_gradient_norm, precision, patience: as `TrainingOptions` has them.
        learning_rate: at the top of the schedule; 0.1 with SGD, 0.001 with AdamW.
        weight_decay: 0.0001 with SGD, 0.01 with AdamW.
        label_smoothing: share of the label's weight that all classes get alike, in [0, 1).
        balance_classes: whether every class weighs the same in the loss, however many videos it has.
        dropout: before the last layer, in [0, 1).
        validation_share: share of the train part that chooses the best epoch.
        device: "cpu", "cuda:0"; by default the first GPU, or the CPU.
    """

    store: str | Path
    aggregator: str = "fast-gru"
    pattern: str | None = None
    clips: int | None = None
    expensive: str | None = None
    cheap: str | None = None
    clip_frames: int | None = None
    split: str | None = None
    out: str | Path | None = None
    init: str | Path | None = None
    epochs: int = 30
    batch_size: int = 32
    optimizer: str = "sgd"
    learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float | None = None
    warmup_epochs: float = 1.0
    max_gradient_norm: float = 10.0
    label_smoothing: float = 0.0
    balance_classes: bool = False
    dropout: float = 0.0
    precision: str = "float32"
    patience: int | None = None
    validation_share: float = 0.15
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise UsageError(f"validation_share is {self.validation_share}; it must be between 0 and 1")
        for name in ("label_smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        self.options("cpu")

    def options(self, device: str) -> TrainingOptions:
        """How to train, every value settled. Raises UsageError."""
        rate, decay = self.learning_rate, self.weight_decay
        return TrainingOptions(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=LEARNING_RATES.get(self.optimizer, 1.0) if rate is None else rate,
            momentum=self.momentum,
            weight_decay=WEIGHT_DECAYS.get(self.optimizer, 0.0) if decay is None else decay,
            warmup_epochs=self.warmup_epochs,
            max_gradient_norm=self.max_gradient_norm,
            precision=self.precision,
            patience=self.patience,
            seed=self.seed,
            device=device,
        )


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run: its folder, its best epoch (None where there was nothing to train), and its report."""

    run: Path
    best: BestEpoch | None
    report: Evaluation


def train_agg(
    config: TrainConfig, *, say: Callable[[str], None] = print, progress: bool = True
) -> TrainResult:
    """Train an aggregator on a named split's train part and report once on its test part.

    The best epoch is chosen on a validation share of the train part, parted by group where the videos have
    groups. The report is on the split's test part where that has labelled videos with maps, else on its
    val part. `say` takes one line at a time. Run again, an interrupted run goes on, and a finished one is
    only reported. Started by torchrun, the processes share each batch; the first one speaks and writes.

    Raises DataError where the store lacks what is asked or a reported video was in a backbone's training,
    UsageError, RunError, StorageError and Interrupted as `training.fit` does.
    """
    require_known(config.aggregator)
    with joined(config.device) as (ranks, device):
        if not ranks.first:
            say = _say_nothing
        return _train(config, say, progress, ranks, device)


def _train(
    config: TrainConfig, say: Callable[[str], None], progress: bool, ranks: Ranks, device: torch.device
) -> TrainResult:
    store = stores.open(config.store)
    mix = choose_mix(
        store,
        pattern=config.pattern,
        clips=config.clips,
        clip_frames=config.clip_frames,
        expensive=config.expensive,
        cheap=config.cheap,
    )
    split = choose_split(store, config.split)
    run = run_folder(config, mix)
    _require_same_store(run, store, mix)
    names = store.videos.split_names
    first = not config.split and len(names) > 1
    say(f"split: {split}" + (f" (of {', '.join(names)}; the first by name)" if first else ""))
    parts = choose_parts(
        store, mix, split, validation_share=config.validation_share, seed=config.seed, say=say
    )
    settled = _settle(config, store, mix, split, parts, say)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        aggregator = settled.build()
    values: dict[str, Any] = {
        **settled.to_dict(),
        "label_smoothing": config.label_smoothing,
        "balance_classes": config.balance_classes,
        "init": None,
        "ranks": ranks.count,
        "versions": _versions(),
    }
    if config.init is not None:
        origin = load_run(config.init)
        say(start_from(origin, aggregator, settled))
        values["init"] = identity(origin)
    say(f"run folder: {run}")
    best = None
    options = config.options(str(device))
    if any(parameter.requires_grad for parameter in aggregator.parameters()):
        if not has_tensorboard():
            say(
                "tensorboard is not installed, so no events are written: pip install 'faster-video[tensorboard]'"
            )
        reader = ClipReader(mix, store.videos.labels, reads=aggregator.reads, pin=device.type == "cuda")
        task = AggregatorTask(
            aggregator,
            reader,
            store,
            parts,
            batch_size=config.batch_size,
            seed=config.seed,
            label_smoothing=config.label_smoothing,
            balanced=config.balance_classes,
            device=device,
            ranks=ranks,
        )
        best = fit(task, options, run, config=values, progress=progress, ranks=ranks)
        say(f"best epoch: {best.epoch} of {config.epochs}, validation top-1 {best.metrics['top1']:.1%}")
        ranks.wait()  # until the first has written it
        load_best(run, aggregator)
    elif ranks.first:
        open_run(run, run_config(options, values))
        write_tensors(run / "best.safetensors", {})
    return TrainResult(
        run=run, best=best, report=_finish(run, aggregator, store, mix, settled, parts, config, ranks, device)
    )


def _finish(
    run: Path,
    aggregator: Aggregator[Any],
    store: Store,
    mix: Mix,
    settled: RunConfig,
    parts: Parts,
    config: TrainConfig,
    ranks: Ranks,
    device: torch.device,
) -> Evaluation:
    """Say what the run saw, and make its one report."""
    trained_on = [store.videos.ids[row] for row in np.sort(np.concatenate([parts.train, parts.validation]))]
    if ranks.first:
        write_json(run / "trained_on.json", trained_on)
    reported = report(
        aggregator,
        store,
        mix,
        split=settled.split,
        part=parts.report_part,
        trained_on=frozenset(trained_on),
        predictions=run / "predictions.csv",
        batch_size=config.batch_size,
        device=device,
        ranks=ranks,
    )
    if ranks.first:
        write_json(run / "result.json", reported.to_dict())
    return reported


def _settle(
    config: TrainConfig, store: Store, mix: Mix, split: str, parts: Parts, say: Callable[[str], None]
) -> RunConfig:
    """Every value settled, as config.json holds it."""
    reads = "maps"
    if config.aggregator == "average":
        own = [model for model, f in mix.features.items() if f.class_names != store.class_names]
        reads = "maps" if own else "logits"
        say(
            f"average: {', '.join(own)} has no classifier for the store's classes, so linear heads on the pooled "
            "maps are trained first"
            if own
            else "average: the mean of the backbones' own scores; nothing is trained"
        )
    say(f"{config.aggregator}: {mix.describe()}, {len(store.class_names)} classes")
    for note in notes(mix):
        say(f"note: {note}")
    return RunConfig(
        store=str(store.path.resolve()),
        store_fingerprint=store_fingerprint(store, mix),
        split=split,
        report_part=parts.report_part,
        aggregator=config.aggregator,
        dropout=config.dropout,
        reads=reads,
        map_shapes=mix.map_shapes,
        pattern=str(mix.pattern),
        clips=mix.clips,
        clip_frames=mix.clip_frames,
        expensive=mix.expensive.model if mix.expensive else None,
        cheap=mix.cheap.model if mix.cheap else None,
        class_names=store.class_names,
        models={
            m: {"spec": f.spec.to_dict(), "recorded": dict(f.provenance)} for m, f in mix.features.items()
        },
        validation_share=config.validation_share,
        videos={
            **{name: len(values) for name, values in parts.rows.items()},
            "digest": digest({name: values.tolist() for name, values in parts.rows.items()}),
            "store": int(store.videos.exists.sum()),
            "segments": list(store.videos.segments),
        },
    )


def run_folder(config: TrainConfig, mix: Mix) -> Path:
    """The run's folder, as asked or by default."""
    if config.out is not None:
        return Path(config.out)
    pattern = str(mix.pattern).replace(":", "-")
    stem = Path(config.store).resolve().stem
    return Path("runs") / f"{stem}-{config.aggregator}-{pattern}-n{mix.clips}-s{config.seed}"


def _require_same_store(run: Path, store: Store, mix: Mix) -> None:
    """Refuse to go on with a run whose store has changed, and say what changed. Raises RunError."""
    if not run_began(run):
        return
    begun = load_config(run)
    if begun.store == str(store.path.resolve()) and (changes := store_changes(begun, store, mix)):
        raise RunError(
            f"{store.path} has changed since {run} was begun: {', '.join(changes)}; train on it as it is now: "
            "faster train-agg with another folder as --out"
        )


def _versions() -> dict[str, str]:
    return {
        "faster": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": version("safetensors"),
        "zarr": version("zarr"),
        "python": platform.python_version(),
    }


def _say_nothing(line: str) -> None:
    """What the ranks other than the first say."""
