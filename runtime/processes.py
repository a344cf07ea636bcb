"""One function over many tasks in several processes, which are stopped with their parent and never outlive it; or on dask."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread
from typing import TypeVar

from ..errors import Interrupted
from .dask_cluster import WorkerDied, connect, spread
from .signals import WARNINGS, blocked, interruptible
from .spawning import require_startable

Task = TypeVar("Task")
Result = TypeVar("Result")


@contextmanager
def map_in_processes(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    processes: int | None,
    what_is_kept: str,
    cluster: str | None = None,
) -> Iterator[Iterator[Result]]:
    """Run `function` on every task and give the results in the order of the tasks, as they come.

    Whatever ends the block early, Ctrl-C among it, ends the processes too, after the tasks in hand. One process,
    or one task, is done here and starts none.

    Args:
        function: of a module, so that another process finds it.
        tasks: what can be pickled.
        processes: how many at once, at most; None means one a core.
        what_is_kept: for the message of a stop, as "whole shards are kept".
        cluster: dask workers instead, see `dask_cluster.connect`; `processes` of them, where they are this machine's.

    Raises:
        Interrupted: SIGTERM, SIGUSR1 or SIGUSR2, or a process died.
        Exception: what `function` raised.
    """
    processes = min(processes or os.cpu_count() or 1, len(tasks))
    with interruptible(what_is_kept):
        if cluster is not None and tasks:
            with connect(cluster, workers=processes) as client:
                yield _in_order(spread(client, function, tasks), what_is_kept)
            return
        if processes <= 1:
            yield map(function, tasks)
            return
        require_startable()
        # What reaches every process of a terminal or a job ends the parent, which ends the others: they inherit the block.
        with blocked(*WARNINGS):  # of multiprocessing's own process, which starts here
            pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_follow_parent)
        try:
            with blocked(*WARNINGS, signal.SIGINT):
                futures = [pool.submit(function, task) for task in tasks]  # starts the processes
            # Not `pool.map`: it cancels futures itself, which the pool's thread stumbles over where a process died.
            yield (future.result() for future in futures)
        except BrokenProcessPool as error:
            raise Interrupted(
                f"a process was killed, perhaps for want of memory; {what_is_kept}, run the same command again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(results: Iterator[tuple[int, Result | WorkerDied]], what_is_kept: str) -> Iterator[Result]:
    """Results by their tasks' places."""
    early: dict[int, Result] = {}
    place = 0
    for at, result in results:
        if isinstance(result, WorkerDied):
            raise Interrupted(f"{result}; {what_is_kept}, run the same command again") from result
        early[at] = result
        while place in early:
            yield early.pop(place)
            place += 1


def _follow_parent() -> None:
    """In each process: without a parent, even one that was killed, it ends itself."""
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=follow, daemon=True).start()
