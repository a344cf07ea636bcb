"""A pool of decoder processes that hand over clips through shared memory, in order, and survive any video.

Each process decodes one video at a time, with one thread. A video that makes its process crash or stall costs
that process, which is replaced, and nothing else: its job ends as a `VideoFailure`. Pixels are written once, into
one of a fixed number of slots that all processes share, and are never pickled. The memory has no name, so nothing
is left behind however the program ends.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError, VideoError
from .decode import LoadedVideo, load_clips

Key = TypeVar("Key")

TIMEOUT_SECONDS = 120.0
# A process that ends before it begins its job was not ended by the video: another one tries, so many times.
_START_ATTEMPTS = 3
_START_SECONDS = 60.0
_NO_PIXELS = np.empty(0, dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class VideoFailure:
    """Why a video has no clips, in one line."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class DecodeJob(Generic[Key]):
    """One video to load: `load(path, out=slot, **arguments)`, called in a decoder process.

    `key` comes back with the result. `load` is a function at a module's top level, such as `load_clips` or
    `load_random_video`; it fills `out` and returns a `LoadedVideo` whose clips are `out`. The arguments are
    pickled.
    """

    key: Key
    path: Path
    arguments: Mapping[str, Any]
    load: Callable[..., LoadedVideo] = load_clips


class DecoderPool:
    """`workers` decoder processes around `slots` slots, each for one video's clips of `shape` (M, L, H, W, 3).

    Use it in a `with` statement. More slots than workers let decoding run ahead of the consumer. The memory is
    slots × M·L·H·W·3 bytes, taken when first used. The processes start with their first job. A video that takes
    longer than `timeout_seconds` is given up.

    Raises:
        UsageError: fewer than one worker or slot, no time, or a shape that is not five counts.
    """

    def __init__(
        self,
        workers: int,
        *,
        shape: tuple[int, int, int, int, int],
        slots: int,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        if workers < 1 or slots < 1 or timeout_seconds <= 0 or len(shape) != 5 or min(shape) < 1:
            raise UsageError(
                f"a pool of {workers} workers, {slots} slots of {shape}, {timeout_seconds} s: all must be positive"
            )
        self._timeout_seconds = timeout_seconds
        self._slots = _Slots.create(shape, slots)
        self._free = list(range(slots))
        self._workers = [_Worker(self._slots) for _ in range(workers)]
        self._running = False

    def run(self, jobs: Iterable[DecodeJob[Key]]) -> Iterator[tuple[Key, LoadedVideo | VideoFailure]]:
        """Yield (key, result) for each job, in the jobs' order.

        A result's clips are a view of its slot: they hold until the next result is asked for. Jobs are drawn as
        slots become free. Leaving the loop early abandons the jobs drawn so far.

        Raises:
            UsageError: the pool is closed or already running, or its processes cannot start.
        """
        if self._running:
            raise UsageError("this pool of decoders is running already")
        self._running = True
        drawn = iter(jobs)
        tickets: deque[_Ticket[Key]] = deque()
        try:
            while True:
                if not self._workers:
                    raise UsageError("this pool of decoders is closed")
                self._dispatch(drawn, tickets)
                if not tickets:
                    return
                result = tickets[0].result
                if result is None:
                    self._wait()
                    continue
                ticket = tickets.popleft()
                if isinstance(result, LoadedVideo):
                    result = replace(result, clips=self._slots.view(ticket.slot))
                yield ticket.job.key, result
                self._free.append(ticket.slot)
        finally:
            self._abandon()

    def close(self) -> None:
        """End all processes, at once. Clips handed out earlier stay readable."""
        for worker in self._workers:
            worker.stop()
        self._workers.clear()
        self._slots.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _dispatch(self, drawn: Iterator[DecodeJob[Key]], tickets: deque[_Ticket[Key]]) -> None:
        for worker in self._workers:
            if worker.ticket is None and self._free:
                job = next(drawn, None)
                if job is None:
                    return
                ticket = _Ticket(job=job, slot=self._free.pop())
                tickets.append(ticket)
                worker.give(ticket)

    def _wait(self) -> None:
        """Take what the busy processes send, until one has something to say or has had its time."""
        busy = [worker for worker in self._workers if worker.ticket is not None]
        patience = min(worker.deadline for worker in busy) - time.monotonic()
        wait([worker.pipe for worker in busy], max(patience, 0))
        for worker in busy:
            try:
                # What was sent comes before the deadline: the caller may have been away for long.
                while worker.ticket is not None and worker.pipe.poll():
                    worker.take(worker.pipe.recv(), self._timeout_seconds)
            except (EOFError, OSError):  # the process died; its pipe ended behind all that it had sent
                self._bury(worker)
                continue
            if worker.ticket is not None and time.monotonic() >= worker.deadline:
                self._bury(worker, stuck=True)

    def _bury(self, worker: _Worker, *, stuck: bool = False) -> None:
        """Settle the job of a process that died or is stuck. The video is at fault only if its job had begun."""
        ticket, begun = worker.ticket, worker.begun
        end = worker.stop(kill=stuck)
        if ticket is None:
            return
        if begun and stuck:
            ticket.result = VideoFailure(
                reason=f"decoding took longer than {self._timeout_seconds:g} s and was stopped"
            )
        elif begun:
            ticket.result = VideoFailure(reason=f"the decoder process died ({end})")
        else:
            ticket.attempts += 1
            if ticket.attempts == _START_ATTEMPTS:
                raise UsageError(
                    f"decoder processes end at their start ({end}): a script that uses them needs "
                    'its own code under `if __name__ == "__main__":`'
                )
            worker.give(ticket)

    def _abandon(self) -> None:
        for worker in self._workers:
            if worker.ticket is not None:
                worker.stop()
        self._free = list(range(self._slots.count))
        self._running = False


@dataclass(kw_only=True, eq=False)
class _Ticket(Generic[Key]):
    """A job on its way: its slot, and its result once there is one."""

    job: DecodeJob[Key]
    slot: int
    result: LoadedVideo | VideoFailure | None = None
    attempts: int = 0


class _Worker:
    """The parent's side of one decoder process, started when it is first given a job."""

    def __init__(self, slots: _Slots) -> None:
        self.ticket: _Ticket[Any] | None = None
        self.begun = False
        self.deadline = 0.0
        self.pipe: Connection
        self._slots = slots
        self._process: SpawnProcess | None = None

    def give(self, ticket: _Ticket[Any]) -> None:
        """Send a job to the process."""
        if self._process is None:
            self._start()
        self.ticket, self.begun = ticket, False
        self.deadline = time.monotonic() + _START_SECONDS
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # died while idle: seen when waited for
            self.pipe.send((ticket.job.load, ticket.job.path, dict(ticket.job.arguments), ticket.slot))

    def take(self, message: LoadedVideo | VideoFailure | None, timeout_seconds: float) -> None:
        """Note that the job has begun (None), or its result."""
        if message is None:
            self.begun = True
            self.deadline = time.monotonic() + timeout_seconds
        elif self.ticket is not None:
            self.ticket.result = message
            self.ticket = None

    def stop(self, *, kill: bool = True) -> str:
        """End the process, or let one that is ending end; say how it ended."""
        process, self._process, self.ticket = self._process, None, None
        if process is None:
            return "not started"
        if not kill:
            process.join(timeout=5)
        process.kill()
        process.join()
        code = process.exitcode or 0
        self.pipe.close()
        process.close()
        return f"signal {-code}, {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _start(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, self._slots), name="faster-decoder", daemon=True
        )
        # Ctrl-C reaches the whole process group: the parent decides, its decoders never see it. (Starting the
        # tracker lifts the block, so it comes first.)
        resource_tracker.ensure_running()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
        self._process = process


