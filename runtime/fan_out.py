"""Units of work on many workers: processes of this machine, which never outlive this one, or dask's. One loop for all.

What work needs is a record, which is pickled once for each worker, and a function that opens a `Worker` from it. A worker
keeps what it has open from one unit to the next: networks, stores, decoders.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol, TypeVar

from .. import __version__
from ..errors import FasterError, Interrupted, ProvenanceMismatch
from .dask_cluster import WHOLE_WORKER, WorkerDied, connect, spread
from .signals import end_with_parent, interruptible, raise_if_stopped, shielded_start
from .spawning import require_startable

Setup = TypeVar("Setup")
Unit = TypeVar("Unit")
Result = TypeVar("Result")
UnitT = TypeVar("UnitT", contravariant=True)
ResultT = TypeVar("ResultT", covariant=True)


class Worker(Protocol[UnitT, ResultT]):
    """What does units, one at a time."""

    def run(self, unit: UnitT, report: Callable[[ResultT], None], /) -> None:
        """Do a unit, and hand each of its results to `report`, in any thread."""

    def close(self) -> None:
        """Let go of what is open."""


def run_units(
    units: Sequence[Unit],
    setup: Setup,
    open_worker: Callable[[Setup, int], Worker[Unit, Result]],
    report: Callable[[Result], None],
    *,
    workers: int,
    what_is_kept: str,
    here: Worker[Unit, Result] | None = None,
    cluster: str | None = None,
    needs: Mapping[str, float] | None = None,
    name: Callable[[int], str] = lambda place: "a process",
) -> None:
    """Do every unit, on whichever worker is free, and hand results to `report`, in this process, as they come.

    Whatever ends it early, Ctrl-C among it, ends the workers too: a process by SIGTERM, which a worker may answer as
    `interruptible` work does. One worker is this process itself; its results may come from another thread.

    Args:
        units, setup, results: what can be pickled.
        open_worker: (setup, place) → worker; a function of a module. Places count from 0; the first units go to
            workers in the order of their places.
        workers: how many at once, at most.
        what_is_kept: for the message of a stop, as "whole shards are kept".
        here: the worker of this process, where one suffices; `open_worker` makes it otherwise.
        cluster: dask workers instead, see `dask_cluster.connect`; `workers` of them, where they are this machine's.
            A unit's results come together, when it is done.
        needs: what a unit takes of a dask worker's resources.
        name: of the process at a place, for the message of its death.

    Raises:
        Interrupted: SIGTERM, SIGUSR1 or SIGUSR2, or a worker died.
        ProvenanceMismatch: a dask worker has another version of this package.
        FasterError: as a worker raised it. RuntimeError: a worker failed otherwise.
    """
    workers = min(workers, len(units))
    with interruptible(what_is_kept):
        if not units:
            return
        if cluster is not None:
            with connect(cluster, workers=workers, needs=needs) as client:
                for _, results in spread_units(client, units, setup, open_worker, needs=needs):
                    if isinstance(results, WorkerDied):
                        raise Interrupted(
                            f"{results}; {what_is_kept}, run the same command again"
                        ) from results
                    for result in results:
                        report(result)
        elif workers == 1:
            with closing(here or open_worker(setup, 0)) as worker:
                for unit in units:
                    worker.run(unit, report)
        else:
            _Processes(workers, what_is_kept, name).run(units, setup, open_worker, report)


def map_units(
    function: Callable[[Unit], Result],
    units: Sequence[Unit],
    *,
    workers: int | None,
    what_is_kept: str,
    cluster: str | None = None,
    on_done: Callable[[], object] = lambda: None,
) -> list[Result]:
    """`function` of every unit, in the order of the units; see `run_units`.

    Args:
        function: of a module, so that another process finds it.
        workers: how many at once, at most; None means one a core.
        on_done: is called after each unit.
    """
    found: dict[int, Result] = {}

    def take(placed: tuple[int, Result]) -> None:
        found[placed[0]] = placed[1]
        on_done()

    run_units(
        list(enumerate(units)),
        function,
        _Mapper,
        take,
        workers=workers or os.cpu_count() or 1,
        what_is_kept=what_is_kept,
        cluster=cluster,
    )
    return [found[place] for place in range(len(units))]


class _Mapper:
    """The worker of `map_units`: a unit and its place → the function's result and the place."""

    takes_whole_worker = False

    def __init__(self, function: Callable[[Any], Any], place: int) -> None:
        self._function = function

    def run(self, unit: tuple[int, Any], report: Callable[[tuple[int, Any]], None]) -> None:
        place, task = unit
        report((place, self._function(task)))

    def close(self) -> None:
        """Nothing is open."""


