"""Oracle: the best choice of expensive clips in hindsight, per video, as an upper bound for any policy.

It uses the labels of the videos that it is measured on, so it is not a result but a bound.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import DataError
from ...runtime.devices import choose_device
from ...store import Features, Store
from ..data.loader import ClipReader, uniform_batches
from ..data.mix import Mix, choose_mix, choose_split, subset_rows
from ..evaluation.evaluate import evaluate
from ..models.base import Aggregator
from ..models.batch import ClipBatch
from ..runs import Run
from ..same_store import open_store

CHOICES_MAX = 256  # with more ways to choose, only greedy ones are tried


@dataclass(frozen=True, kw_only=True)
class OracleResult:
    """Top-1 shares in [0, 1] when `expensive_clips` of `clips` use the expensive backbone, at one cost.

    Attributes:
        videos, split, part, store, run: what it was measured on.
        ways: the number of choices; `exhaustive` says whether all were tried.
        fixed_top1: by the run's own pattern.
        best_top1: by the choice that gives the video's label the highest probability.
        mean_top1: the mean over all choices, as for a random choice; None unless exhaustive.
        fixed_loss, best_loss: mean negative log-probability of the label, in nats.
        chosen_share: (N,) share of the videos whose best choice has the clip at that time expensive.
        gflops_per_video: the same for every choice.
    """

    run: str
    store: str
    split: str
    part: str
    videos: int
    clips: int
    expensive_clips: int
    ways: int
    exhaustive: bool
    fixed_top1: float
    best_top1: float
    mean_top1: float | None
    fixed_loss: float
    best_loss: float
    chosen_share: tuple[float, ...]
    gflops_per_video: float

    @property
    def regret(self) -> float:
        """What the fixed pattern loses against the best choice, as a share of the videos."""
        return self.best_top1 - self.fixed_top1

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {**asdict(self), "regret": self.regret}


def oracle(
    run: Run,
    *,
    store: str | Path | None = None,
    split: str | None = None,
    part: str | None = None,
    batch_size: int | None = None,
    device: str | None = None,
) -> OracleResult:
    """Choose for each video, using its label, which of its N clips use the expensive backbone.

    The number of expensive clips is that of the run's pattern; the aggregator is the run's own, unchanged. If
    there are at most 256 choices, all are tried, and `best_top1` bounds every policy for this aggregator and
    cost. Otherwise clips are made expensive one at a time, each time the one that helps most. The run's own
    pattern is a candidate too, so the best is never worse than it, but it may be below the bound.

    Raises DataError if the pattern leaves no choice, and as `evaluate` does.
    """
    opened = open_store(run.config, store, command=["faster", "oracle", "--run", str(run.path)])
    mix = choose_mix(opened, run.config)
    expensive, cheap = mix.expensive, mix.cheap
    if expensive is None or cheap is None:
        raise DataError(
            f"{run.path} uses one model on every clip, so there is nothing to choose; "
            "name a run whose pattern mixes two, as faster train-agg --pattern 1:7 makes"
        )
    evaluation = evaluate(run, store=store, split=split, part=part, batch_size=batch_size, device=device)
    split, part = choose_split(opened, evaluation.split), evaluation.part
    batch_size = batch_size or run.batch_size
    rows, _ = subset_rows(opened, mix, split, part)
    where = choose_device(device)
    choices = _Choices(mix)
    best, fixed, means, chosen = [], [], [], []
    aggregator = run.aggregator.to(where).eval()
    with torch.inference_mode():
        for both in _batches_of_both(
            opened, mix, expensive, cheap, rows, batch_size, where, reads=aggregator.reads
        ):
            found = choices.search(aggregator, both)
            best.append(found.best)
            fixed.append(found.fixed)
            means.append(found.right_share)
            chosen.append(found.masks)
    best_scores, fixed_scores = np.concatenate(best), np.concatenate(fixed)
    return OracleResult(
        run=str(run.path),
        store=str(opened.path),
        split=split,
        part=part,
        videos=len(rows),
        clips=mix.clips,
        expensive_clips=choices.count,
        ways=choices.ways,
        exhaustive=choices.exhaustive,
        fixed_top1=float(fixed_scores[:, 0].mean()),
        best_top1=float(best_scores[:, 0].mean()),
        mean_top1=float(np.concatenate(means).mean()) if choices.exhaustive else None,
        fixed_loss=float(-fixed_scores[:, 1].mean()),
        best_loss=float(-best_scores[:, 1].mean()),
        chosen_share=tuple(np.concatenate(chosen).mean(axis=0).tolist()),
        gflops_per_video=evaluation.gflops_per_video,
    )


@dataclass(frozen=True)
class _Found:
    """Results of a batch.

    `best` and `fixed` are (B, 2): whether correct, and the log-probability of the label; `masks` (B, N) are
    the best ones.
    """

    best: NDArray[np.float64]
    fixed: NDArray[np.float64]
    right_share: NDArray[np.float64]
    masks: NDArray[np.bool_]


class _Choices:
    """The ways to choose k of N clips, and the search through them."""

    def __init__(self, mix: Mix) -> None:
        self.own = mix.pattern.expensive_mask(mix.clips)
        self.clips, self.count = mix.clips, int(self.own.sum())
        self.ways = math.comb(self.clips, self.count)
        self.exhaustive = self.ways <= CHOICES_MAX

    def search(self, aggregator: Aggregator[Any], both: ClipBatch) -> _Found:
        """Return the best choice for each video of a batch that holds every clip of both models."""
        videos = len(both.labels)
        own = np.tile(self.own, (videos, 1))
        fixed = _scores(aggregator, both, own)
        tried = [(fixed, own)]
        for masks in self._all() if self.exhaustive else ():
            wide = np.tile(masks, (videos, 1))
            tried.append((_scores(aggregator, both, wide), wide))
        if not self.exhaustive:
            tried.append(self._greedy(aggregator, both))
        scores = np.stack([score for score, _ in tried])  # (tried, B, 2)
        order = np.lexsort((scores[..., 1], scores[..., 0]), axis=0)[-1]  # correct first, then probable
        at = np.arange(videos)
        masks = np.stack([mask for _, mask in tried])[order, at]
        # The run's own pattern comes first and again among all choices: it counts once in the mean.
        share = scores[1:, :, 0].mean(axis=0)
        return _Found(scores[order, at], fixed, share, masks)

    def _all(self) -> Iterator[NDArray[np.bool_]]:
        for chosen in itertools.combinations(range(self.clips), self.count):
            yield np.isin(np.arange(self.clips), chosen)

    def _greedy(
        self, aggregator: Aggregator[Any], both: ClipBatch
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Choose one clip at a time: each time the one that raises the label's probability most."""
        videos = len(both.labels)
        masks, scores = np.zeros((videos, self.clips), dtype=bool), np.zeros((videos, 2))
        for _ in range(self.count):
            best = np.full(videos, -np.inf)
            kept = masks
            for t in range(self.clips):
                trial = masks.copy()
                trial[:, t] = True
                found = _scores(aggregator, both, trial)
                better = ~masks[:, t] & (found[:, 1] > best)
                best = np.where(better, found[:, 1], best)
                kept = np.where(better[:, None], trial, kept)
                scores = np.where(better[:, None], found, scores)
            masks = kept
        return scores, masks


