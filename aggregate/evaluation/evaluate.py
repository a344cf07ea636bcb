"""Evaluate a trained aggregator: one answer per video, coverage and cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import DataError, RunError, StorageError
from ...runtime.atomic import replace
from ...runtime.devices import choose_device
from ...store import FeatureSpec, Store
from ...terminal.text import agreeing, counted
from ...training.distributed import ALONE, Ranks
from ..config import EvaluateOptions
from ..data.budgets import budget_name
from ..data.clip_grid import uniform_subset
from ..data.loader import ClipReader, uniform_batches
from ..data.mix import (
    Mix,
    PartCoverage,
    choose_mix,
    choose_split,
    no_videos,
    require_unseen,
    shared_groups,
    subset_rows,
    training_is_known,
)
from ..models.base import Aggregator
from ..runs import Run, RunConfig, store_changes
from ..same_store import open_store
from .confusion import ConfusionMatrix
from .metrics import TOP, Metrics, confusion_matrix, measure, ranked, softmax

# What must be equal for an aggregator to understand another store's maps.
_SAME_MAPS = ("weights_digest", "clip_frames", "frame_stride", "map_shape", "transform")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Video-level metrics of one part of a split.

    `confusion` is (K, K), row the label, column the answer, stored as its nonzero cells. `gflops_per_video`
    counts the backbones on N clips and the aggregator, in multiply-adds. `notes` are lines that the reader of
    the results should see. `predictions` is the file of each video's answers, None if it could not be
    written.
    """

    part: str
    split: str
    metrics: Metrics
    confusion: ConfusionMatrix
    coverage: PartCoverage
    gflops_per_video: float
    notes: tuple[str, ...]
    predictions: Path | None
    class_names: tuple[str, ...]

    def confused(self, most: int) -> list[tuple[str, str, int]]:
        """Return the most common mistakes: (label, answer, videos), the most frequent first."""
        names = self.class_names
        return [
            (names[label], names[answer], videos) for label, answer, videos in self.confusion.mistakes(most)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            **asdict(self),
            "confusion": self.confusion.to_json(),
            "class_names": list(self.class_names),
            "notes": list(self.notes),
            "predictions": None if self.predictions is None else str(self.predictions),
        }


def evaluate(
    run: Run,
    *,
    store: str | Path | None = None,
    split: str | None = None,
    part: str | None = None,
    pattern: str | None = None,
    clips: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
) -> Evaluation:
    """Evaluate a run on its own report part, or on another store, split, part or mixture.

    The default batch size is that of the run's own report: on the same device with the same number of
    threads, its results are then equal bit for bit. With another `batch_size`, last bits may differ.

    The predictions are written to predictions.csv in the run's folder, or to
    predictions-<store>-<split>-<part>.csv if the videos are not the run's own report part, with
    -<pattern>-n<N> if the mixture is not its own.

    Raises DataError if the part has no labelled video with maps, if a video was in the training of the run or
    of a backbone in use, or if the store's maps or classes differ from the run's; RunError if the run's own
    store has changed, or has moved and is not named.
    """
    EvaluateOptions(part=part, clips=clips, batch_size=batch_size)  # checks the values
    own_mixture = run.config.pattern, run.config.clips
    config = run.config.on(pattern, clips)
    opened = open_store(config, store, command=["faster", "evaluate", str(run.path)])
    split, part = choose_split(opened, split or config.split), part or config.report_part
    mix = choose_mix(opened, config)
    _require_same_maps(opened, mix, config)
    changes = store_changes(config, opened, mix)
    if changes and not store:
        raise RunError(
            f"{opened.path} has changed since the run: {', '.join(changes)}; evaluate on it as it is now: "
            f"faster evaluate {run.path} --store {opened.path}"
        )
    own_store = not changes or str(opened.path.resolve()) == config.store
    own = own_store and (split, part) == (config.split, config.report_part)
    name = "predictions" if own else f"predictions-{opened.path.stem}-{split}-{part}"
    if (config.pattern, config.clips) != own_mixture:
        name += f"-{budget_name(mix.pattern, mix.clips)}"
    return report(
        run.aggregator,
        opened,
        mix,
        split=split,
        part=part,
        trained_on=run.trained_on,
        predictions=run.path / f"{name}.csv",
        batch_size=batch_size or run.batch_size,
        device=choose_device(device),
        # A run of another user, or on a full disk, can still be evaluated.
        must_write=False,
    )


