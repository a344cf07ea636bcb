"""Train a sweep's cells: together if they read the same batches, from memory if they use pooled maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import DataError, RunError
from ...runtime.canonical_json import as_json_types
from ...runtime.devices import choose_device
from ...store import Store
from ...store.format.manifest import PARTS
from ...terminal.log_output import quiet
from ...training.checkpoint import BestEpoch
from ..config import TrainConfig
from ..data.loader import ClipReader
from ..data.mix import Mix, choose_mix, choose_split, subset_rows
from ..data.partition import Subsets, choose_subsets
from ..data.pooled import PooledReader, PooledVectors, pool_maps, pooled_bytes
from ..evaluation.evaluate import score
from ..models.registry import class_of
from ..run_setup import PreparedRun, without_heads
from .grid import Cell
from .shared_pass import fit_together

Line = dict[str, Any]  # one cell's line of cells.jsonl


def train_config(template: TrainConfig, cell: Cell, folder: Path) -> TrainConfig:
    """Return the config for training a cell alone; its run folder is `folder`/cells/<name>."""
    return replace(
        template,
        aggregator=cell.aggregator,
        skip_scores=template.skip_scores and not class_of(cell.aggregator).scores_clips,
        pattern=str(cell.pattern),
        clips=cell.clips,
        clip_frames=cell.clip_frames,
        expensive=cell.expensive,
        cheap=cell.cheap,
        seed=cell.seed,
        out=folder / "cells" / cell.name,
    )


def reads_logits(store: Store, cell: Cell) -> bool:
    """Whether a cell averages the backbones' own scores: it trains nothing, and its seed has no effect."""
    mix = choose_mix(store, cell)  # for every cell: errors in the store come before the first training
    return cell.aggregator == "average" and not without_heads(store, mix)


@dataclass(frozen=True)
class _Ready:
    """A cell, ready to train as `train_agg` would train it."""

    cell: Cell
    run: PreparedRun


