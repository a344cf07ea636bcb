"""Being stopped from outside: a batch system's signals become `Interrupted`, wherever the work stands."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

from ..errors import Interrupted

# What a batch system sends ahead, often to all processes of a job at once: helpers wait it out, for who leads them ends them.
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
STOP_SIGNALS = (signal.SIGTERM, *WARNINGS)


_stopped_by = ""  # the message of a stop that is under way
_depth = 0  # of `interruptible` blocks around the main thread's work


@contextmanager
def interruptible(what_is_kept: str) -> Iterator[None]:
    """Raise `Interrupted` where SIGTERM, SIGUSR1 or SIGUSR2 arrives; the old handlers return at the end.

    For work whose every commit is a single step, so that it may be left at any point. Only the first signal
    counts, so that a second one does not break off the leaving. May be nested.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        global _stopped_by
        if not _stopped_by:
            _stopped_by = (
                f"stopped by {signal.Signals(number).name}; {what_is_kept}, run the same command again"
            )
            raise Interrupted(_stopped_by)

    global _stopped_by, _depth
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    previous = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    _depth += 1
    try:
        yield
        raise_if_stopped()
    finally:
        _depth -= 1
        if not _depth:
            _stopped_by = ""
        for number, handler in previous.items():
            signal.signal(number, handler)


def raise_if_stopped() -> None:
    """For every turn of long work: a signal that came where Python drops exceptions, as in a destructor, still counts.

    Raises:
        Interrupted: a signal has come.
    """
    if _stopped_by:
        raise Interrupted(_stopped_by)


@dataclass
class StopRequest:
    """`asked` is the number of the signal that asked to stop, 0 as long as none did; `once`: others change nothing."""

    asked: int = 0
    once: bool = False
    _previous: dict[int, Any] = field(default_factory=dict)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.asked or number
        if not self.once:
            self._restore()  # the next signal acts at once

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGTERM, SIGUSR1, SIGUSR2 and SIGINT instead of acting on them, for work that ends its step first.

    SIGINT stays ignored where it is: a shell's background job was started so, and Ctrl-C is meant for another.

    A second signal acts as it would have, but in a child of multiprocessing only the first counts: who signals a group
    of processes reaches it twice, once through its parent. The old handlers return at the end.
    """
    request = StopRequest(once=multiprocessing.parent_process() is not None)
    if threading.current_thread() is threading.main_thread():  # only there can signals be handled
        interrupts = () if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else (signal.SIGINT,)
        for number in (*STOP_SIGNALS, *interrupts):
            request._previous[number] = signal.signal(number, request._ask)
    try:
        yield request
    finally:
        request._restore()


@contextmanager
def blocked(*signals: signal.Signals) -> Iterator[None]:
    """Signals wait until the end; processes and threads that are started meanwhile never see them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def shielded_start() -> Iterator[None]:
    """A process that is started in it never sees Ctrl-C or a batch system's warning: they reach this one too, which ends it.

    No signal breaks off the start, or leaves a process of which nobody knows. The process lets SIGTERM through itself,
    when it is ready for it.
    """
    with blocked(*STOP_SIGNALS):
        resource_tracker.ensure_running()  # lifts blocks, so it comes before the second one
        with blocked(*STOP_SIGNALS, signal.SIGINT):
            yield


def end_with_parent() -> None:
    """In a process of multiprocessing: without its parent, even one that was killed, it ends itself, whatever it does."""

    def follow() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
