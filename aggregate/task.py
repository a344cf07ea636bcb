"""What the training loop trains: an aggregator, on batches of mixed clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..store import Store
from ..training.distributed import Ranks
from .data.budgets import budgets
from .data.loader import ClipReader, TrainLoader
from .data.partition import Subsets
from .evaluation.evaluate import score
from .evaluation.metrics import measure
from .models.base import Aggregator
from .models.batch import ClipBatch
from .runs import scoring_batch

WeighedBatch = tuple[ClipBatch, Tensor]


def class_weights(labels: NDArray[np.integer], classes: int, *, balanced: bool) -> NDArray[np.float64]:
    """Return the weight (K,) of each class's videos in the loss: 1, or balanced.

    Balanced weights are n / (number of classes that occur · videos of the class). Every class that occurs
    then has the same total weight, and the mean weight of a video is 1.
    """
    counts = np.bincount(labels, minlength=classes)
    if not balanced:
        return np.ones(classes)
    return len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1)) * (counts > 0)


class AggregatorTask:
    """Aggregator training for `training.loop.fit`.

    A batch comes with each video's share of the loss of the complete batch.
    """

    def __init__(
        self,
        aggregator: Aggregator[Any],
        reader: ClipReader,
        store: Store,
        subsets: Subsets,
        *,
        batch_size: int,
        seed: int,
        label_smoothing: float,
        balanced: bool,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.model = aggregator
        self._ids, self._labels = store.videos.ids, store.videos.labels
        self._validation, self._batch_size = subsets.validation, scoring_batch(batch_size, ranks.count)
        self._label_smoothing, self._device, self._ranks = label_smoothing, device, ranks
        mix, self._reader = reader.mix, reader
        self._validated = [b for b in budgets(mix) if b.clips == mix.clips] if mix.drawn else [mix]
        self._loader = TrainLoader(reader, subsets.train, batch_size=batch_size, seed=seed, ranks=ranks)
        self._weights = class_weights(self._labels[subsets.train], len(store.class_names), balanced=balanced)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch."""
        return self._loader.steps_per_epoch

    def batches(self, epoch: int, start_step: int) -> Iterator[WeighedBatch]:
        """Yield the rank's part of each batch. Its shares and those of the other ranks add up to 1."""
        batches = self._loader.batches(epoch, start_step)
        try:
            for step, batch in enumerate(batches, start_step):
                all_weights = self._weights[self._labels[self._loader.rows_of(epoch, step)]]
                shares = self._weights[batch.labels.numpy()] / all_weights.sum()
                yield batch, torch.from_numpy(shares.astype(np.float32))
        finally:
            batches.close()

    def loss(self, batch: WeighedBatch) -> Tensor:
        """Return this rank's part of the weighted mean of the videos' losses."""
        clips, shares = batch
        losses = self.model.losses(clips.to(self._device), label_smoothing=self._label_smoothing)
        return (losses.float() * shares.to(self._device)).sum()

    def video_ids(self, batch: WeighedBatch) -> Sequence[str]:
        """Return the ids of the batch's videos."""
        return [self._ids[row] for row in batch[0].videos.tolist()]

    def validate(self) -> dict[str, float]:
        """Return the metrics of the validation share on uniform clips; the loss is not weighted or smoothed.

        If the pattern is drawn, they cover every pattern of N clips together.
        """
        (logits,) = self.validation_logits([self.model])
        return self.figures(logits)

    def validation_logits(self, aggregators: Sequence[Aggregator[Any]]) -> list[NDArray[np.float64]]:
        """Return each aggregator's logits (patterns · n, K) of the validation share, read once for all."""
        found = [
            score(
                aggregators,
                self._reader.of(mix),
                self._validation,
                batch_size=self._batch_size,
                device=self._device,
                ranks=self._ranks,
            )
            for mix in self._validated
        ]
        return [np.concatenate(each) for each in zip(*found, strict=True)]

    def figures(self, logits: NDArray[np.float64]) -> dict[str, float]:
        """Return what `validate` gives for these logits."""
        labels = np.tile(self._labels[self._validation].astype(np.int64), len(self._validated))
        figures = measure(logits, labels)
        loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
        return {
            "top1": figures.top1,
            "top5": figures.top5,
            "mean_class_accuracy": figures.mean_class_accuracy,
            "macro_f1": figures.macro_f1,
            "calibration_error": figures.calibration_error,
            "loss": float(loss),
        }
