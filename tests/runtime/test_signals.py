"""Signals that ask long work to stop."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
from faster.errors import Interrupted
from faster.runtime.signals import interruptible, stop_requests
from signals import interrupts


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


def test_in_the_background_an_ignored_interrupt_stays_ignored_and_sigterm_stops() -> None:
    with interrupts(ignored=True):
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop.asked
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked == signal.SIGTERM
        with pytest.raises(Interrupted, match="SIGTERM"), interruptible("all is kept"):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_in_the_foreground_an_interrupt_asks_to_stop() -> None:
    with interrupts():
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked == signal.SIGINT
        with pytest.raises(KeyboardInterrupt), interruptible("all is kept"):
            os.kill(os.getpid(), signal.SIGINT)
