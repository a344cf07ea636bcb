"""A run that is ready to train: its options, settled against a store, and the initial aggregator."""

from __future__ import annotations

import logging
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__
from ..runtime.canonical_json import digest
from ..store import Store
from ..terminal.text import agreeing, counted
from ..training.distributed import ALONE, Ranks
from ..training.loop import run_config
from ..training.options import TrainingOptions
from ..training.run_folder import init_run_dir, write_json, write_tensors
from .config import TrainConfig
from .data.budgets import BUDGETS_FOLDER, budget_name, budgets
from .data.loader import ClipReader
from .data.mix import Mix
from .data.partition import Subsets
from .evaluation.evaluate import Evaluation, notes, report
from .models.score_skip import ScoreSkip, own_heads
from .models.shape_adapter import ShapeAdapter
from .runs import RunConfig, load_best, scoring_batch, store_fingerprint
from .same_store import record_place, recorded_place
from .task import AggregatorTask

logger = logging.getLogger(__name__)


class PreparedRun:
    """One run, trained alone by `train_agg` or with others by a sweep.

    Raises DataError if scores are to be added and the store has no classifier of a model in use.

    Attributes:
        run: its folder.
        settled: what config.json says of the store, the mix and the aggregator. Its path of the store is the
            one that the run began with, if that was the same store.
        aggregator: with the weights that the seed gives.
        init: what config.json says of the run that it starts from.
        seen_before: ids of the videos that this earlier run saw.
    """

    def __init__(
        self,
        config: TrainConfig,
        store: Store,
        mix: Mix,
        split: str,
        subsets: Subsets,
        *,
        run: Path,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config, self.store, self.mix, self.subsets = config, store, mix, subsets
        self.run, self.device, self.ranks = run, device, ranks
        self.settled = replace(
            _settle(config, store, mix, split, subsets), store=recorded_place(run, store, mix)
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.aggregator = self.settled.build()
        if isinstance(self.aggregator, ScoreSkip):
            self.aggregator.take(own_heads(store, mix))
        self.init: dict[str, Any] | None = None
        self.seen_before: frozenset[str] = frozenset()

    @property
    def trains(self) -> bool:
        """Whether the aggregator has weights to train. The average of the backbones' own scores has none."""
        return any(parameter.requires_grad for parameter in self.aggregator.parameters())

    @property
    def options(self) -> TrainingOptions:
        """How to train it."""
        return self.config.options(str(self.device))

    @property
    def scoring_batch(self) -> int:
        """Videos per batch in its report."""
        return scoring_batch(self.config.batch_size, self.ranks.count)

    @property
    def values(self) -> dict[str, Any]:
        """What config.json holds besides the options."""
        return {
            **self.settled.to_dict(),
            "label_smoothing": self.config.label_smoothing,
            "balance_classes": self.config.balance_classes,
            "unseen": self.config.unseen,
            "init": self.init,
            "ranks": self.ranks.count,
            "versions": versions(),
        }

    def task(self, reader: ClipReader) -> AggregatorTask:
        """Return what `fit` trains."""
        return AggregatorTask(
            self.aggregator,
            reader,
            self.store,
            self.subsets,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            label_smoothing=self.config.label_smoothing,
            balanced=self.config.balance_classes,
            device=self.device,
            ranks=self.ranks,
        )

    def record_untrained(self) -> None:
        """Make the run folder of an aggregator without weights."""
        if self.ranks.is_main:
            init_run_dir(self.run, run_config(self.options, self.values))
            write_tensors(self.run / "best.safetensors", {})

    def load_best(self) -> None:
        """Load the best epoch's weights into the aggregator, in evaluation mode."""
        load_best(self.run, self.aggregator)
        self.aggregator.to(self.device).eval()

    def report(self, logits: NDArray[np.float64] | None = None) -> Evaluation:
        """Record which videos the run saw, and make its report with the best epoch's weights.

        If the pattern is drawn, each mixture also has its own report in the folder `budgets`.
        `logits` (n, K) are those of the reported videos, if already known. Raises DataError if a reported
        video was in a backbone's training.
        """
        if logits is None:
            self.load_best()
        rows = np.sort(np.concatenate([self.subsets.train, self.subsets.validation]))
        trained_on = self.seen_before.union(self.store.videos.ids[row] for row in rows)
        if self.ranks.is_main:
            record_place(self.run, self.store)
            write_json(self.run / "trained_on.json", sorted(trained_on))
        for budget in budgets(self.mix) if self.mix.drawn else ():
            name = self.run / BUDGETS_FOLDER / budget_name(budget.pattern, budget.clips)
            reported = self._report(budget, trained_on, name.with_suffix(".csv"), None)
            if self.ranks.is_main:
                settled = {"pattern": str(budget.pattern), "clips": budget.clips}
                write_json(name.with_suffix(".json"), {**settled, **reported.to_dict()})
        reported = self._report(self.mix, trained_on, self.run / "predictions.csv", logits)
        if self.ranks.is_main:
            write_json(self.run / "result.json", reported.to_dict())
        return reported

    def _report(
        self, mix: Mix, trained_on: frozenset[str], predictions: Path, logits: NDArray[np.float64] | None
    ) -> Evaluation:
        return report(
            self.aggregator,
            self.store,
            mix,
            split=self.settled.split,
            part=self.subsets.report_part,
            trained_on=trained_on,
            predictions=predictions,
            batch_size=self.scoring_batch,
            device=self.device,
            ranks=self.ranks,
            logits=logits,
        )


def without_heads(store: Store, mix: Mix) -> list[str]:
    """Return the models without a classifier for the store's classes. If none, "average" trains nothing."""
    return [model for model, f in mix.features.items() if f.class_names != store.class_names]


def _settle(config: TrainConfig, store: Store, mix: Mix, split: str, subsets: Subsets) -> RunConfig:
    """Settle every value, as config.json holds it."""
    reads = "maps"
    if config.aggregator == "average":
        own = without_heads(store, mix)
        reads = "maps" if own else "logits"
        logger.info(
            f"average: {', '.join(own)} has no classifier for the store's classes, "
            "so linear heads on the pooled maps are trained first"
            if own
            else "average: the mean of the backbones' own scores; nothing is trained"
        )
    logger.info(
        f"{config.aggregator}: {mix.describe()}, {counted(len(store.class_names), 'class', 'classes')}"
    )
    without = len(store.class_names) - len(np.unique(store.videos.labels[subsets.train]))
    if without:
        logger.info(
            f"note: {without:,} of the {counted(len(store.class_names), 'class', 'classes')} "
            f"{agreeing(without, 'has', 'have')} no video to train on; the classifier has an output "
            "for each class, whether it has videos or not"
        )
    for note in notes(mix):
        logger.info(f"note: {note}")
    settled = RunConfig(
        store=str(store.path.resolve()),
        store_fingerprint=store_fingerprint(store, mix),
        split=split,
        report_part=subsets.report_part,
        aggregator=config.aggregator,
        dropout=config.dropout,
        reads=reads,
        map_shapes=mix.map_shapes,
        pattern=mix.pattern,
        clips=mix.clips,
        clip_frames=mix.clip_frames,
        expensive=mix.expensive.model if mix.expensive else None,
        cheap=mix.cheap.model if mix.cheap else None,
        drawn=mix.drawn,
        skip_scores=config.skip_scores,
        class_names=store.class_names,
        models={
            m: {"spec": f.spec.to_dict(), "recorded": dict(f.provenance)} for m, f in mix.features.items()
        },
        validation_share=config.validation_share,
        videos={
            **{name: len(values) for name, values in subsets.rows.items()},
            "digest": digest({name: values.tolist() for name, values in subsets.rows.items()}),
            "store": int(store.videos.exists.sum()),
            "segments": list(store.videos.segments),
        },
    )
    with torch.device("meta"):
        aggregator = settled.build()
    if isinstance(aggregator, ScoreSkip):
        logger.info("the backbones' averaged scores are added, by their own classifiers on the stored maps")
        aggregator = aggregator.inner
    if isinstance(aggregator, ShapeAdapter):
        logger.info(aggregator.describe())
    return settled


def versions() -> dict[str, str]:
    """Return the versions of the libraries that compute, for config.json."""
    return {
        "faster": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": version("safetensors"),
        "zarr": version("zarr"),
        "python": platform.python_version(),
    }
