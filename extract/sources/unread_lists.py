"""Files that look like lists of videos but have no known form: they are reported, never ignored silently."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import SourceError
from . import list_text
from .folder import LIST_EXTENSIONS, list_entries
from .folder_layout import PARTS

KNOWN_FORMS = (
    "a csv with a header (path,label or path,label,split, or Kinetics' "
    "label,youtube_id,time_start,time_end,split), lines 'path "
    "label', UCF-101's trainlistNN.txt with classInd.txt, HMDB-51's CLASS_test_splitN.txt"
)
_OF_LISTS = frozenset(
    [*PARTS, "annotation", "annotations", "annots", "split", "splits", "trainlist", "testlist", "vallist"]
)
_OF_RESULTS = frozenset(
    (
        *(
            "log",
            "logs",
            "result",
            "results",
            "prediction",
            "predictions",
            "metrics",
            "history",
            "scores",
            "loss",
        ),
        *("readme", "notes", "out", "report", "config", "requirements", "classes", "class", "names", "map"),
    )
)


def looks_like_a_list(file: Path) -> bool:
    """Whether a file is named like a list: train.csv, k400_val_list.txt, annotations.json."""
    words = set(re.findall(r"[a-z]+", file.stem.lower()))
    if " " in file.stem and file.suffix.lower() == ".txt":
        return False  # a text for people
    return (
        file.suffix.lower().lstrip(".") in LIST_EXTENSIONS
        and bool(words & _OF_LISTS)
        and not words & _OF_RESULTS
    )


def first_line(file: Path) -> str:
    """Return the first line for a message, at most 80 characters."""
    lines = list_text.head(file)
    if not lines:
        return "it is empty"
    text = lines[0][:80] + ("…" if len(lines[0]) > 80 else "")
    return "it is not text" if "\0" in text or "\ufffd" in text[:4] else f"first line {text!r}"


def unknown_form(file: Path) -> SourceError:
    """Return the error for a list that no format knows."""
    return SourceError(
        f"{str(file)!r} is a list in no known form ({first_line(file)}); known are: {KNOWN_FORMS}; name its "
        "format with --format, or go "
        "on without it with --format class-folders or files"
    )


def unread(folder: Path, read: Sequence[Path]) -> list[Path]:
    """Return the files directly in `folder` with a list's extension that were not read."""
    found = []
    for entry in list_entries(folder):
        path = Path(entry.path)
        extension = path.suffix.lower().lstrip(".")
        if (
            extension in LIST_EXTENSIONS
            and not entry.name.startswith(".")
            and path not in read
            and entry.is_file()
        ):
            found.append(path)
    return found


def is_part_of(file: Path, read: Sequence[Path]) -> bool:
    """Whether a file is named like one that was read except for the part: val.csv beside train.csv."""
    return any(file.suffix == other.suffix and _without_part(file) == _without_part(other) for other in read)


def _without_part(file: Path) -> list[str]:
    return [word for word in re.findall(r"[a-z]+|\d+", file.stem.lower()) if word not in PARTS]


def notes_on(files: Sequence[Path]) -> list[str]:
    """Return a note on tables that were not read; text files with other names are ignored."""
    tables = [file for file in files if file.suffix.lower() in (".csv", ".tsv") or looks_like_a_list(file)]
    return [f"not read, in no form of a list: {file.name} ({first_line(file)})" for file in tables[:3]]
