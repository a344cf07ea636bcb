from __future__ import annotations

import threading
from collections.abc import Generator

import pytest
from faster.runtime.prefetch import made_ahead


def nothing() -> None:
    """There is nothing to stop."""


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "faster-ahead"]


def test_items_come_in_order_and_the_thread_ends() -> None:
    assert list(made_ahead(iter_to(20), ahead=3, stop=nothing)) == list(range(20))
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

    items = made_ahead(make(), ahead=2, stop=nothing)
    assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
    full.wait()  # the sixth begins, with none taken since the fourth
    items.close()
    assert made == list(range(len(made))) and len(made) <= 7
    assert not threads()


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def make() -> Generator[int, None, None]:
        yield 1
        raise ValueError("broken")

    items = made_ahead(make(), ahead=5, stop=nothing)
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
            closed.append(threading.current_thread().name)

    items = made_ahead(make(), ahead=1, stop=stopped.set)
    assert next(items) == 0
    items.close()
    assert closed == ["faster-ahead"] and not threads()