class _Processes:
    """Spawned processes, each of which is given its next unit when it has done the last one."""

    def __init__(self, count: int, what_is_kept: str, name: Callable[[int], str]) -> None:
        self._count, self._kept, self._name = count, what_is_kept, name

    def run(
        self,
        units: Sequence[Unit],
        setup: Setup,
        open_worker: Callable[[Setup, int], Worker[Unit, Result]],
        report: Callable[[Result], None],
    ) -> None:
        require_startable()
        todo = iter(units)
        processes: list[SpawnProcess] = []
        pipes: dict[Connection, int] = {}
        try:
            for place in range(self._count):
                ours, theirs = get_context("spawn").Pipe()
                process = get_context("spawn").Process(target=_serve, args=(theirs, self._kept))
                with closing(theirs), shielded_start():
                    process.start()
                    processes.append(process)
                pipes[ours] = place
            for pipe, place in pipes.items():
                # In one message: who fails to open is heard, and not found dead at the next.
                self._send(pipe, place, (setup, open_worker, place, next(todo)))
            working = set(pipes)
            while working:
                for ready in wait(list(working)):
                    raise_if_stopped()
                    assert isinstance(ready, Connection)
                    kind, value = self._receive(ready, pipes[ready])
                    if kind == "result":
                        report(value)
                    elif kind == "failed":
                        raise value
                    else:
                        unit = list(islice(todo, 1))
                        self._send(ready, pipes[ready], unit)
                        if not unit:
                            working.remove(ready)
            for process in processes:
                process.join()
        finally:
            for process in processes:
                process.terminate()
            # First, for a process whose results nobody takes could wait for ever to hand one over.
            for pipe in pipes:
                pipe.close()
            for process in processes:
                process.join()

    def _send(self, pipe: Connection, place: int, message: object) -> None:
        try:
            pipe.send(message)
        except OSError:
            raise self._death(place) from None

    def _receive(self, pipe: Connection, place: int) -> tuple[str, Any]:
        try:
            kind, value = pipe.recv()
        except (EOFError, OSError):
            raise self._death(place) from None
        if kind == "failed" and isinstance(value, str):
            value = RuntimeError(f"{self._name(place)} failed:\n{value}")
        return kind, value

    def _death(self, place: int) -> Interrupted:
        return Interrupted(
            f"{self._name(place)} was killed, perhaps for want of memory; {self._kept}, run the same command again"
        )


def _serve(pipe: Connection, what_is_kept: str) -> None:
    """A process of `_Processes`: open a worker, and do what units come, until the pipe says that there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    message: tuple[str, object] | None = None
    try:
        with interruptible(what_is_kept):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # by which the parent ends this
            setup, open_worker, place, *unit = pipe.recv()
            with closing(open_worker(setup, place)) as worker:
                while unit:
                    worker.run(unit[0], lambda result: pipe.send(("result", result)))
                    pipe.send(("done", None))
                    unit = pipe.recv()
    except FasterError as error:
        message = ("failed", error)
    except Exception:
        message = ("failed", traceback.format_exc())
    if message is not None:
        with suppress(OSError):  # the parent may be gone, or listen no more
            pipe.send(message)


def spread_units(
    client: Any,
    units: Sequence[Unit],
    setup: Setup,
    open_worker: Callable[[Setup, int], Worker[Unit, Result]],
    *,
    needs: Mapping[str, float] | None = None,
) -> Iterator[tuple[int, list[Result] | WorkerDied]]:
    """`dask_cluster.spread` of units: (a unit's place, its results), as they come. A worker is open as long as `setup` is equal."""
    yield from spread(client, partial(_run_on_dask, setup, open_worker, __version__), units, needs=needs)


def _run_on_dask(
    setup: Any, open_worker: Callable[[Any, int], Worker[Any, Any]], version: str, unit: Any
) -> list[Any]:
    """On a dask worker: a unit's results. One unit at a time, whatever number of threads dask gives it."""
    global _opened
    if version != __version__:
        raise ProvenanceMismatch(
            f"the worker on {socket.gethostname()} has faster {__version__}, this process {version}; install the same one on both"
        )
    results: list[Any] = []
    if not getattr(open_worker, "takes_whole_worker", True):
        open_worker(setup, 0).run(unit, results.append)
        return results
    with WHOLE_WORKER:
        if _opened is None or _opened[0] != setup:
            _close()
            _opened = setup, open_worker(setup, _place_on_dask())
        try:
            _opened[1].run(unit, results.append)
        except BaseException:
            _close()  # it may be in the middle of something
            raise
    return results


def _place_on_dask() -> int:
    """Workers of this machine are named by their places."""
    name = str(importlib.import_module("distributed").get_worker().name)
    return int(name) if name.isdecimal() else 0


def _close() -> None:
    global _opened
    if _opened is not None:
        _opened[1].close()
    _opened = None


_opened: tuple[Any, Worker[Any, Any]] | None = None  # what a dask worker keeps
