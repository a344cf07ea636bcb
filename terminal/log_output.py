"""Print the package's log as lines of a command; a Python caller configures `logging` as usual."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import click

_PACKAGE = logging.getLogger(__package__.partition(".")[0])


class _Lines(logging.Handler):
    """Prints each message as one line. Errors of the stream belong to the command and are not caught here."""

    def __init__(self, *, err: bool) -> None:
        super().__init__()
        self._err = err

    def emit(self, record: logging.LogRecord) -> None:
        bars = sys.modules.get("tqdm")  # loaded only if there can be a bar: importing it here would be slow
        drawn = bars is not None and bars.tqdm._instances
        stream = sys.stderr if self._err else sys.stdout
        with bars.tqdm.external_write_mode(file=stream) if bars and drawn else nullcontext():
            click.echo(record.getMessage(), err=self._err)


def print_log(*, err: bool) -> None:
    """Print the package's log at INFO and above to stdout or stderr, until the running command ends."""
    click.get_current_context().with_resource(_printed(err))


@contextmanager
def _printed(err: bool) -> Iterator[None]:
    handler, before = _Lines(err=err), (_PACKAGE.level, _PACKAGE.propagate)
    _PACKAGE.addHandler(handler)
    _PACKAGE.setLevel(logging.INFO)
    _PACKAGE.propagate = False  # a root handler, for example of a user's own network, would print lines twice
    try:
        yield
    finally:
        _PACKAGE.removeHandler(handler)
        _PACKAGE.setLevel(before[0])
        _PACKAGE.propagate = before[1]


@contextmanager
def quiet(when: bool = True) -> Iterator[None]:
    """Suppress log messages within the block: the caller, or another process, reports instead."""
    before = _PACKAGE.level
    if when:
        _PACKAGE.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        _PACKAGE.setLevel(before)
