"""Shards on dask workers. What kills its worker is found and recorded as failed; everything else is done elsewhere."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ... import store as stores
from ...errors import Interrupted, ProvenanceMismatch, SourceError
from ...runtime.dask_cluster import LOCAL, WHOLE_WORKER, WorkerDied, connect, spread
from ...store.format.receipts import read_receipt, receipt_path
from ...terminal.text import agreeing, counted
from ..video.decoder_pool import DecoderPool
from ..video.shared_memory import Shape
from .events import Report, ShardEvent, VideoEvent
from .run_shards import Job, load_networks, run_shards
from .stages import ShardTask, shard_event

REASON = "killed the process that ran it"
ROUNDS = 3
"""How often shards are given to workers, with the search between for what kills them."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker needs beside its tasks, and keeps from one to the next; the manifest it reads from the store.

    Attributes:
        keys: (model, clip frames) of each model of the job. fingerprints: of their specs.
        segments: of the manifest, as `Manifest.segments`.
        devices: where the networks run; worker i of this machine takes device i.
        threads: of a worker; None leaves what it has.
        version: of this package, where the command runs.
    """

    job: Job
    keys: tuple[tuple[str, int], ...]
    fingerprints: tuple[str, ...]
    segments: tuple[str, ...]
    devices: tuple[str, ...]
    threads: int | None
    version: str


def run_dask(
    job: Job,
    specs: Sequence[stores.FeatureSpec],
    manifest: stores.Manifest,
    tasks: Sequence[ShardTask],
    *,
    cluster: str,
    devices: Sequence[str],
    report: Report,
) -> None:
    """Do the shards on dask workers; a task is a shard, and what comes back are its events.

    A shard that is lost with several workers is tried video by video, with nothing beside it, and what kills a worker
    then is recorded as failed. The store's bytes are those of a serial run with as many threads.

    Args:
        cluster: `LOCAL`, one worker a device, or a scheduler's address, whose workers take the one device named.

    Raises:
        UsageError: as `dask_cluster.connect`.
        ProvenanceMismatch: a worker has another store or other weights at the same place, another version of this package, or
            computes otherwise.
        SourceError: a worker does not see the videos.
        Interrupted: a signal; the scheduler is gone; or shards kill workers though none of their videos does.
        FasterError: as a worker raised it; whole shards are kept.
    """
    local = cluster == LOCAL
    setup = Setup(
        job=replace(job, store=str(Path(job.store).absolute()), root=str(Path(job.root).absolute())),
        keys=tuple((spec.model, spec.clip_frames) for spec in specs),
        fingerprints=tuple(spec.fingerprint for spec in specs),
        segments=manifest.segments,
        devices=tuple(devices),
        threads=max(1, torch.get_num_threads() // len(devices)) if local else None,
        version=__version__,
    )
    needs = {"GPU": 1} if not local and devices[0].startswith("cuda") else {}
    with connect(cluster, workers=len(devices), needs=needs) as client:
        todo = list(tasks)
        for round_ in range(ROUNDS):
            if round_:
                todo = [_without_guilty(client, setup, task, needs) for task in todo]
            lost = []
            for place, result in spread(client, partial(_do_shard, setup), todo, needs=needs):
                if isinstance(result, WorkerDied):
                    lost.append(todo[place])
                else:
                    for event in result:
                        report(event)
            if not lost:
                return
            todo = sorted(lost, key=lambda task: task.shard)
    raise Interrupted(
        f"{counted(len(todo), 'shard')} {agreeing(len(todo), 'kills', 'kill')} the workers that run "
        f"{agreeing(len(todo), 'it', 'them')}, though none of their videos does alone (the first is shard "
        f"{todo[0].shard}); perhaps workers have too little memory. All others are whole: run the same command again"
    )


def _without_guilty(client: Any, setup: Setup, task: ShardTask, needs: Mapping[str, float]) -> ShardTask:
    """The task with those of its videos given up that kill workers; one after another, so that no other is to blame."""
    known = dict(task.given_up)
    for row in task.rows:
        if row not in known:
            trial = replace(task, rows=(row,), given_up=(), trial=True)
            [(_, result)] = spread(client, partial(_do_shard, setup), [trial], needs=needs)
            if isinstance(result, WorkerDied):
                known[row] = REASON
    return replace(task, given_up=tuple(sorted(known.items())))


def _do_shard(setup: Setup, task: ShardTask) -> list[VideoEvent | ShardEvent]:
    """On a worker: one shard at a time, whatever number of threads dask gives it."""
    global _session
    with WHOLE_WORKER:
        if _session is None or _session.setup != setup:
            _end_session()
            _session = _Session(setup)
        try:
            return _session.run(task)
        except BaseException:
            _end_session()  # its decoders may be in the middle of something
            raise


def _end_session() -> None:
    global _session
    if _session is not None:
        _session.close()
    _session = None


class _Session:
    """A worker's networks, decoders and view of the store, kept from one task to the next."""

    def __init__(self, setup: Setup) -> None:
        # Dask makes its workers daemons of multiprocessing, which start no processes; decoders end with their parent.
        multiprocessing.current_process().daemon = False
        self.setup = setup
        if setup.version != __version__:
            raise ProvenanceMismatch(
                f"the worker on {socket.gethostname()} has faster {__version__}, this process {setup.version}; install the "
                "same one on both"
            )
        store = stores.open(setup.job.store)
        self._features = [store.features(*key) for key in setup.keys]
        self._specs = [features.spec for features in self._features]
        self._manifest = store.videos
        seen = (tuple(spec.fingerprint for spec in self._specs), self._manifest.segments)
        if seen != (setup.fingerprints, setup.segments):
            raise ProvenanceMismatch(
                f"the worker on {socket.gethostname()} finds another store at {setup.job.store}; all must see the same one"
            )
        networks = load_networks(setup.job, self._device())
        for (network, info), spec in zip(networks, self._specs, strict=True):
            here, there = (info.digest, network.precision), (spec.weights_digest, spec.precision)
            if here != there:
                raise ProvenanceMismatch(
                    f"the worker on {socket.gethostname()} runs {spec.model} with weights {here[0][:12]} in {here[1]}; the "
                    f"store's maps are of {there[0][:12]} in {there[1]}"
                )
        self._networks = [network for network, _ in networks]
        self._pools: dict[tuple[Shape, int], DecoderPool] = {}

    def run(self, task: ShardTask) -> list[VideoEvent | ShardEvent]:
        """Do a shard and return its events; what is whole by now, as where a result was lost, is not done again.

        Raises:
            SourceError: of its videos none is here; recorded as failed, a worker that sees none would soon fail them all.
        """
        if self.setup.threads is not None:
            torch.set_num_threads(self.setup.threads)
        events: list[VideoEvent | ShardEvent] = []
        lacking = []
        for model, view in task.outputs:
            folder = self._features[model].folder
            if receipt_path(folder, task.shard, view).exists():
                events.append(shard_event(self._specs[model].model, read_receipt(folder, task.shard, view)))
            else:
                lacking.append((model, view))
        if lacking:
            root = Path(self.setup.job.root)
            if not task.trial and not any((root / self._manifest.paths[row]).exists() for row in task.rows):
                raise SourceError(
                    f"the worker on {socket.gethostname()} finds none of the videos of shard {task.shard} in {root}; all must "
                    "see the same ones"
                )
            run_shards(
                self.setup.job,
                self._specs,
                self._manifest,
                [replace(task, outputs=tuple(lacking))],
                self._networks,
                events.append,
                open_pool=self._open_pool,
            )
        return events

    def close(self) -> None:
        """End the decoders."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    def _open_pool(self, workers: int, *, shape: Shape, slots: int) -> AbstractContextManager[DecoderPool]:
        if (shape, slots) not in self._pools:
            self._pools[shape, slots] = DecoderPool(workers, shape=shape, slots=slots)
        return nullcontext(self._pools[shape, slots])

    def _device(self) -> str:
        devices = self.setup.devices
        if len(devices) == 1:
            return devices[0]
        return devices[int(import_module("distributed").get_worker().name) % len(devices)]


_session: _Session | None = None
