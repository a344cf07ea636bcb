"""The text of list files: its encoding, and how its lines are split into columns.

Lists come from editors, spreadsheets and other programs: with commas, semicolons, tabs or spaces between
columns, with or without quotes, with or without a header. This module decides only how a line is split. The
formats decide what the columns mean.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ...errors import SourceError
from .folder import VIDEO_EXTENSIONS, is_video_name

SEPARATORS = (",", ";", "\t", "|")
SPACE = " "  # any white space; the path may contain some

_HEAD_BYTES = 1 << 14
_HEAD_LINES = 20
_PATH_THEN_REST = re.compile(
    rf"(.+?\.(?:{'|'.join(sorted(VIDEO_EXTENSIONS))}))\s+([^\s,;|].*)", re.IGNORECASE
)


def encoding_of(data: bytes) -> str:
    """Return the encoding from a file's first bytes: UTF-8, with or without a byte-order mark, by default."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(data) > 3 and data[1] == data[3] == 0 and data[0] and data[2]:
        return "utf-16-le"
    if len(data) > 3 and data[0] == data[2] == 0 and data[1] and data[3]:
        return "utf-16-be"
    return "utf-8-sig"


def decode(data: bytes) -> str:
    r"""Return a list's text, with every line ending as "\n".

    Raises:
        UnicodeDecodeError: it is neither UTF-8 nor UTF-16.
    """
    return data.decode(encoding_of(data)).replace("\r\n", "\n").replace("\r", "\n")


def head(file: Path) -> list[str]:
    """Return the first lines of a file of any kind, without blank ones.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise SourceError(f"cannot read {str(file)!r}: {error.strerror}") from error
    text = data.decode(encoding_of(data), errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    if len(data) == _HEAD_BYTES and len(lines) > 1:
        lines.pop()  # the last line may be incomplete
    return [line for line in map(str.strip, lines) if line][:_HEAD_LINES]


def without_remarks(lines: Sequence[str]) -> list[str]:
    """Return the lines without comments."""
    return [line for line in lines if not is_remark(line)]


def is_remark(line: str) -> bool:
    """Whether a line is a comment, or a spreadsheet's note of its separator."""
    return line.startswith("#") or (len(line) == 5 and line.startswith("sep="))


def cut(line: str, separator: str) -> list[str]:
    """Return the fields of one line, stripped; [] if its quotes do not close."""
    if separator == SPACE and not line.startswith('"'):
        return line.split()
    try:
        rows = list(csv.reader([line], delimiter=separator, skipinitialspace=True, strict=separator == SPACE))
    except csv.Error:
        return []
    return [field.strip() for field in rows[0]] if rows else []


def as_names(fields: Iterable[str]) -> list[str]:
    """Return fields as column names: lower case, with "_" for spaces and hyphens."""
    return [re.sub(r"[\s\-]+", "_", field.strip("'\" ").lower()) for field in fields]


def names_of(line: str, separator: str) -> list[str]:
    """Return the line's fields as column names; the line may be a comment."""
    return as_names(cut(line.lstrip("# "), separator))


def header(lines: Sequence[str], accepts: Callable[[list[str]], bool]) -> tuple[str, list[str]] | None:
    """Return the separator and the column names, if the header has names that `accepts` takes.

    The header is the first line, or a comment above it.
    """
    for line in (*lines[:1], *without_remarks(lines)[:1]):
        for separator in (*SEPARATORS, SPACE):
            names = names_of(line, separator)
            if len(names) > 1 and accepts(names):
                return separator, names
    return None


def path_and_rest(line: str) -> list[str]:
    """Split a line at white space into [path, rest].

    Both the path, up to its extension, and the rest may contain spaces.
    """
    if line.startswith('"'):
        return cut(line, SPACE)
    found = _PATH_THEN_REST.fullmatch(line)
    return [found[1], found[2]] if found else []


def separator_of(lines: Sequence[str]) -> str | None:
    """Return the separator between a video's name and the other fields; None without one.

    It must fit the first line and at least half of all lines.
    """
    lines = without_remarks(lines)
    for separator in (SPACE, *SEPARATORS):
        fits = [fields for line in lines if (fields := video_fields(line, separator))]
        if fits and video_fields(lines[0], separator) and 2 * len(fits) >= len(lines):
            return separator
    return None


def is_numbered_video(line: str) -> bool:
    """Whether a line is a video's name, white space, and a number."""
    fields = line.rsplit(None, 1)
    return len(fields) == 2 and is_video_name(fields[0]) and fields[1].isdecimal() and fields[0][0] != '"'


def video_fields(line: str, separator: str) -> list[str]:
    """Return the line's fields if one of at least two is a video's name; else []."""
    if separator == SPACE:
        fields = line.rsplit(None, 1) if is_numbered_video(line) else path_and_rest(line)
    else:
        fields = cut(line, separator)
    return fields if len(fields) > 1 and any(map(is_video_name, fields)) else []


def rows(lines: Iterable[str], separator: str) -> Iterable[tuple[int, list[str]]]:
    """Yield (number of its first line, fields) for each row that is not blank.

    Raises:
        csv.Error: a row is not valid csv.
    """
    if separator == SPACE:
        for number, text in enumerate(map(str.strip, lines), start=1):
            if text:
                found = [] if text.startswith('"') else path_and_rest(text)  # the path may hold spaces
                yield number, [found[0], *found[1].split()] if found else cut(text, SPACE)
        return
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    line = 1
    for row in reader:
        if any(field.strip() for field in row):
            yield line, [field.strip() for field in row]
        line = reader.line_num + 1
