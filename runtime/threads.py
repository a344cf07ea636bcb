"""Work in a thread of its own: done behind the caller in order, or made ahead of it, a bounded number of things at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from queue import Queue, SimpleQueue
from types import TracebackType
from typing import Self, TypeVar

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


ItemT = TypeVar("ItemT")


def made_ahead(
    items: Generator[ItemT, None, None], *, ahead: int, stop: Callable[[], None]
) -> Generator[ItemT, None, None]:
    """The items, made in a thread, at most `ahead` of them before they are asked for; what making raises is raised.

    Closing it calls `stop`, which must make a `next(items)` under way end soon, and returns when the thread has closed
    `items` and ended.
    """
    room = threading.Semaphore(ahead)
    made: SimpleQueue[tuple[bool, ItemT | BaseException | None]] = SimpleQueue()
    leaving, ended = threading.Event(), threading.Event()

    def make() -> None:
        try:
            for item in items:
                made.put((True, item))
                room.acquire()
                if leaving.is_set():
                    break
            items.close()
            made.put((False, None))
        except BaseException as error:
            made.put((False, error))
        ended.set()

    # A daemon, so that an exception within the leaving cannot keep the process alive.
    thread = threading.Thread(target=make, name="faster-ahead", daemon=True)
    thread.start()
    try:
        while True:
            is_item, item = made.get()
            if not is_item:
                if item is not None:
                    raise item  # type: ignore[misc]
                return
            room.release()
            yield item  # type: ignore[misc]
    finally:
        leaving.set()
        stop()
        room.release()
        ended.wait()  # not join, which an exception from a signal would leave believing that the thread has ended
