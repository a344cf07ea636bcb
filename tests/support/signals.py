"""What becomes of Ctrl-C in the processes that a test starts: a test run in the background has inherited that it is ignored."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts(*, ignored: bool = False) -> Iterator[None]:
    """In the block SIGINT raises KeyboardInterrupt here and in programs that are started; or is ignored by both.

    As in a shell's foreground and in its background: a started program inherits nothing but whether a signal is ignored.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
