"""The exception tree: every mistake of a user ends in one of these, as one line and an exit code.

    FasterError
    ├── UsageError        2   the command or its options are wrong
    ├── DataError        65   a source, video, weights file, run or store is not as it should be
    │   ├── SourceError       an annotation file or a video folder
    │   ├── VideoError        one video; recorded as that video's failure, never fatal to a run
    │   ├── WeightsError      weights that are missing or do not fit their network
    │   ├── StoreError        a store that is damaged, incomplete or not made by this package
    │   │   └── ProvenanceMismatch   the request does not fit the content of the store
    │   └── RunError          a run folder of a training command
    ├── StorageError     74   the disk: full, read-only, failing
    └── Interrupted      75   stopped from outside; the same command continues from there

A message is one line: what was found, what is allowed, and the command that fixes it.
"""

from __future__ import annotations


def one_line(text: str) -> str:
    """Make a text safe for one line of a terminal: control characters are shown as escapes.

    The text may hold names from outside.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


class FasterError(Exception):
    """Base of all errors that the user can fix; `exit_code` is the command's."""

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(FasterError):
    """The command or call is wrong: an unknown name, or options that exclude each other."""

    exit_code = 2


class DataError(FasterError):
    """Something on disk is not as it should be."""

    exit_code = 65


class SourceError(DataError):
    """An annotation file or a video folder cannot be read; the message names `file:line`."""


class VideoError(DataError):
    """One video cannot be used. A run records it as that video's failure and continues."""


class WeightsError(DataError):
    """Weights are missing, or do not fit their network."""


class StoreError(DataError):
    """A store is damaged, incomplete or not made by this package."""


class ProvenanceMismatch(StoreError):
    """The request does not fit the content of the store; the message shows the difference."""


class RunError(DataError):
    """A run folder is missing, incomplete or does not fit its store."""


class StorageError(FasterError):
    """The disk failed: full, read-only, or an input/output error."""

    exit_code = 74


class Interrupted(FasterError):
    """Stopped from outside. Everything complete is kept, and the same command continues from there."""

    exit_code = 75
