"""A grid of training runs over one store, resumable cell by cell."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ... import store as stores
from ...errors import DataError, UsageError
from ...store import Store
from ...terminal.progress_bars import tqdm
from ...terminal.text import counted
from ...training.run_folder import init_run_dir, lock_run_dir
from ..config import TrainConfig
from ..data.mix import choose_mix, choose_split
from ..data.partition import choose_subsets
from ..data.pooled import free_memory_bytes
from ..models.base import Aggregator
from ..models.registry import build, class_of, require_known
from ..models.score_skip import own_heads
from ..run_setup import versions
from ..same_store import recorded_sweep_place
from .cells import Line, cache_bytes, reads_logits
from .config import SweepConfig
from .grid import Cell, EmptyCell, available_features, expand
from .results import ResultsLog, hole_line
from .units import share_batches, train_units

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """A sweep's folder, and the lines of cells.jsonl for this grid: finished, failed and empty ones."""

    folder: Path
    lines: tuple[Line, ...]

    @property
    def finished(self) -> list[Line]:
        """The cells with metrics."""
        return [line for line in self.lines if "metrics" in line]

    @property
    def failed(self) -> list[Line]:
        """The cells that could not be trained; "failed" says why."""
        return [line for line in self.lines if "failed" in line]

    @property
    def empty(self) -> list[Line]:
        """The impossible cells; "empty" says why."""
        return [line for line in self.lines if "empty" in line]


def run_sweep(config: SweepConfig, *, progress: bool = True) -> SweepResult:
    """Train and report every cell of a grid; in a second run, only the unfinished ones.

    The folder then holds cells/<name>, one run folder per cell with the bytes that `train_agg` alone would
    write (on the same number of threads), cells.jsonl, one line per cell, and config.json.
    Cells with the same batches share one pass over the data. Cells on pooled maps read each clip once.

    Raises DataError if the store cannot give sound results for any cell, RunError if the folder has other
    settings or the store has changed, UsageError, StorageError, Interrupted.
    """
    training = config.training
    for name in config.grid.aggregators or ():
        require_known(name)
    store = stores.open(training.store)
    split = choose_split(store, training.split)
    cells, empty = expand(config.grid, available_features(store, config.grid.clip_frames))
    cells, empty = _buildable(store, _once(store, cells), empty, skip_scores=training.skip_scores)
    if not cells:
        reasons = "; ".join(sorted({hole.reason for hole in empty}))
        raise UsageError(f"no cell of this grid can be: {reasons}")
    first = replace(training, seed=cells[0].seed)
    choose_subsets(store, choose_mix(store, cells[0]), split, first)
    folder = config.folder
    place = recorded_sweep_place(folder, store)
    init_run_dir(folder, _identity(training, store, split, place))
    if place != str(store.path.resolve()):
        logger.info(f"the sweep was begun on {place}; {store.path} is the same store by its fingerprint")
    with lock_run_dir(folder):
        return _run_grid(config, store, split, cells, empty, progress)


def _run_grid(
    config: SweepConfig,
    store: Store,
    split: str,
    cells: Sequence[Cell],
    empty: Sequence[EmptyCell],
    progress: bool,
) -> SweepResult:
    """Train the unfinished cells of the grid into the sweep's folder, which must be locked."""
    training, folder = config.training, config.folder
    results_log = ResultsLog(folder, store)
    results_log.enter([hole_line(hole) for hole in empty])
    pending = [cell for cell in cells if not results_log.is_finished(cell)]
    for hole in empty:
        logger.info(
            f"empty: {hole.cell.aggregator} {hole.cell.pattern} of {counted(hole.cell.clips, 'clip')}: "
            f"{hole.reason}"
        )
    logger.info(
        f"{counted(len(cells), 'cell')} into {folder}, {len(cells) - len(pending)} of them finished before"
    )
    budget = _cache_budget(config, store, split, pending)
    with tqdm(total=len(pending), desc="sweep", unit="cell", disable=not progress) as bar:

        def report(line: Line) -> None:
            results_log.enter([line])
            bar.update()
            _log_line(line)

        units = share_batches(pending)
        if units:
            train_units(
                units,
                store,
                training,
                folder,
                jobs=config.jobs,
                threads=_threads(config.jobs, cells),
                cache_bytes=budget,
                report=report,
                cluster=config.cluster,
            )
    names = [*(cell.name for cell in cells), *(hole.cell.name for hole in empty)]
    return SweepResult(folder=folder, lines=tuple(results_log.lines[name] for name in names))


