"""Several devices on one node: one process each. One device needs none of this, see `run_shards.run_shards`."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait

import torch

from ... import store as stores
from ...errors import FasterError, Interrupted
from ...runtime.signals import interruptible
from ...runtime.spawning import require_startable
from .events import Report, ShardEvent, VideoEvent
from .run_shards import Job, load_networks, run_shards
from .stages import ShardTask


def run_processes(
    job: Job,
    specs: Sequence[stores.FeatureSpec],
    manifest: stores.Manifest,
    tasks: Sequence[ShardTask],
    *,
    devices: Sequence[str],
    report: Report,
) -> None:
    """Deal the tasks out to one spawned process a device; task i goes to device i mod n.

    Raises:
        FasterError: as a process raised it; the others are ended, and their whole shards are kept.
        Interrupted: a process died.
    """
    require_startable()
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // len(devices))
    processes, pipes = [], []
    try:
        for i, device in enumerate(devices):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_device_main,
                args=(job, specs, manifest, tasks[i :: len(devices)], device, threads, theirs),
                name=f"extract on {device}",
            )
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        _follow(pipes, devices, report)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _follow(pipes: Sequence[Connection], devices: Sequence[str], report: Report) -> None:
    """Pass every process's reports on until each has said that it is done."""
    running = dict(zip(pipes, devices, strict=True))
    while running:
        for pipe in wait(list(running)):
            assert isinstance(pipe, Connection)
            try:
                message = pipe.recv()
            except EOFError:
                raise Interrupted(
                    f"the process on {running[pipe]} died; whole shards are kept, run the same command again"
                ) from None
            if message is None:
                del running[pipe]
            elif isinstance(message, FasterError):
                raise message
            elif isinstance(message, str):
                raise RuntimeError(f"the process on {running[pipe]} failed:\n{message}")
            elif isinstance(message, VideoEvent | ShardEvent):
                report(message)


def _device_main(
    job: Job,
    specs: Sequence[stores.FeatureSpec],
    manifest: stores.Manifest,
    tasks: Sequence[ShardTask],
    device: str,
    threads: int,
    pipe: Connection,
) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the parent too, which ends this process by SIGTERM
    torch.set_num_threads(threads)
    message: object = None
    try:
        with interruptible("whole shards are kept"):
            networks = [network for network, _ in load_networks(job, device)]
            run_shards(job, specs, manifest, tasks, networks, pipe.send)
    except FasterError as error:
        message = error
    except Exception:
        message = traceback.format_exc()
    with contextlib.suppress(BrokenPipeError):  # the parent may be gone
        pipe.send(message)
