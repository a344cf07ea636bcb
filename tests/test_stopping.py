"""Signals that ask long work to stop."""

from __future__ import annotations

import multiprocessing
import os
import signal

from faster.stopping import stop_requests


def twice(pipe: object) -> None:
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        pipe.send(stop.asked)  # type: ignore[attr-defined]  # what is in hand is finished


def test_a_child_that_is_asked_twice_finishes_what_is_in_hand() -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=twice, args=(theirs,))
    child.start()
    theirs.close()
    assert ours.recv() == signal.SIGTERM
    child.join()
    assert child.exitcode == 0
