"""A pool of decoder processes that return clips through shared memory, in order, and survive any video.

Each process decodes one video at a time, with one thread. If a video makes its process crash or hang, the
process is replaced and the job ends as a `VideoFailure`; nothing else is affected. Pixels are written once,
into one of a fixed number of shared slots, and are never pickled. A video that does not fit a slot comes in
parts.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ...errors import UsageError
from ...runtime.signals import shielded_start
from ...runtime.spawning import GUARD, require_startable
from .decode import LoadedVideo, load_clips
from .decoder_process import Load, VideoFailure, serve
from .shared_memory import Shape, Slots

Key = TypeVar("Key")

TIMEOUT_SECONDS = 120.0
# If a process ends before it begins its job, the video is not the cause: another process tries, so many
# times.
_START_ATTEMPTS = 3
_START_SECONDS = 600.0  # for imports, which take minutes if many programs share few cores
_STOP_SECONDS = 0.2  # after `DecoderPool.stop`, its `run` ends within this time


@dataclass(frozen=True, kw_only=True)
class DecodeJob(Generic[Key]):
    """One video to load: `load(path, out=slot, **arguments)`, called in a decoder process.

    `key` is returned with the result. `load` is a function at a module's top level. It fills `out` from its
    beginning and returns a `LoadedVideo` whose clips are there, as `load_clips` and `load_random_video` do.
    It may also be a generator function that yields the video part by part and receives the slot for the next
    one, as `stream_clips` does. The arguments are pickled.
    """

    key: Key
    path: Path
    arguments: Mapping[str, Any]
    load: Load = load_clips


class DecoderPool:
    """`workers` decoder processes and `slots` slots, each for clips of one video: `shape` (M, L, H, W, 3).

    Use it in a `with` statement. With more slots than workers, decoding runs ahead of the consumer. The
    memory is slots × M·L·H·W·3 bytes, allocated at the first use; see `fit_slots`. The processes start with
    their first job. A video fails if one part takes longer than `timeout_seconds`.

    Raises:
        UsageError: fewer than one worker or slot, a timeout that is not positive, or a shape that is not five
            counts.
    """

    def __init__(
        self,
        workers: int,
        *,
        shape: Shape,
        slots: int,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        if workers < 1 or slots < 1 or timeout_seconds <= 0 or len(shape) != 5 or min(shape) < 1:
            raise UsageError(
                f"a pool of {workers} workers, {slots} slots of {shape}, "
                f"{timeout_seconds} s: all must be positive"
            )
        require_startable()
        self._timeout_seconds = timeout_seconds
        self._slots = Slots.create(shape, slots)
        self._free = list(range(slots))
        self._workers = [_Worker(self._slots) for _ in range(workers)]
        self._running = self._stopping = False

    def run(
        self, jobs: Iterable[DecodeJob[Key]]
    ) -> Generator[tuple[Key, LoadedVideo | VideoFailure], None, None]:
        """Yield (key, result) for each job, in the jobs' order.

        A video that is loaded in parts gives several successive results with its key, all but the last with
        `more`. If one of them is a `VideoFailure`, it is the last, and the ones before it are void. A
        result's clips are a view of its slot: they are valid until the next result is requested. Jobs are
        drawn as slots become free. Leaving the loop early abandons the jobs drawn so far.

        Raises:
            UsageError: the pool is closed or already running, or its processes cannot start.
        """
        if self._running:
            raise UsageError("this pool of decoders is running already")
        self._running, self._stopping = True, False
        drawn = iter(jobs)
        tickets: deque[_Ticket[Key]] = deque()
        try:
            while not self._stopping:
                if not self._workers:
                    raise UsageError("this pool of decoders is closed")
                self._dispatch(drawn, tickets)
                if not tickets:
                    return
                ticket = tickets[0]
                if not ticket.results:
                    self._wait()
                    continue
                result, slot = ticket.results.popleft()
                if isinstance(result, LoadedVideo) and slot is not None:
                    result = replace(result, clips=self._slots.view(slot)[: len(result.starts)])
                if ticket.is_over and not ticket.results:
                    tickets.popleft()
                yield ticket.job.key, result
                if slot is not None:
                    self._free.append(slot)
        finally:
            self._abandon()

    def stop(self) -> None:
        """Make a `run` in another thread end soon; results that it has not yielded are dropped."""
        self._stopping = True

    def close(self) -> None:
        """End all processes at once. Clips returned earlier stay readable."""
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
        """Assign the free slots, to the oldest video first.

        The last free slot is reserved for the oldest unfinished video, unless that holds one. The parts of
        all others wait until its parts have been taken, so it must be able to continue.
        """
        decoding = [ticket for ticket in tickets if not ticket.is_over]

        def is_free_for(ticket: _Ticket[Key] | None) -> bool:
            kept = bool(decoding) and ticket is not decoding[0] and not decoding[0].holds_slot
            return len(self._free) > kept

        for ticket in decoding:
            if ticket.waits and is_free_for(ticket):
                ticket.worker.go_on(self._free.pop(), self._timeout_seconds)
        for worker in self._workers:
            if worker.ticket is None and is_free_for(None):
                job = next(drawn, None)
                if job is None:
                    return
                ticket = _Ticket(job=job, worker=worker, slot=self._free.pop())
                tickets.append(ticket)
                decoding.append(ticket)
                worker.give(ticket)

    def _wait(self) -> None:
        """Receive from the busy processes until one sends something or reaches its timeout."""
        busy = [worker for worker in self._workers if worker.ticket is not None]
        patience = min(worker.deadline for worker in busy) - time.monotonic()
        wait([worker.pipe for worker in busy], min(max(patience, 0), _STOP_SECONDS))
        for worker in busy:
            try:
                # Messages are read before the deadline is checked: the caller may have been away for long.
                while worker.ticket is not None and worker.pipe.poll():
                    self._take(worker, worker.ticket, worker.pipe.recv())
            except (EOFError, OSError):  # the process died; its pipe ended after all that it had sent
                self._bury(worker)
                continue
            if worker.ticket is not None and time.monotonic() >= worker.deadline:
                self._bury(worker, stuck=True)

    def _take(
        self, worker: _Worker, ticket: _Ticket[Any], message: LoadedVideo | VideoFailure | None
    ) -> None:
        """Record that the job has begun (None), a part of its video, or its failure."""
        if message is None:
            worker.begun = True
            worker.deadline = time.monotonic() + self._timeout_seconds
            return
        worker.deadline = math.inf
        if isinstance(message, VideoFailure):
            self._fail(ticket, message.reason)
        else:
            ticket.results.append((message, ticket.slot))
            ticket.slot = None
            ticket.waits = message.more
            ticket.is_over = not message.more
        if ticket.is_over:
            worker.ticket = None

    def _fail(self, ticket: _Ticket[Any], reason: str) -> None:
        """End a job as failed. Its parts that are not taken yet are void."""
        held = [ticket.slot, *(slot for _, slot in ticket.results)]
        self._free.extend(slot for slot in held if slot is not None)
        ticket.slot = None
        ticket.results = deque([(VideoFailure(reason=reason), None)])
        ticket.waits, ticket.is_over = False, True

    def _bury(self, worker: _Worker, *, stuck: bool = False) -> None:
        """Finish the job of a process that died or hangs. The video failed only if its job had begun."""
        ticket, begun = worker.ticket, worker.begun
        end = worker.stop(kill=stuck)
        if ticket is None:
            return
        if begun and stuck:
            self._fail(ticket, f"decoding took longer than {self._timeout_seconds:g} s and was stopped")
        elif begun:
            self._fail(ticket, f"the decoder process died ({end})")
        else:
            ticket.attempts += 1
            if ticket.attempts == _START_ATTEMPTS:
                raise UsageError(
                    f"decoder processes end at their start ({end}): a script that uses them needs {GUARD}"
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
    """A job in progress: its slot being filled, and the results that are not taken yet, with their slots."""

    job: DecodeJob[Key]
    worker: _Worker
    slot: int | None
    results: deque[tuple[LoadedVideo | VideoFailure, int | None]] = field(default_factory=deque)
    waits: bool = False  # for a slot, to continue
    is_over: bool = False
    attempts: int = 0

    @property
    def holds_slot(self) -> bool:
        """Whether it continues without a free slot: it fills one, or its untaken results return one."""
        return self.slot is not None or bool(self.results)


class _Worker:
    """The parent's side of one decoder process. The process starts with its first job."""

    def __init__(self, slots: Slots) -> None:
        self.ticket: _Ticket[Any] | None = None
        self.begun = False
        self.deadline = 0.0
        self.pipe: Connection
        self._slots = slots
        self._process: SpawnProcess | None = None

    def give(self, ticket: _Ticket[Any]) -> None:
        """Send a job to the process, with its first slot."""
        if self._process is None:
            self._start()
        self.ticket, self.begun = ticket, False
        self.deadline = time.monotonic() + _START_SECONDS
        job = ticket.job
        self._send((job.load, job.path, dict(job.arguments), ticket.slot))

    def go_on(self, slot: int, timeout_seconds: float) -> None:
        """Send the slot for the next part of the process's video."""
        assert self.ticket is not None
        self.ticket.slot, self.ticket.waits = slot, False
        self.deadline = time.monotonic() + timeout_seconds
        self._send(slot)

    def _send(self, message: object) -> None:
        # If the process died while it waited, this is noticed in the wait for it.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(message)

    def stop(self, *, kill: bool = True) -> str:
        """End the process, or wait for one that is ending; return how it ended."""
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
            target=serve, args=(theirs, self._slots), name="faster-decoder", daemon=True
        )
        with contextlib.closing(theirs), shielded_start():
            process.start()
            self._process = process
