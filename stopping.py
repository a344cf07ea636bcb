"""Being stopped from outside: a batch system's signals become `Interrupted`, wherever the work stands."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import Interrupted

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def interruptible(what_is_kept: str) -> Iterator[None]:
    """Raise `Interrupted` where SIGTERM or SIGUSR1 arrives; the old handlers return at the end.

    For work whose every commit is a single step, so that it may be left at any point.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(
            f"stopped by {signal.Signals(number).name}; {what_is_kept}, run the same command again"
        )

    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    previous = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