def report(
    aggregator: Aggregator[Any],
    store: Store,
    mix: Mix,
    *,
    split: str,
    part: str,
    trained_on: frozenset[str],
    predictions: Path,
    batch_size: int,
    device: torch.device,
    ranks: Ranks = ALONE,
    logits: NDArray[np.float64] | None = None,
    must_write: bool = True,
) -> Evaluation:
    """Score a part of a split, write the predictions file, and say what the results cover.

    Several ranks share the batches; each returns the complete result, and the main one writes. `logits` (n,
    K) are those of the part's `subset_rows`, if already known. If `must_write` is False and the predictions
    cannot be written, a note says so.
    """
    rows, coverage = subset_rows(store, mix, split, part)
    if not len(rows):
        raise DataError(no_videos(store, mix, split, part, options="--split or --part"))
    require_unseen(store, mix, rows, split, part)
    seen = [store.videos.ids[row] for row in rows if store.videos.ids[row] in trained_on]
    if seen:
        raise DataError(
            f"{len(seen)} of the {len(rows)} {part} videos of {split} {agreeing(len(seen), 'was', 'were')} "
            "in this run's own training "
            f"({seen[0]}, …); evaluate on the split that it was trained on, or train on this one"
        )
    labels = store.videos.labels[rows].astype(np.int64)
    if logits is None:
        aggregator.to(device).eval()
        reader = ClipReader(mix, store.videos.labels, reads=aggregator.reads, pin=device.type == "cuda")
        (logits,) = score([aggregator], reader, rows, batch_size=batch_size, device=device, ranks=ranks)
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if bad.size:
        raise DataError(
            f"{store.path}: the scores of {store.videos.ids[rows[bad[0]]]} are not finite; are its maps?"
        )
    written: Path | None = predictions
    lines = [*notes(mix), *_group_notes(store, split, part)]
    if ranks.is_main:
        try:
            write_predictions(predictions, store, rows, logits)
        except StorageError as error:
            if must_write:
                raise
            reason = getattr(error.__cause__, "strerror", None) or error
            written = None
            lines.append(f"{predictions} was not written: {reason}")
    return Evaluation(
        part=part,
        split=split,
        metrics=measure(logits, labels),
        confusion=confusion_matrix(logits, labels),
        coverage=coverage,
        gflops_per_video=mix.backbone_gflops + aggregator.video_gflops(mix.map_shapes, mix.models),
        notes=tuple(lines),
        predictions=written,
        class_names=store.class_names,
    )


def score(
    aggregators: Sequence[Aggregator[Any]],
    reader: ClipReader,
    rows: NDArray[np.int64],
    *,
    batch_size: int,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> list[NDArray[np.float64]]:
    """Return each aggregator's logits (n, K) of the videos on N uniform clips; a batch is read once for all.

    Several ranks share the batches.
    """
    own: list[list[NDArray[np.float64]]] = [[] for _ in aggregators]
    with torch.inference_mode():
        for batch in uniform_batches(reader, rows, batch_size=batch_size, ranks=ranks):
            here = batch.to(device)
            for aggregator, found in zip(aggregators, own, strict=True):
                found.append(aggregator(here).double().cpu().numpy())
    everyones = ranks.all_gather(own)
    return [
        np.concatenate([logits for part in everyones for logits in part[index]])
        for index in range(len(aggregators))
    ]


def notes(mix: Mix) -> list[str]:
    """Return notes for the reader of a mix's results."""
    lines = []
    if not uniform_subset(mix.grid, mix.clips)[1]:
        lines.append(
            f"{mix.clips} does not divide the store's {counted(mix.grid, 'clip')} a video: the nearest "
            "clips are taken, not exactly those that the paper's uniform sampling would give"
        )
    for model, features in mix.features.items():
        if features.spec.weights_random:
            lines.append(f"{model} has random weights: its maps, and these figures, mean nothing")
        elif not training_is_known(features):
            lines.append(f"which videos {model} was trained on is unknown: these may be among them")
    return lines


def _group_notes(store: Store, split: str, part: str) -> list[str]:
    shared = shared_groups(store, split, part)
    if not shared:
        return []
    return [
        f"{counted(len(shared), 'group')} of {split} ({shared[0]}{', …' if shared[1:] else ''}) with videos "
        f"in both train and {part}: these figures may look better than those of unseen groups"
    ]


def write_predictions(path: Path, store: Store, rows: NDArray[np.int64], logits: NDArray[np.float64]) -> None:
    """Write one line per video: id, label, predicted class, and the best five with their probabilities."""
    names, top = store.class_names, ranked(logits, TOP)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ranks = range(1, top.shape[1] + 1)
    header = ["id", "label", "predicted"]
    writer.writerow(header + [f"{what}{k}" for k in ranks for what in ("class", "probability")])
    for index, row in enumerate(rows):
        probabilities = softmax(logits[index : index + 1])[0]
        best = [x for k in top[index] for x in (names[k], f"{probabilities[k]:.6f}")]
        line = [store.videos.ids[row], names[store.videos.labels[row]], names[top[index, 0]], *best]
        writer.writerow(line)
    replace(path, text.getvalue().encode())


def _require_same_maps(store: Store, mix: Mix, config: RunConfig) -> None:
    if store.class_names != config.class_names:
        raise DataError(
            f"{store.path} has other classes ({len(store.class_names)}) than the run "
            f"({len(config.class_names)}); an aggregator answers with the classes that it was trained on"
        )
    for model, features in mix.features.items():
        trained = FeatureSpec.from_dict(config.models[model]["spec"])
        changed = [name for name in _SAME_MAPS if getattr(trained, name) != getattr(features.spec, name)]
        if changed:
            own = str(store.path.resolve()) == config.store
            fix = f"train on them: faster train-agg --store {store.path}"
            if not own:
                fix = f"extract with the weights and settings of {config.store}, or {fix}"
            raise DataError(
                f"{store.path}: the maps of {model} are not those of the run, they differ in "
                f"{', '.join(changed)}; {fix}"
            )
