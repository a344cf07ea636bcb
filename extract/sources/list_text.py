"""The text of lists that people keep: its encoding, and how its lines fall into columns.

Lists come from editors, spreadsheets and other programs: with commas, semicolons, tabs or spaces between
columns, with quotes or without, with a line of names or without. What is found here decides only how a line
is cut; what the columns mean is the formats' matter.
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
SPACE = " "  # any white space; the path may hold some itself

_HEAD_BYTES = 1 << 14
_HEAD_LINES = 20
_PATH_THEN_REST = re.compile(
    rf"(.+?\.(?:{'|'.join(sorted(VIDEO_EXTENSIONS))}))\s+([^\s,;|].*)", re.IGNORECASE
)


def encoding_of(data: bytes) -> str:
    """The encoding that a file's first bytes show; UTF-8, with a byte-order mark or without, where they show none."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(data) > 3 and data[1] == data[3] == 0 and data[0] and data[2]:
        return "utf-16-le"
    if len(data) > 3 and data[0] == data[2] == 0 and data[1] and data[3]:
        return "utf-16-be"
    return "utf-8-sig"


def decode(data: bytes) -> str:
    r"""A list's text, every line ending with "\n".

    Raises:
        UnicodeDecodeError: it is neither UTF-8 nor UTF-16.
    """
    return data.decode(encoding_of(data)).replace("\r\n", "\n").replace("\r", "\n")


def head(file: Path) -> list[str]:
    """The first lines of a file that may be anything, without blank ones.

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
        lines.pop()  # it is cut off
    return [line for line in map(str.strip, lines) if line][:_HEAD_LINES]


def without_remarks(lines: Sequence[str]) -> list[str]:
    """The lines that are the list's own."""
    return [line for line in lines if not is_remark(line)]


def is_remark(line: str) -> bool:
    """Whether a line is none of the list's: a comment, or a spreadsheet's note of its separator."""
    return line.startswith("#") or (len(line) == 5 and line.startswith("sep="))


def cut(line: str, separator: str) -> list[str]:
    """The fields of one line, without the space around them; [] where its quotes do not close."""
    if separator == SPACE and not line.startswith('"'):
        return line.split()
    try:
        rows = list(csv.reader([line], delimiter=separator, skipinitialspace=True, strict=separator == SPACE))
    except csv.Error:
        return []
    return [field.strip() for field in rows[0]] if rows else []


def as_names(fields: Iterable[str]) -> list[str]:
    """Fields as names of columns: small letters, with "_" for spaces and hyphens."""
    return [re.sub(r"[\s\-]+", "_", field.strip("'\" ").lower()) for field in fields]


def names_of(line: str, separator: str) -> list[str]:
    """The line's fields as names of columns; the line may be a comment."""
    return as_names(cut(line.lstrip("# "), separator))


def header(lines: Sequence[str], accepts: Callable[[list[str]], bool]) -> tuple[str, list[str]] | None:
    """The separator and the names of the columns, where the first line, or a comment above it, holds what `accepts` takes."""
    for line in (*lines[:1], *without_remarks(lines)[:1]):
        for separator in (*SEPARATORS, SPACE):
            names = names_of(line, separator)
            if len(names) > 1 and accepts(names):
                return separator, names
    return None


def path_and_rest(line: str) -> list[str]:
    """[path, the rest] of a line with spaces between, where the path, up to its extension, and the rest may hold some."""
    if line.startswith('"'):
        return cut(line, SPACE)
    found = _PATH_THEN_REST.fullmatch(line)
    return [found[1], found[2]] if found else []


def separator_of(lines: Sequence[str]) -> str | None:
    """What stands between a video's name and the rest in the first and at least half of these lines; None if nothing does."""
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
    """The line's fields where one of two or more is a video's name; else []."""
    if separator == SPACE:
        fields = line.rsplit(None, 1) if is_numbered_video(line) else path_and_rest(line)
    else:
        fields = cut(line, separator)
    return fields if len(fields) > 1 and any(map(is_video_name, fields)) else []


def rows(lines: Iterable[str], separator: str) -> Iterable[tuple[int, list[str]]]:
    """(number of its first line, fields) of each row that is not blank.

    Raises:
        csv.Error: a row is no csv.
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