class _Slots:
    """Memory without a name, shared by all processes that are given its descriptor."""

    def __init__(self, descriptor: int, shape: tuple[int, ...], count: int) -> None:
        self._descriptor = descriptor
        self._shape = shape
        self._stride = -(-prod(shape) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory: mmap.mmap | None = mmap.mmap(descriptor, self._stride * count)
        self.count = count

    @classmethod
    def create(cls, shape: tuple[int, ...], count: int) -> _Slots:
        descriptor = os.memfd_create("faster-clips", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, -(-prod(shape) // mmap.PAGESIZE) * mmap.PAGESIZE * count)
        return cls(descriptor, shape, count)

    def view(self, slot: int) -> NDArray[np.uint8]:
        if self._memory is None:
            raise UsageError("this pool of decoders is closed")
        flat = np.frombuffer(
            self._memory, dtype=np.uint8, count=prod(self._shape), offset=slot * self._stride
        )
        return flat.reshape(self._shape)

    def close(self) -> None:
        """Give up the memory; it goes with the last view of it."""
        if self._memory is not None:
            self._memory = None
            os.close(self._descriptor)

    def __reduce__(self) -> tuple[Callable[..., _Slots], tuple[object, ...]]:
        return _attach, (DupFd(self._descriptor), self._shape, self.count)


def _attach(duplicate: Any, shape: tuple[int, ...], count: int) -> _Slots:
    return _Slots(duplicate.detach(), shape, count)


def _serve(pipe: Connection, slots: _Slots) -> None:
    """A decoder process: load what comes, until the parent's end of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            load, path, arguments, slot = pipe.recv()
            pipe.send(None)
            pipe.send(_outcome(load, path, arguments, slots.view(slot)))


def _outcome(
    load: Callable[..., LoadedVideo], path: Path, arguments: dict[str, Any], out: NDArray[np.uint8]
) -> LoadedVideo | VideoFailure:
    try:
        video = load(path, out=out, **arguments)
        if video.clips is not out:
            raise TypeError(f"{load.__qualname__} did not load into its slot")
    except VideoError as error:
        return VideoFailure(reason=_one_line(str(error)))
    except BaseException as error:  # the video's door: whatever a decoder raises is this video's failure
        return VideoFailure(reason=_one_line(f"{type(error).__name__}: {error}"))
    return replace(video, clips=_NO_PIXELS)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _end_with_parent() -> None:
    """A decode that is stuck would never see the pipe close."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
