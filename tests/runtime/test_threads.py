from __future__ import annotations

import threading
from collections.abc import Generator
from queue import Queue
from typing import Any

import pytest
from faster.errors import StorageError
from faster.runtime.threads import BackgroundWorker, prefetch


def test_work_is_done_in_order_and_before_the_end() -> None:
    done: list[int] = []
    with BackgroundWorker("test", ahead=2) as behind:
        for i in range(200):
            behind.do(lambda i=i: done.append(i))  # type: ignore[misc]
    assert done == list(range(200))


def test_no_more_waits_than_was_agreed() -> None:
    go, begun, agreed = (threading.Event() for _ in range(3))
    given: list[int] = []

    def first() -> None:
        begun.set()
        go.wait()

    with BackgroundWorker("test", ahead=2) as behind:

        def give() -> None:
            behind.do(first)
            begun.wait()
            for i in range(4):
                behind.do(lambda: None)
                given.append(i)
                if i == 1:
                    agreed.set()

        giver = threading.Thread(target=give)
        giver.start()
        agreed.wait()
        giver.join(timeout=0.3)
        assert giver.is_alive() and len(given) == 2
        go.set()
        giver.join()
    assert behind.idle_seconds > 0


def test_what_waits_behind_a_failure_is_dropped_where_all_work_was_given_already() -> None:
    """The block may be left, without an exception of its own, while the failure is only just known to the thread."""
    given, failed, leaving = (threading.Event() for _ in range(3))
    done: list[str] = []

    class Slow(Queue[Any]):
        """Gives its second piece of work only when the block is left."""

        given = 0

        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            super().put(item, block, timeout)
            if item is None:
                leaving.set()

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            self.given += 1
            if self.given == 2:
                failed.set()
                leaving.wait()
            return super().get(block, timeout)

    def fail() -> None:
        given.wait()
        raise StorageError("the disk is full")

    behind = BackgroundWorker("test", ahead=3)
    behind._queue = Slow(maxsize=3)
    with pytest.raises(StorageError, match="full"), behind:
        behind.do(fail)
        behind.do(lambda: done.append("after"))
        given.set()
        failed.wait()
    assert not done


def test_what_fails_ends_the_work_and_comes_out() -> None:
    done: list[str] = []

    def fail() -> None:
        raise StorageError("the disk is full")

    with pytest.raises(StorageError, match="full"), BackgroundWorker("test", ahead=1) as behind:
        behind.do(fail)
        while True:  # some `do` raises, however full the queue is
            behind.do(lambda: done.append("after"))
    assert not done
    with pytest.raises(StorageError), BackgroundWorker("test", ahead=1) as behind:
        behind.do(fail)  # nothing comes after it


def test_an_exception_in_the_block_drops_what_waits() -> None:
    begun, done = threading.Event(), []

    def first() -> None:
        begun.set()
        while not behind.dropping:
            pass
        done.append("first")

    with pytest.raises(KeyError), BackgroundWorker("test", ahead=3) as behind:
        behind.do(first)
        begun.wait()
        for _ in range(2):
            behind.do(lambda: done.append("dropped"))
        raise KeyError
    assert done == ["first"]


def nothing() -> None:
    """There is nothing to stop."""


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


def test_items_come_in_order_and_the_thread_ends() -> None:
    assert list(prefetch(iter_to(20), depth=4, stop=nothing)) == list(range(20))
    assert not threads()


def iter_to(count: int) -> Generator[int, None, None]:
    yield from range(count)


def test_at_most_so_many_are_made_before_they_are_asked_for() -> None:
    made: list[int] = []
    full = threading.Event()

    def make() -> Generator[int, None, None]:
        for i in range(100):
            made.append(i)
            if i == 5:
                full.set()
            yield i

    items = prefetch(make(), depth=3, stop=nothing)
    assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
    full.wait()  # the sixth begins, with none taken since the fourth
    items.close()
    assert made == list(range(len(made))) and len(made) <= 7
    assert not threads()


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def make() -> Generator[int, None, None]:
        yield 1
        raise ValueError("broken")

    items = prefetch(make(), depth=5)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)
    assert not threads()


def test_closing_stops_what_is_under_way_and_closes_the_maker() -> None:
    stopped, closed = threading.Event(), []

    def make() -> Generator[int, None, None]:
        try:
            yield 0
            stopped.wait()  # a decoder that is stuck
            yield 1
            yield 2
        finally:
            closed.append(len(threads()))

    items = prefetch(make(), depth=2, stop=stopped.set)
    assert next(items) == 0
    items.close()
    assert closed == [0]  # after the thread has ended