class CellRunner:
    """Trains cells of one store into one folder, and keeps the pooled vectors of one clip length.

    `cache_bytes` is the limit for those vectors; cells that need more read maps in each step. `threads` is
    the process's number of threads while cells train; None changes nothing.
    """

    def __init__(
        self,
        store: Store,
        template: TrainConfig,
        folder: Path,
        *,
        cache_bytes: int,
        threads: int | None = None,
    ) -> None:
        self.store, self.template, self.folder, self.cache_bytes = store, template, folder, cache_bytes
        self._threads, self._threads_before = threads, torch.get_num_threads()
        self.split = choose_split(self.store, template.split)
        self.device = choose_device(template.device)
        self._vectors: dict[tuple[str, int], PooledVectors] = {}

    def run(self, cells: Sequence[Cell], report: Callable[[Line], None]) -> None:
        """Train cells with the same `Cell.batches` and report each one's line, finished or failed.

        Cells on pooled maps use the vectors if these fit into the cache.

        Raises:
            StorageError, Interrupted: finished results are kept.
        """
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            mix = choose_mix(self.store, cells[0])
            config = replace(self.template, seed=cells[0].seed)
            with quiet():  # the sweep logs for its cells
                subsets = choose_subsets(self.store, mix, self.split, config)
        except DataError as error:
            for cell in cells:
                report(failed_line(cell, error))
            return
        ready = [_Ready(cell, self._prepare(cell, mix, subsets)) for cell in cells]
        fits = cache_bytes(self.store, self.split, [mix]) <= self.cache_bytes
        for pooled in (True, False):
            group = [
                one
                for one in ready
                if one.run.trains and (fits and class_of(one.cell.aggregator).reads_pooled) == pooled
            ]
            if group:
                self._train(group, self._pooled_reader(mix) if pooled else self._map_reader(mix), report)
        for one in ready:
            if not one.run.trains:
                one.run.record_untrained()
                self._report(one, None, report)

    def close(self) -> None:
        """Free the vectors, and restore the process's number of threads."""
        self._vectors.clear()
        torch.set_num_threads(self._threads_before)

    def _prepare(self, cell: Cell, mix: Mix, subsets: Subsets) -> PreparedRun:
        config = train_config(self.template, cell, self.folder)
        run = Path(config.out or "")
        with quiet():
            return PreparedRun(config, self.store, mix, self.split, subsets, run=run, device=self.device)

    def _train(self, group: Sequence[_Ready], reader: ClipReader, report: Callable[[Line], None]) -> None:
        outcomes = fit_together([one.run for one in group], reader)
        trained = []
        for one, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, RunError):
                report(failed_line(one.cell, outcome))
            else:
                one.run.load_best()
                trained.append((one, outcome))
        if not trained:
            return
        logits = score(
            [one.run.aggregator for one, _ in trained],
            reader,
            group[0].run.subsets.report,
            batch_size=group[0].run.scoring_batch,
            device=self.device,
        )
        for (one, best), own in zip(trained, logits, strict=True):
            self._report(one, best, report, own)

    def _report(
        self,
        one: _Ready,
        best: BestEpoch | None,
        report: Callable[[Line], None],
        logits: NDArray[np.float64] | None = None,
    ) -> None:
        try:
            result = one.run.report(logits)
        except DataError as error:
            report(failed_line(one.cell, error))
            return
        values = as_json_types(result.to_dict())
        report(
            {
                "cell": one.cell.name,
                **one.cell.to_dict(),
                "run": str(Path("cells") / one.cell.name),
                "store_fingerprint": one.run.settled.store_fingerprint,
                "best_epoch": best.epoch if best else None,
                "split": result.split,
                "part": result.part,
                "metrics": values["metrics"],
                "gflops_per_video": result.gflops_per_video,
                "coverage": values["coverage"],
                "notes": values["notes"],
            }
        )

    def _map_reader(self, mix: Mix) -> ClipReader:
        return ClipReader(mix, self.store.videos.labels, reads="maps", pin=self.device.type == "cuda")

    def _pooled_reader(self, mix: Mix) -> PooledReader:
        """Return a reader of the mix's pooled vectors; pool missing ones for all videos of the split."""
        length = mix.clip_frames
        wanted = {(model, length) for model in mix.features}
        held = sum(4 * vectors.values.numel() for key, vectors in self._vectors.items() if key not in wanted)
        if held + cache_bytes(self.store, self.split, [mix]) > self.cache_bytes:
            self._vectors = {key: vectors for key, vectors in self._vectors.items() if key in wanted}
        for model, features in mix.features.items():
            if (model, length) not in self._vectors:
                rows = rows_of_split(self.store, mix, self.split, model)
                self._vectors[model, length] = pool_maps(self.store, features, rows, device=self.device)
        taken = {model: self._vectors[model, length] for model in mix.features}
        return PooledReader(mix, self.store.videos.labels, taken)


def rows_of_split(store: Store, mix: Mix, split: str, model: str) -> NDArray[np.int64]:
    """Return a split's labelled rows with complete maps of one model: all that a run can read."""
    features = mix.features[model]
    alone = Mix.of_one(features, mix.clips)
    return np.concatenate([subset_rows(store, alone, split, part)[0] for part in PARTS])


def cache_bytes(store: Store, split: str, mixes: Sequence[Mix]) -> int:
    """Return the bytes of the pooled vectors of all models that the mixes use."""
    sizes = {
        (model, mix.clip_frames): pooled_bytes(features, len(rows_of_split(store, mix, split, model)))
        for mix in mixes
        for model, features in mix.features.items()
    }
    return sum(sizes.values())


def failed_line(cell: Cell, error: Exception) -> Line:
    """Return the line of a cell that could not be trained."""
    return {"cell": cell.name, **cell.to_dict(), "failed": str(error)}
