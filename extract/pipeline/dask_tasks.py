"""Shards on dask workers. A video that kills its worker is found and recorded as failed.

All other videos are done on other workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...errors import Interrupted
from ...runtime.dask_cluster import WorkerDied, connect
from ...runtime.fan_out import spread_units
from ...terminal.text import agreeing, counted
from .events import Report
from .job import ExtractJob, ShardTask
from .worker import open_worker

REASON = "killed the process that ran it"
ROUNDS = 3
"""How often shards are given to workers, with a search between for the videos that kill them."""


def run_dask(job: ExtractJob, tasks: Sequence[ShardTask], *, cluster: str, gpu: bool, report: Report) -> None:
    """Make the shards on dask workers. A unit is a shard, and a worker returns its events.

    A shard that is lost with several workers is tried video by video, alone on its worker. A video that then
    kills a worker is recorded as failed. The store's bytes are those of a serial run with as many threads.

    Args:
        cluster: `LOCAL` for one worker per device, or a scheduler's address; its workers use the one device
            named.
        gpu: whether a shard takes a worker's resource "GPU".

    Raises:
        UsageError: as `dask_cluster.connect`.
        ProvenanceMismatch: as `open_worker`, or a worker has another version of this package.
        SourceError: a worker does not see the videos.
        Interrupted: a signal; the scheduler is gone; or shards kill workers although none of their videos
            does.
        FasterError: as a worker raised it; complete shards are kept.
    """
    needs = {"GPU": 1.0} if gpu else {}
    with connect(cluster, workers=len(job.devices), needs=needs) as client:

        def lost(tasks: Sequence[ShardTask], report: Report) -> list[ShardTask]:
            """Make shards; return those whose workers died."""
            died = []
            units = [[task] for task in tasks]
            for place, events in spread_units(client, units, job, open_worker, needs=needs):
                if isinstance(events, WorkerDied):
                    died.append(tasks[place])
                else:
                    for event in events:
                        report(event)
            return sorted(died, key=lambda task: task.shard)

        def without_guilty(task: ShardTask) -> ShardTask:
            """Mark as failed the videos of a shard that kill workers, tried one at a time."""
            known = dict(task.given_up)
            for row in task.rows:
                trial = replace(task, rows=(row,), given_up=(), trial=True)
                if row not in known and lost([trial], _ignore):
                    known[row] = REASON
            return replace(task, given_up=tuple(sorted(known.items())))

        pending = lost(tasks, report)
        for _ in range(ROUNDS - 1):
            if not pending:
                return
            pending = lost([without_guilty(task) for task in pending], report)
    if pending:
        raise Interrupted(
            f"{counted(len(pending), 'shard')} {agreeing(len(pending), 'kills', 'kill')} the workers that "
            f"run {agreeing(len(pending), 'it', 'them')}, though none of their videos does alone (the first "
            f"is shard {pending[0].shard}); perhaps workers have too little memory. All others are whole: "
            "run the same command again"
        )


def _ignore(event: Any) -> None:
    """Drop the event: nothing of a trial is kept."""
