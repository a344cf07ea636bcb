"""Use names in file names, and handle file names that are not UTF-8, which stores, tables and JSON need.

POSIX allows any bytes in a file name.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import UsageError

_ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f])")


def is_text(name: str) -> bool:
    """Return whether a name from the disk can be stored as text."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def as_text(name: str) -> str:
    r"""Return a name as text: bytes that are not UTF-8 become escapes, `caf\xe9.avi`, which opens no file."""
    return name if is_text(name) else os.fsencode(name).decode("utf-8", "backslashreplace")


def stands_for_other_bytes(path: Path) -> bool:
    """Return whether no file has this name, but `as_text` gives it for a file with other bytes."""
    escaped = os.fsencode(path)
    name = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), escaped)
    return name != escaped and not os.path.lexists(escaped) and os.path.lexists(name)


def file_stem(name: str) -> str:
    """Return the name of a model or an aggregator for use in a file name: without `/` and `:`."""
    return name.replace("/", "-").replace(":", "-")


def require_text(path: str | os.PathLike[str], option: str) -> None:
    """Refuse a folder or file whose path must be recorded or printed, but is not UTF-8.

    Raises:
        UsageError: its absolute path is not UTF-8; `option` is the user's name for it.
    """
    path = Path(path)
    wrong = next(
        (str(absolute) for absolute in (path.absolute(), path.resolve()) if not is_text(str(absolute))), None
    )
    if wrong is not None:
        raise UsageError(
            f"{option} is {as_text(wrong)}, which is not UTF-8, and so cannot be recorded; "
            "rename that folder, or choose another name"
        )
