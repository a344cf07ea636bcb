"""Work in a background thread with a bounded queue: a worker, and prefetching of an iterator."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from queue import Queue, SimpleQueue
from types import TracebackType
from typing import Self, TypeVar

Work = Callable[[], None]


class BackgroundWorker:
    """A thread that does work in order, with at most `ahead` queued items. Use it in a `with` statement.

    A normal exit waits for all work. An exit by an exception drops queued work. An error of the work is
    raised by the next `do`, or at the end, and no more work is done after it.

    Attributes:
        idle_seconds: time without work so far.
        dropping: whether no more work begins, because the block ended with an exception, or the work failed.
    """

    def __init__(self, name: str, *, ahead: int) -> None:
        self.idle_seconds = 0.0
        self.dropping = False
        self._queue: Queue[Work | None] = Queue(maxsize=ahead)
        self._error: BaseException | None = None
        self._ended = threading.Event()
        # A daemon, so that an exception during the exit cannot keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def do(self, work: Work) -> None:
        """Queue work after all earlier work; waits while the queue is full.

        Raises:
            BaseException: an error of earlier work.
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
            self.dropping = True
        try:
            self._end()
        except BaseException:
            self.dropping = True
            self._end()
            raise
        if self._error is not None and kind is None:
            raise self._error

    def _end(self) -> None:
        self._queue.put(None)
        self._ended.wait()  # after a signal's exception, join could return before the thread has ended
        self._thread.join()  # in microseconds

    def _run(self) -> None:
        while True:
            began = time.perf_counter()
            work = self._queue.get()
            self.idle_seconds += time.perf_counter() - began
            if work is None:
                break
            if self.dropping:
                continue
            try:
                work()
            except BaseException as error:
                self._error, self.dropping = error, True
        self._ended.set()


ItemT = TypeVar("ItemT")


def prefetch(
    items: Iterator[ItemT], *, depth: int, name: str = "prefetch", stop: Callable[[], None] | None = None
) -> Generator[ItemT, None, None]:
    """Yield the items, prefetched in a thread, at most `depth` ahead; an error is raised in its item's place.

    Closing it calls `stop`, which must make a running `next(items)` end soon. It returns when the thread has
    ended and `items`, if it is a generator, is closed. With a `depth` of 0 there is no prefetching.
    """
    if not depth:
        yield from items
        return
    made: SimpleQueue[ItemT | _Raised] = SimpleQueue()

    def make() -> None:
        try:
            made.put(next(items))
        except BaseException as error:
            made.put(_Raised(error))

    try:
        with BackgroundWorker(name, ahead=depth) as worker:
            try:
                for _ in range(depth):
                    worker.do(make)
                while True:
                    item = made.get()
                    if isinstance(item, _Raised):
                        if isinstance(item.error, StopIteration):
                            return
                        raise item.error
                    worker.do(make)
                    yield item
            finally:
                if stop is not None:
                    stop()
    finally:
        if isinstance(items, Generator):
            items.close()


class _Raised:
    """The error of making an item, in its place; StopIteration at the end."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
