"""The cells of a sweep that read the same batches, run as one unit: here, in local processes, or on dask."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from ... import store as stores
from ...errors import FasterError, Interrupted
from ...runtime.allocator import keep_freed_memory
from ...runtime.dask_cluster import LOCAL, WHOLE_WORKER, WorkerDied, connect, spread
from ...runtime.signals import interruptible
from ...runtime.spawning import require_startable
from ..config import TrainConfig
from .cells import CellRunner, Line
from .grid import Cell

KEPT = "finished cells are kept and begun ones go on where they were"


def share_batches(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells in groups that read the same batches; groups of one clip length and pair of models in a row."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.batches, []).append(cell)
    return [groups[key] for key in sorted(groups, key=str)]


def run_units(
    units: Sequence[Sequence[Cell]],
    training: TrainConfig,
    folder: Path,
    *,
    jobs: int,
    threads: int,
    cache_bytes: int,
    report: Callable[[Line], None],
    cluster: str | None = None,
) -> None:
    """Run every unit: here, dealt out to local processes, or on dask; `report` gets each cell's line, in this process.

    Each of this machine's processes has so many threads, were it the only one.

    Raises:
        FasterError: as a unit raised it; the others are ended, and finished cells are kept.
        Interrupted: a process died.
    """
    jobs = min(jobs, len(units))
    if cluster is not None:
        do = partial(
            _do_unit,
            replace(training, store=Path(training.store).absolute()),
            folder.absolute(),
            stores.open(training.store).fingerprint,
            threads if cluster == LOCAL else None,
            cache_bytes // jobs,
        )
        needs = {"GPU": 1} if cluster != LOCAL and (training.device or "").startswith("cuda") else {}
        with connect(cluster, workers=jobs, needs=needs) as client:
            for _, lines in spread(client, do, units, needs=needs):
                if isinstance(lines, WorkerDied):
                    raise Interrupted(f"{lines}; {KEPT}, run the same command again") from lines
                for line in lines:
                    report(line)
        return
    if jobs <= 1:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            runner = CellRunner(training, folder, cache_bytes=cache_bytes)
            for unit in units:
                runner.run(unit, report)
        finally:
            torch.set_num_threads(before)
        return
    require_startable()
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    try:
        for job in range(jobs):
            ours, theirs = context.Pipe(duplex=False)
            arguments = (units[job::jobs], training, folder, threads, cache_bytes // jobs, theirs)
            process = context.Process(target=_job_main, args=arguments, name=f"sweep {job}", daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        _follow(pipes, report)
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _do_unit(
    training: TrainConfig,
    folder: Path,
    fingerprint: str,
    threads: int | None,
    cache_bytes: int,
    unit: Sequence[Cell],
) -> list[Line]:
    """On a dask worker: a unit's lines."""
    lines: list[Line] = []
    with WHOLE_WORKER:
        if threads is not None:
            torch.set_num_threads(threads)
        _runner(training, folder, fingerprint, cache_bytes).run(unit, lines.append)
    return lines


@lru_cache(maxsize=1)
def _runner(training: TrainConfig, folder: Path, fingerprint: str, cache_bytes: int) -> CellRunner:
    """Kept from one unit to the next, with its pooled vectors, as long as the store is the same."""
    keep_freed_memory()
    return CellRunner(training, folder, cache_bytes=cache_bytes)


def _follow(pipes: Sequence[Connection], report: Callable[[Line], None]) -> None:
    """Pass every process's lines on until each has said that it is done."""
    running = set(pipes)
    while running:
        for pipe in wait(list(running)):
            assert isinstance(pipe, Connection)
            try:
                message = pipe.recv()
            except EOFError:
                raise Interrupted(
                    f"a process of the sweep died; {KEPT}, run the same command again"
                ) from None
            if message is None:
                running.remove(pipe)
            elif isinstance(message, FasterError):
                raise message
            elif isinstance(message, str):
                raise RuntimeError(f"a process of the sweep failed:\n{message}")
            else:
                report(message)


def _job_main(
    units: Sequence[Sequence[Cell]],
    training: TrainConfig,
    folder: Path,
    threads: int,
    cache_bytes: int,
    pipe: Connection,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this by SIGTERM
    torch.set_num_threads(threads)
    keep_freed_memory()
    message: object = None
    try:
        with interruptible(KEPT):
            runner = CellRunner(training, folder, cache_bytes=cache_bytes)
            for unit in units:
                runner.run(unit, pipe.send)
    except BrokenPipeError:
        os._exit(1)  # the parent is gone: nobody is left to tell
    except FasterError as error:
        message = error
    except Exception:
        message = traceback.format_exc()
    with suppress(BrokenPipeError):
        pipe.send(message)
