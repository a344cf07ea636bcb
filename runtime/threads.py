"""Work in a thread of its own: done behind the caller in order, or made ahead of it, a bounded number of things at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from queue import Queue, SimpleQueue
from types import TracebackType
from typing import Self, TypeVar

Work = Callable[[], None]


class BackgroundWorker:
    """A thread that does work in the order given, at most `ahead` pieces of it waiting. Use it in a `with` statement.

    Left normally, all work is done first. Left by an exception, what waits is dropped. What a piece of work raises is
    raised by the next `do`, or at the end, and nothing is done after it.

    Attributes:
        idle_seconds: for which the thread had no work, so far.
        dropping: whether no more work is begun: the block was left by an exception, or a piece of work failed.
    """

    def __init__(self, name: str, *, ahead: int) -> None:
        self.idle_seconds = 0.0
        self.dropping = False
        self._queue: Queue[Work | None] = Queue(maxsize=ahead)
        self._error: BaseException | None = None
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
        self._ended.wait()  # not only join, which an exception from a signal would leave believing that the thread has ended
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
    """The items, made in a thread, at most `depth` of them before they are asked for; an error comes in its item's place.

    Closing it calls `stop`, which must make a `next(items)` under way end soon, and returns when the thread has ended
    and `items`, where it is a generator, is closed. With a `depth` of 0 each item is made when it is asked for.
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
    """What making an item raised, in its place; StopIteration at the end."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
