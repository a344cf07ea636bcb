"""Run a sweep's cells in units that read the same batches: here, in local processes, or on dask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ... import store as stores
from ...runtime.allocator import keep_freed_memory
from ...runtime.dask_cluster import LOCAL
from ...runtime.fan_out import run_units
from ...store import Store
from ..config import TrainConfig
from .cells import CellRunner, Line
from .grid import Cell

KEPT = "finished cells are kept and begun ones go on where they were"


def share_batches(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Group cells that read the same batches; groups of one clip length and model pair are adjacent."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.batches, []).append(cell)
    return [groups[key] for key in sorted(groups, key=str)]


@dataclass(frozen=True, kw_only=True)
class _SweepJob:
    """What a process needs to train cells. It keeps its runner and pooled vectors while this is the same.

    Attributes:
        fingerprint: of the store.
        threads: None leaves the process's number.
    """

    training: TrainConfig
    folder: Path
    fingerprint: str
    threads: int | None
    cache_bytes: int


def train_units(
    units: Sequence[Sequence[Cell]],
    store: Store,
    training: TrainConfig,
    folder: Path,
    *,
    jobs: int,
    threads: int,
    cache_bytes: int,
    report: Callable[[Line], None],
    cluster: str | None = None,
) -> None:
    """Run every unit in this process, in local processes, or on dask.

    `report` gets each cell's line, in this process. `threads` is the number for each process of this machine.

    Raises:
        FasterError: as a unit raised it; the others are ended, and finished cells are kept.
        Interrupted: a process died.
    """
    jobs = min(jobs, len(units))
    here = None
    if jobs == 1 and cluster is None:
        here = CellRunner(store, training, folder, cache_bytes=cache_bytes, threads=threads)
    job = _SweepJob(
        training=training if cluster is None else replace(training, store=Path(training.store).absolute()),
        folder=folder.absolute(),
        fingerprint=store.fingerprint,
        threads=threads if cluster in (None, LOCAL) else None,
        cache_bytes=cache_bytes // jobs,
    )
    run_units(
        units,
        job,
        _open_runner,
        report,
        workers=jobs,
        what_is_kept=KEPT,
        here=here,
        cluster=cluster,
        needs={"GPU": 1}
        if cluster not in (None, LOCAL) and (training.device or "").startswith("cuda")
        else {},
        name=lambda place: "a process of the sweep",
    )


def _open_runner(job: _SweepJob, place: int) -> CellRunner:
    keep_freed_memory()
    store = stores.open(job.training.store)
    return CellRunner(store, job.training, job.folder, cache_bytes=job.cache_bytes, threads=job.threads)