def _threads(jobs: int, cells: Sequence[Cell]) -> int:
    """Return the threads per process, from the complete grid: a resumed sweep then gives the same bits."""
    return max(1, torch.get_num_threads() // min(jobs, len(share_batches(cells))))


def _once(store: Store, cells: Sequence[Cell]) -> list[Cell]:
    """Remove the further seeds of cells whose seed has no effect."""
    untrained = {cell for cell in cells if cell.seed == 0 and reads_logits(store, cell)}
    return [cell for cell in cells if cell.seed == 0 or replace(cell, seed=0) not in untrained]


def _buildable(
    store: Store, cells: Sequence[Cell], empty: Sequence[EmptyCell], *, skip_scores: bool
) -> tuple[list[Cell], list[EmptyCell]]:
    """Move impossible cells to the empty ones.

    Their aggregator does not fit the models' maps, or needs scores that a model does not have.
    """
    holes = {}
    for first in dict.fromkeys(replace(cell, seed=0) for cell in cells):
        try:
            with torch.device("meta"):
                _build(store, first)
            if skip_scores and not class_of(first.aggregator).scores_clips:
                own_heads(store, choose_mix(store, first))
        except (UsageError, DataError) as error:
            holes[first] = EmptyCell(cell=first, reason=str(error))
    return [cell for cell in cells if replace(cell, seed=0) not in holes], [*empty, *holes.values()]


def _build(store: Store, cell: Cell) -> Aggregator[Any]:
    shapes = choose_mix(store, cell).map_shapes
    return build(cell.aggregator, map_shapes=shapes, num_classes=len(store.class_names))


def _identity(training: TrainConfig, store: Store, split: str, place: str) -> dict[str, Any]:
    """Return what all cells of a folder share, for config.json; every grid must match it.

    `place` is the store's path.
    """
    settled = ("aggregator", "pattern", "clips", "clip_frames", "expensive", "cheap", "seed", "out", "init")
    values = {name: value for name, value in asdict(training).items() if name not in settled}
    values["store"] = place
    values["split"] = split
    return {"sweep": values, "segments": list(store.videos.segments), "versions": versions()}


def _cache_budget(config: SweepConfig, store: Store, split: str, cells: Sequence[Cell]) -> int:
    """Return the limit for pooled vectors, and log their size."""
    given = config.cache_bytes
    budget = free_memory_bytes() // 2 if given is None else given
    pooled = [
        cell for cell in cells if class_of(cell.aggregator).reads_pooled and not reads_logits(store, cell)
    ]
    mixes = {(cell.clip_frames, cell.expensive, cell.cheap): choose_mix(store, cell) for cell in pooled}
    jobs = min(config.jobs, len(share_batches(cells))) or 1
    if mixes:
        each = [cache_bytes(store, split, [mix]) for mix in mixes.values()]
        line = (
            f"pooled vectors: up to {max(each) / 2**30:.2f} GiB a process, "
            f"of {budget / jobs / 2**30:.2f} allowed"
        )
        if max(each) > budget // jobs:
            line += "; where they do not fit, maps are read in each step: raise --cache-gib, or lower --jobs"
        logger.info(line)
    return budget


def _log_line(line: Line) -> None:
    if "failed" in line:
        logger.warning(f"failed: {line['cell']}: {line['failed']}")
    else:
        logger.info(
            f"{line['cell']}: top-1 {line['metrics']['top1']:.1%}, {line['gflops_per_video']:.4g} GFLOPs a "
            "video"
        )