def _scores(aggregator: Aggregator[Any], both: ClipBatch, masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Score choices, (B, 2): whether the label is the best class, and its log-probability.

    The clips in the mask are expensive.
    """
    videos, clips = masks.shape
    batch = ClipBatch(
        models=both.models,
        inputs=both.inputs,
        model_of=torch.from_numpy((~masks).astype(np.int64)),
        row_of=torch.arange(videos * clips).view(videos, clips),
        labels=both.labels,
        videos=both.videos,
    )
    logs = torch.log_softmax(aggregator(batch).double(), dim=-1).cpu()
    labels = both.labels.cpu()
    right = logs.argmax(dim=-1) == labels
    of_label = logs.gather(1, labels[:, None])[:, 0]
    return torch.stack([right.double(), of_label], dim=1).numpy()


def _batches_of_both(
    store: Store,
    mix: Mix,
    expensive: Features,
    cheap: Features,
    rows: NDArray[np.int64],
    batch_size: int,
    device: torch.device,
    *,
    reads: str,
) -> Iterator[ClipBatch]:
    """Yield batches of each video's N uniform clips of both models; row b·N + t is clip t of video b."""
    streams = []
    for features in (expensive, cheap):
        alone = Mix.of_one(features, mix.clips)
        reader = ClipReader(alone, store.videos.labels, reads=reads, pin=device.type == "cuda")
        streams.append(uniform_batches(reader, rows, batch_size=batch_size))
    for first, second in zip(*streams, strict=True):
        one, other = first.to(device), second.to(device)
        yield ClipBatch(
            models=(expensive.model, cheap.model),
            inputs={**one.inputs, **other.inputs},
            model_of=one.model_of,
            row_of=one.row_of,
            labels=one.labels,
            videos=one.videos,
        )
