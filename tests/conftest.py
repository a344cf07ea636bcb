"""A crash or a hang is one failure, which has a name: the run goes on, and no process outlives its test run.

pytest-timeout's alarm ends a test that waits in Python, so that its own cleaning up still runs. Where no alarm gets through
(native code that never returns, a teardown that hangs after a failure) a watchdog ends the worker a little later.
pytest-xdist then reports the test by name, starts another worker and gives it the tests that are left.
"""

from __future__ import annotations

import faulthandler
import itertools
import multiprocessing
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from processes import kill_started_with

STRESS_SECONDS = 900
_real_stderr = 2
_calls = itertools.count()
_started: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("watchdog_seconds", "how long after its limit a test's process is ended", default="60")


def pytest_configure(config: pytest.Config) -> None:
    global _real_stderr
    _real_stderr = os.dup(2)  # during a test pytest keeps what is written to 2, and an exit at once loses it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("stress") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(STRESS_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    return (yield from _watched(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """What the test starts bears a mark; what of that is left when it ends, as after a failure, is killed."""
    _started.clear()
    mark = os.environ["FASTER_TEST_CALL"] = f"{os.getpid()}-{next(_calls)}"
    try:
        return (yield from _watched(item))
    finally:
        del os.environ["FASTER_TEST_CALL"]
        if _started or multiprocessing.active_children():
            kill_started_with({"FASTER_TEST_CALL": mark})


def _note_start(event: str, _: object) -> None:
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system"):
        _started.add(event)


sys.addaudithook(_note_start)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    return (yield from _watched(item))


def _watched(item: pytest.Item) -> Iterator[None]:
    """The watchdog needs neither the interpreter nor its lock. Each phase has its own: pytest stops it at a failure."""
    marker = item.get_closest_marker("timeout")
    limit = float(marker.args[0] if marker else item.config.getini("timeout"))
    faulthandler.dump_traceback_later(
        limit + float(item.config.getini("watchdog_seconds")), exit=True, file=_real_stderr
    )
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Kill what a worker that crashed has left running: it could hold the output of the run open for ever."""
    if error:
        worker, run = node.workerinput["workerid"], node.workerinput["testrunuid"]
        kill_started_with({"PYTEST_XDIST_WORKER": worker, "PYTEST_XDIST_TESTRUNUID": run})
