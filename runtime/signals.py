"""Handle signals that stop the program: a batch system's signals raise `Interrupted` at any point."""

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

# Early warnings of a batch system, often sent to all processes of a job: helpers ignore them, their leader
# ends them.
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
STOP_SIGNALS = (signal.SIGTERM, *WARNINGS)


_stopped_by = ""  # the message of the current stop
_depth = 0  # of `interruptible` blocks around the main thread's work


@contextmanager
def interruptible(what_is_kept: str) -> Iterator[None]:
    """Raise `Interrupted` on SIGTERM, SIGUSR1 or SIGUSR2; the old handlers are restored at the end.

    For work whose commits are atomic, so that it may stop at any point. Only the first signal counts, so that
    a second one does not interrupt the cleanup. May be nested.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        global _stopped_by
        if not _stopped_by:
            _stopped_by = (
                f"stopped by {signal.Signals(number).name}; {what_is_kept}, run the same command again"
            )
            raise Interrupted(_stopped_by)

    global _stopped_by, _depth
    if threading.current_thread() is not threading.main_thread():  # only this one can handle signals
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
    """Raise `Interrupted` again, in each iteration of long work: Python may drop it, as in a destructor.

    Raises:
        Interrupted: a signal has arrived.
    """
    if _stopped_by:
        raise Interrupted(_stopped_by)


@dataclass
class StopRequest:
    """A request to stop: `asked` is the signal's number or 0; with `once`, later signals have no effect."""

    asked: int = 0
    once: bool = False
    _previous: dict[int, Any] = field(default_factory=dict)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.asked or number
        if not self.once:
            self._restore()  # the next signal acts immediately

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Record SIGTERM, SIGUSR1, SIGUSR2 and SIGINT without acting, for work that finishes its step first.

    SIGINT stays ignored if it was ignored before: a shell starts a background job so, and Ctrl-C is for
    another job.

    A second signal acts as usual. But in a child of multiprocessing only the first counts, because a signal
    to a process group reaches it twice, once through its parent. The old handlers are restored at the end.
    """
    request = StopRequest(once=multiprocessing.parent_process() is not None)
    if threading.current_thread() is threading.main_thread():  # only this one can handle signals
        interrupts = () if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else (signal.SIGINT,)
        for number in (*STOP_SIGNALS, *interrupts):
            request._previous[number] = signal.signal(number, request._ask)
    try:
        yield request
    finally:
        request._restore()


@contextmanager
def blocked(*signals: signal.Signals) -> Iterator[None]:
    """Delay signals until the end; processes and threads that start meanwhile never see them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def shielded_start() -> Iterator[None]:
    """Shield a process that starts in the block from Ctrl-C and a batch system's warning; its parent ends it.

    No signal interrupts the start, or leaves a process that is not recorded. The process unblocks SIGTERM
    itself, when it is ready for it.
    """
    with blocked(*STOP_SIGNALS):
        resource_tracker.ensure_running()  # unblocks signals, so it comes before the second block
        with blocked(*STOP_SIGNALS, signal.SIGINT):
            yield


def end_with_parent() -> None:
    """End this process of multiprocessing at once when its parent ends, even if the parent was killed."""

    def follow() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
