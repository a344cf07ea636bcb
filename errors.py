"""The exception tree: every mistake a user can make ends in one of these, as one line and an exit code.

    FasterError
    ├── UsageError        2   the command cannot mean that
    ├── DataError        65   a source, video, weights file, run or store is not what it should be
    │   ├── SourceError       an annotation file or a video folder
    │   ├── VideoError        one video; recorded as that video's failure, never fatal to a run
    │   ├── WeightsError      weights that are missing or do not fit their network
    │   ├── StoreError        a store that is damaged, incomplete or not ours
    │   │   └── ProvenanceMismatch   what is asked does not fit what the store holds
    │   └── RunError          a run folder of a training command
    ├── StorageError     74   the disk: full, read-only, failing
    └── Interrupted      75   stopped from outside; the same command goes on where it was

A message is one line: what was found, what is allowed, the command that mends it.
"""

from __future__ import annotations


def one_line(text: str) -> str:
    """A text that may hold names from outside, for one line of a terminal: control characters are shown, not obeyed."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


class FasterError(Exception):
    """Base of all errors that are the user's to mend; `exit_code` is the command's."""

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(FasterError):
    """The command or call cannot mean that: a name unknown, options that exclude each other."""

    exit_code = 2


class DataError(FasterError):
    """Something on disk is not what it should be."""

    exit_code = 65


class SourceError(DataError):
    """An annotation file or a video folder that cannot be read as one; names `file:line`."""


class VideoError(DataError):
    """One video cannot be used. A run records it as that video's failure and goes on."""


class WeightsError(DataError):
    """Weights that are missing, or that do not fit the network they are meant for."""


class StoreError(DataError):
    """A store that is damaged, incomplete or not ours."""


class ProvenanceMismatch(StoreError):
    """What is asked does not fit what the store already holds; the message shows the difference."""


class RunError(DataError):
    """A run folder that is missing, incomplete or does not fit its store."""


class StorageError(FasterError):
    """The disk failed: full, read-only, an input/output error."""

    exit_code = 74


class Interrupted(FasterError):
    """Stopped from outside; everything whole is kept, and the same command goes on from there."""

    exit_code = 75
