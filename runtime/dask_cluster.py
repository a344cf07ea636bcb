"""Work on dask: on workers of this machine's own, or on those of a cluster that is there. Only `connect` needs dask."""

from __future__ import annotations

import importlib
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from multiprocessing import resource_tracker
from threading import Lock
from typing import Any, TypeVar

import click

from ..errors import Interrupted, UsageError
from ..terminal.text import counted
from .signals import WARNINGS, blocked, raise_if_stopped

LOCAL = "local"
"""Names workers of this machine; any other name is the address of a scheduler."""

WHOLE_WORKER = Lock()
"""To be held, on a worker, by what takes all of it: its memory, its threads, its GPU."""

CONNECT_SECONDS = 30

_SETTINGS = {
    # Dask's would set one thread of OpenMP, in this process's environment too.
    "distributed.nanny.pre-spawn-environ": {},
    # A worker that happens to be restarting so long after an earlier death would be given up for good.
    "distributed.deploy.lost-worker-timeout": "52 weeks",
}

Task = TypeVar("Task")
Result = TypeVar("Result")
Command = Callable[..., Any]


class WorkerDied(Interrupted):
    """The worker that had a task died, as did those that it was given to next."""


def cluster_options(command: Command) -> Command:
    """--executor and --scheduler; the command gets `cluster`: None, `LOCAL`, or the scheduler's address."""

    @wraps(command)
    def call(*values: Any, executor: str, scheduler: str | None, **options: Any) -> Any:
        if scheduler is not None and executor != "dask":
            raise UsageError("--scheduler names a dask scheduler; say --executor dask too")
        cluster = (scheduler or LOCAL) if executor == "dask" else None
        return command(*values, cluster=cluster, **options)

    call = click.option(
        "--scheduler", metavar="ADDRESS", help="Of a dask cluster, tcp://…  [workers on this machine]"
    )(call)
    return click.option(
        "--executor",
        type=click.Choice(["processes", "dask"]),
        default="processes",
        show_default=True,
        help="Who does the work: processes of this machine, or dask workers.",
    )(call)


@contextmanager
def connect(cluster: str, *, workers: int, needs: Mapping[str, float] | None = None) -> Iterator[Any]:
    """A `distributed.Client` of a cluster.

    Workers of this machine are processes of one thread each, which end with the block; they and their dashboard listen
    on the loopback interface only. A worker that dies is replaced.

    Args:
        cluster: `LOCAL`, or a scheduler's address.
        workers: how many to start, for `LOCAL`.
        needs: what each task will take of a worker's resources.

    Raises:
        UsageError: dask is not installed; no scheduler answers; or of its workers none has what tasks need.
    """
    distributed = _distributed()
    with ExitStack() as stack:
        if cluster == LOCAL:
            client = stack.enter_context(_local(distributed, workers))
        else:
            try:
                client = stack.enter_context(distributed.Client(cluster, timeout=CONNECT_SECONDS))
            except (OSError, ValueError) as error:  # a time-out is an OSError
                raise UsageError(
                    f"no dask scheduler answers at {cluster} within {CONNECT_SECONDS} s ({error}); its address stands in what "
                    "it prints at its start, as tcp://10.0.0.5:8786"
                ) from error
            if not _workers_with(client, cluster, needs or {}):
                click.echo(f"no worker is at {cluster} yet: the work waits for one", err=True)
        yield client


@contextmanager
def _local(distributed: Any, workers: int) -> Iterator[Any]:
    # What reaches every process of a terminal or a job ends the parent, which ends the others: they inherit the block.
    with blocked(*WARNINGS):
        resource_tracker.ensure_running()  # lifts the block of SIGINT, so it comes first
    with importlib.import_module("dask.config").set(_SETTINGS):
        with blocked(signal.SIGINT, *WARNINGS):
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                memory_limit=0,  # dask's would count the worker, and not its decoders
                silence_logs=logging.CRITICAL,  # each death is told by what comes of it
                scheduler_kwargs={"allowed_failures": 0},  # see `spread`
            )
        with cluster, distributed.Client(cluster) as client:
            try:
                yield client
            except BaseException:  # whoever is stopped has not the time to wait for a task's end
                for nanny in cluster.workers.values():
                    nanny.close_gracefully()  # else it starts another
                    if nanny.pid is not None:
                        os.kill(nanny.pid, signal.SIGKILL)
                raise


def spread(
    client: Any,
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    needs: Mapping[str, float] | None = None,
) -> Iterator[tuple[int, Result | WorkerDied]]:
    """Run `function` on every task, on any worker, and give (place of the task, result) as they come.

    A task whose worker left, or died with its result, is done again by another. One that lost more workers than the
    scheduler allows (none of `LOCAL`, 3 by dask's default) comes as `WorkerDied`; whether it killed them, or was only
    waiting there beside another that did, nobody knows.

    Args:
        client: of `connect`.
        function: of a module that workers can import. May be done more than once for a task.
        tasks: what can be pickled; results are to be small.
        needs: what a task takes of a worker's resources, as {"GPU": 1}.

    Raises:
        Interrupted: the scheduler is gone, or a signal came.
        Exception: what `function` raised.
    """
    distributed = _distributed()
    futures = client.map(function, tasks, pure=False, resources=dict(needs or {}))
    places = {future.key: place for place, future in enumerate(futures)}
    done = distributed.as_completed(futures)
    del futures  # what has been taken is forgotten by the workers too
    for future in done:
        raise_if_stopped()
        if future.status == "finished":
            yield places.pop(future.key), future.result()
        elif future.status == "error":
            error = future.exception()
            if not isinstance(error, distributed.KilledWorker):
                raise error
            yield (
                places.pop(future.key),
                WorkerDied(f"a worker died with its task ({error.last_worker.address})"),
            )
        else:
            raise Interrupted(
                f"the dask scheduler is gone, or dropped a task ({future.status}); what is whole is kept, run the same command "
                "again"
            )


def _workers_with(client: Any, cluster: str, needs: Mapping[str, float]) -> bool:
    """Whether there are workers yet; some may come. Raises UsageError where there are, and none can take the tasks."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    for name, amount in needs.items():
        if workers and not any(worker["resources"].get(name, 0) >= amount for worker in workers):
            raise UsageError(
                f"of the {counted(len(workers), 'worker')} at {cluster} none has the resource {name}; start "
                "them with --resources "
                f'"{name}={amount:g}"'
            )
    return bool(workers)


def _distributed() -> Any:
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise UsageError("dask workers need dask.distributed: pip install 'faster-video[dask]'") from error
