"""A stage of the pipeline in a thread of its own: it does in order what it is given, a bounded number of things ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Queue
from types import TracebackType
from typing import Self

Work = Callable[[], None]


class Behind:
    """A thread that does work in the order given, at most `ahead` pieces of it waiting. Use it in a `with` statement.

    Left normally, all work is done first. Left by an exception, what waits is dropped. What a piece of work raises is
    raised by the next `do`, or at the end, and nothing is done after it.
    """

    def __init__(self, name: str, *, ahead: int) -> None:
        self.idle_seconds = 0.0
        self._queue: Queue[Work | None] = Queue(maxsize=ahead)
        self._error: BaseException | None = None
        self._dropping = False
        self._ended = threading.Event()
        # A daemon, so that an exception within the leaving cannot keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def do(self, work: Work) -> None:
        """Let the thread do it after all that came before; waits where too much is waiting.

        Raises:
            BaseException: what a piece of work raised.
        """
        if self._error is not None:
            raise self._error
        self._queue.put(work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._dropping = True
        try:
            self._end()
        except BaseException:
            self._dropping = True
            self._end()
            raise
        if self._error is not None and kind is None:
            raise self._error

    def _end(self) -> None:
        self._queue.put(None)
        self._ended.wait()  # not join, which an exception from a signal would leave believing that the thread has ended

    def _run(self) -> None:
        while True:
            began = time.perf_counter()
            work = self._queue.get()
            self.idle_seconds += time.perf_counter() - began
            if work is None:
                break
            if self._dropping:
                continue
            try:
                work()
            except BaseException as error:
                self._error, self._dropping = error, True
        self._ended.set()
