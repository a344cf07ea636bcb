"""Run work on dask workers, of this machine or of an existing cluster. Only `connect` needs dask."""

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
"""Means workers of this machine; any other name is the address of a scheduler."""

WHOLE_WORKER = Lock()
"""A lock on a worker, for tasks that need all of its memory, threads or GPU."""

CONNECT_SECONDS = 30

_SETTINGS = {
    # Dask's default would set one OpenMP thread, also in this process's environment.
    "distributed.nanny.pre-spawn-environ": {},
    # A worker that is restarting this long after an earlier death would be given up permanently.
    "distributed.deploy.lost-worker-timeout": "52 weeks",
}

Task = TypeVar("Task")
Result = TypeVar("Result")
Command = Callable[..., Any]


class WorkerDied(Interrupted):
    """The worker with a task died, and so did the workers that tried it again."""


def cluster_options(command: Command) -> Command:
    """Add --executor and --scheduler; the command gets `cluster`: None, `LOCAL`, or a scheduler's address."""

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
    """Connect to a cluster; yields a `distributed.Client`.

    Workers of this machine are processes with one thread each, which end with the block. They and their
    dashboard listen on the loopback interface only. A worker that dies is replaced.

    Args:
        cluster: `LOCAL`, or a scheduler's address.
        workers: number of workers to start, for `LOCAL`.
        needs: the resources of a worker that each task takes.

    Raises:
        UsageError: dask is not installed; no scheduler answers; or none of its workers has the resources.
    """
    distributed = _distributed()
    with ExitStack() as stack:
        if cluster == LOCAL:
            client = stack.enter_context(_local(distributed, workers))
        else:
            try:
                client = stack.enter_context(distributed.Client(cluster, timeout=CONNECT_SECONDS))
            except (OSError, ValueError) as error:  # a timeout is an OSError
                raise UsageError(
                    f"no dask scheduler answers at {cluster} within {CONNECT_SECONDS} s ({error}); "
                    "its address stands in what it prints at its start, as tcp://10.0.0.5:8786"
                ) from error
            if not _workers_with(client, cluster, needs or {}):
                click.echo(f"no worker is at {cluster} yet: the work waits for one", err=True)
        yield client


@contextmanager
def _local(distributed: Any, workers: int) -> Iterator[Any]:
    # Workers inherit the block. A signal to all processes of a terminal or job ends the parent; it ends them.
    with blocked(*WARNINGS):
        resource_tracker.ensure_running()  # unblocks SIGINT, so it comes first
    with importlib.import_module("dask.config").set(_SETTINGS):
        with blocked(signal.SIGINT, *WARNINGS):
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                memory_limit=0,  # dask would count the worker, but not its decoders
                silence_logs=logging.CRITICAL,  # a death shows in the results
                scheduler_kwargs={"allowed_failures": 0},  # see `spread`
            )
        with cluster, distributed.Client(cluster) as client:
            try:
                yield client
            except BaseException:  # an interrupted run must not wait for its tasks
                for nanny in cluster.workers.values():
                    nanny.close_gracefully()  # otherwise it starts another worker
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
    """Run `function` on every task, on any worker, and yield (index of the task, result) as they arrive.

    If a worker leaves, or dies with its result, another worker does the task again. A task that lost more
    workers than the scheduler allows (none with `LOCAL`, 3 by dask's default) gives `WorkerDied`. Either it
    killed them, or it only waited on a worker that another task killed.

    Args:
        client: from `connect`.
        function: of a module that workers can import. It may run more than once for a task.
        tasks: must be picklable; results should be small.
        needs: the resources of a worker that a task takes, as {"GPU": 1}.

    Raises:
        Interrupted: the scheduler is gone, or a signal arrived.
        Exception: an error of `function`.
    """
    distributed = _distributed()
    futures = client.map(function, tasks, pure=False, resources=dict(needs or {}))
    places = {future.key: place for place, future in enumerate(futures)}
    done = distributed.as_completed(futures)
    del futures  # so that workers can free results that were received
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
                f"the dask scheduler is gone, or dropped a task ({future.status}); what is whole is kept, "
                "run the same command again"
            )


def _workers_with(client: Any, cluster: str, needs: Mapping[str, float]) -> bool:
    """Return whether there are workers yet. Raises UsageError if there are, but none has the resources."""
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
