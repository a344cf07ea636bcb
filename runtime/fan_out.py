"""Run units of work on many workers: processes, which never outlive this one, or dask workers.

The input of the work is a record, which is pickled once per worker, and a function that opens a `Worker` from
it. A worker keeps its open networks, stores and decoders from one unit to the next.
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
    """Does units, one at a time."""

    def run(self, unit: UnitT, report: Callable[[ResultT], None], /) -> None:
        """Do a unit, and pass each of its results to `report`, in any thread."""

    def close(self) -> None:
        """Close everything that is open."""


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
    """Do every unit on the next free worker, and pass results to `report`, in this process, as they arrive.

    Every early end, also Ctrl-C, ends the workers too: a process by SIGTERM, which a worker may handle as
    `interruptible` work does. A single worker is this process itself; its results may come from another
    thread.

    Args:
        units, setup: must be picklable, and so must the results.
        open_worker: (setup, place) → worker; a function of a module. Places count from 0; the first units go
            to workers in the order of their places.
        workers: the most workers at once.
        what_is_kept: for the message of a stop, such as "whole shards are kept".
        here: the worker of this process, if one is enough; by default `open_worker` makes it.
        cluster: use dask workers instead, see `dask_cluster.connect`; for `LOCAL`, `workers` of them. A
            unit's results come together, when it is done.
        needs: the resources of a dask worker that a unit takes.
        name: place → name of the process, for the message of its death.

    Raises:
        Interrupted: SIGTERM, SIGUSR1 or SIGUSR2, or a worker died.
        ProvenanceMismatch: a dask worker has another version of this package.
        FasterError: as a worker raised it. RuntimeError: any other error of a worker.
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
    """Return `function` of every unit, in the order of the units; see `run_units`.

    Args:
        function: of a module, so that another process can import it.
        workers: the most workers at once; None means one per core.
        on_done: called after each unit.
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
        """Do nothing: nothing is open."""


class _Processes:
    """Spawned processes; each one gets its next unit after it has finished the last one."""

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
        pending = iter(units)
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
                # Setup and first unit are one message, so an error on opening arrives before the next send.
                self._send(pipe, place, (setup, open_worker, place, next(pending)))
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
                        unit = list(islice(pending, 1))
                        self._send(ready, pipes[ready], unit)
                        if not unit:
                            working.remove(ready)
            for process in processes:
                process.join()
        finally:
            for process in processes:
                process.terminate()
            # Close before joining: a process could wait forever to send a result that nobody receives.
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
            f"{self._name(place)} was killed, perhaps for want of memory; {self._kept}, "
            "run the same command again"
        )


def _serve(pipe: Connection, what_is_kept: str) -> None:
    """Run a process of `_Processes`: open a worker, and do units until the pipe says that none are left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    message: tuple[str, object] | None = None
    try:
        with interruptible(what_is_kept):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the parent ends us with it
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
        with suppress(OSError):  # the parent may have ended or closed the pipe
            pipe.send(message)


def spread_units(
    client: Any,
    units: Sequence[Unit],
    setup: Setup,
    open_worker: Callable[[Setup, int], Worker[Unit, Result]],
    *,
    needs: Mapping[str, float] | None = None,
) -> Iterator[tuple[int, list[Result] | WorkerDied]]:
    """Run `dask_cluster.spread` on units; yield (a unit's place, its results) as they arrive.

    A worker stays open while `setup` is equal.
    """
    yield from spread(client, partial(_run_on_dask, setup, open_worker, __version__), units, needs=needs)


def _run_on_dask(
    setup: Any, open_worker: Callable[[Any, int], Worker[Any, Any]], version: str, unit: Any
) -> list[Any]:
    """Return a unit's results, on a dask worker; one unit at a time, for any number of dask threads."""
    global _opened
    if version != __version__:
        raise ProvenanceMismatch(
            f"the worker on {socket.gethostname()} has faster {__version__}, this process {version}; "
            "install the same one on both"
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
            _close()  # its state is unknown
            raise
    return results


def _place_on_dask() -> int:
    """Return a worker's place; workers of this machine are named by it."""
    name = str(importlib.import_module("distributed").get_worker().name)
    return int(name) if name.isdecimal() else 0


def _close() -> None:
    global _opened
    if _opened is not None:
        _opened[1].close()
    _opened = None


_opened: tuple[Any, Worker[Any, Any]] | None = None  # setup and worker that a dask worker keeps open
