"""Names as names of files; and file names that are no text: POSIX lets a name be any bytes, while stores, tables and JSON hold UTF-8."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import UsageError

_ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f])")


def is_text(name: str) -> bool:
    """Whether a name from the disk can be stored as text."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def as_text(name: str) -> str:
    r"""A name as text: bytes that are not UTF-8 become escapes, as `caf\xe9.avi`. Such a name opens no file."""
    return name if is_text(name) else os.fsencode(name).decode("utf-8", "backslashreplace")


def stands_for_other_bytes(path: Path) -> bool:
    """Whether no file has this name, but one whose name `as_text` would give so."""
    escaped = os.fsencode(path)
    name = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), escaped)
    return name != escaped and not os.path.lexists(escaped) and os.path.lexists(name)


def file_stem(name: str) -> str:
    """The name of a model or an aggregator as a part of a file's name: without `/` and `:`."""
    return name.replace("/", "-").replace(":", "-")


def require_text(path: str | os.PathLike[str], option: str) -> None:
    """Refuse a folder or file whose path is to be recorded or printed, and cannot be.

    Raises:
        UsageError: its absolute path is not UTF-8; `option` is how the user names it.
    """
    path = Path(path)
    wrong = next((str(whole) for whole in (path.absolute(), path.resolve()) if not is_text(str(whole))), None)
    if wrong is not None:
        raise UsageError(
            f"{option} is {as_text(wrong)}, which is not UTF-8, and so cannot be recorded; rename that folder, or "
            "choose another name"
        )
