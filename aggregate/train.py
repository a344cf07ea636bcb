"""Stage two of the paper: train an aggregator on a store's maps (FASTER §4, "Setups for learning to aggregate")."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__
from .. import store as stores
from ..devices import choose_device
from ..errors import DataError, UsageError
from ..holdout import hold_out
from ..run_folder import open_run, write_json, write_tensors
from ..store import Store
from ..store.sealed import digest
from ..training import BestEpoch, TrainingOptions, fit
from .base import Aggregator
from .batch import ClipBatch
from .evaluate import Evaluation, notes, report, score
from .loader import ClipReader, TrainLoader
from .metrics import measure
from .registry import require_known
from .runs import RunConfig, load_best
from .selection import Mix, choose_mix, choose_split, part_rows, require_unseen


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
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: float = 1.0
    dropout: float = 0.0
    validation_share: float = 0.15
    seed: int = 0
    device: str | None = None


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
    only reported.

    Raises DataError where the store lacks what is asked or a reported video was in a backbone's training,
    UsageError, RunError, StorageError and Interrupted as `training.fit` does.
    """
    if not 0 < config.validation_share < 1:
        raise UsageError(f"validation_share is {config.validation_share}; it must be between 0 and 1")
    require_known(config.aggregator)
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
    parts = _choose_videos(store, mix, split, config, say)
    resolved = _resolve(config, store, mix, split, parts, say)
    device = choose_device(config.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        aggregator = resolved.build()
    task = _AggregatorTask(aggregator, store, mix, parts, config, device)
    run = _run_folder(config, store, mix)
    trained_on = [store.videos.ids[row] for row in np.sort(np.concatenate([parts.train, parts.validation]))]
    options = TrainingOptions(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        warmup_epochs=config.warmup_epochs,
        seed=config.seed,
        device=str(device),
    )
    values = {**resolved.to_dict(), "versions": _versions()}
    say(f"run folder: {run}")
    best = None
    if any(parameter.requires_grad for parameter in aggregator.parameters()):
        best = fit(task, options, run, config=values, progress=progress)
        say(f"best epoch: {best.epoch} of {config.epochs}, validation top-1 {best.metrics['top1']:.1%}")
        load_best(run, aggregator)
    else:
        open_run(run, values)
        write_tensors(run / "best.safetensors", {})
    write_json(run / "trained_on.json", trained_on)
    reported = report(
        aggregator,
        store,
        mix,
        split=split,
        part=parts.report_part,
        trained_on=frozenset(trained_on),
        predictions=run / "predictions.csv",
        batch_size=config.batch_size,
        device=device,
    )
    write_json(run / "result.json", reported.to_dict())
    return TrainResult(run=run, best=best, report=reported)


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """Rows of the store for training, validation and the report."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    report: NDArray[np.int64]
    report_part: str


def _choose_videos(
    store: Store, mix: Mix, split: str, config: TrainConfig, say: Callable[[str], None]
) -> _Parts:
    """Part the split's videos, say what is covered, and refuse what cannot give sound figures."""
    names = store.videos.split_names
    say(
        f"split: {split}"
        + (f" (of {', '.join(names)}; the first by name)" if not config.split and len(names) > 1 else "")
    )
    rows = {}
    for part in ("train", "val", "test"):
        rows[part], coverage = part_rows(store, mix, split, part)
        if coverage.listed:
            say(f"{part}: {coverage}")
    if not len(rows["train"]):
        raise DataError(
            f"{store.path}: no labelled train video of {split} has maps; see: faster inspect {store.path}"
        )
    report_part = "test" if len(rows["test"]) else "val"
    if not len(rows[report_part]):
        raise DataError(
            f"{store.path}: no labelled test or val video of {split} has maps, so nothing could be reported; "
            f"see: faster inspect {store.path}"
        )
    labels = store.videos.labels
    classes = np.unique(labels[rows["train"]])
    if len(classes) == 1:
        raise DataError(
            f"{store.path}: all {len(rows['train'])} train videos of {split} are of one class, "
            f"{store.class_names[classes[0]]}; extract videos of at least two"
        )
    require_unseen(store, mix, rows[report_part], report_part)
    train, validation = hold_out(
        rows["train"], labels, store.videos.groups, share=config.validation_share, seed=config.seed
    )
    if not len(validation):
        raise DataError(
            f"{store.path}: each class has one train video or group in {split}, which leaves none to choose the "
            "best epoch by; extract more videos"
        )
    by = "group" if any(store.videos.groups[row] for row in rows["train"]) else "video"
    say(f"validation: {len(validation)} of the {len(rows['train'])} train videos, parted by {by}")
    for model, features in mix.features.items():
        shares = [
            len(features.seen_in_training([store.videos.ids[row] for row in rows_])) / len(rows_)
            for rows_ in (train, validation)
        ]
        say(
            f"{model}: {shares[0]:.0%} of the {len(train)} training and {shares[1]:.0%} of the {len(validation)} validation "
            "videos were in its own training"
        )
    return _Parts(train=train, validation=validation, report=rows[report_part], report_part=report_part)


def _resolve(
    config: TrainConfig, store: Store, mix: Mix, split: str, parts: _Parts, say: Callable[[str], None]
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
    rows = {"train": parts.train, "validation": parts.validation, "report": parts.report}
    return RunConfig(
        store=str(store.path.resolve()),
        store_fingerprint=store.fingerprint,
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
            **{name: len(values) for name, values in rows.items()},
            "digest": digest({name: values.tolist() for name, values in rows.items()}),
        },
    )


def _run_folder(config: TrainConfig, store: Store, mix: Mix) -> Path:
    if config.out is not None:
        return Path(config.out)
    pattern = str(mix.pattern).replace(":", "-")
    stem = store.path.resolve().stem
    return Path("runs") / f"{stem}-{config.aggregator}-{pattern}-n{mix.clips}-s{config.seed}"


def _versions() -> dict[str, str]:
    return {
        "faster": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


class _AggregatorTask:
    """What `training.fit` trains in stage two."""

    def __init__(
        self,
        aggregator: Aggregator[Any],
        store: Store,
        mix: Mix,
        parts: _Parts,
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        self.model = aggregator
        self._ids, self._labels = store.videos.ids, store.videos.labels
        self._validation, self._batch_size, self._device = parts.validation, config.batch_size, device
        self._reader = ClipReader(mix, self._labels, reads=aggregator.reads, pin=device.type == "cuda")
        self._loader = TrainLoader(self._reader, parts.train, batch_size=config.batch_size, seed=config.seed)

    @property
    def steps_per_epoch(self) -> int:
        return self._loader.steps_per_epoch

    def batches(self, epoch: int, start_step: int) -> Iterator[ClipBatch]:
        return self._loader.batches(epoch, start_step)

    def loss(self, batch: ClipBatch) -> Tensor:
        return self.model.loss(batch.to(self._device))

    def video_ids(self, batch: ClipBatch) -> Sequence[str]:
        return [self._ids[row] for row in batch.videos.tolist()]

    def validate(self) -> dict[str, float]:
        rows = self._validation
        logits = score(self.model, self._reader, rows, batch_size=self._batch_size, device=self._device)
        labels = self._labels[rows].astype(np.int64)
        figures = measure(logits, labels)
        loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
        return {
            "top1": figures.top1,
            "top5": figures.top5,
            "mean_class_accuracy": figures.mean_class_accuracy,
            "loss": float(loss),
        }
