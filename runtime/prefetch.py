"""What a step needs next, made in a thread while the step before runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import TypeVar

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
