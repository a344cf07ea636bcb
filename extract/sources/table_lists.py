"""Lists of paths and labels: mmaction's and SlowFast's without a header, and tables with one.

A line names a video and its class, by number or by name. Both kinds take any separator that `list_text`
knows. Without a column for it, the part comes from the file's name ("train", "val", "test").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import list_text
from .folder import CONTAINER_FOLDERS, composed, is_video_name
from .folder_layout import PARTS
from .formats import MAX_CLASSES, Listing, annotation_format, named_rows, number_of
from .list_text import SEPARATORS, SPACE

# Names of columns, the most specific first.
_PATHS = (
    *("path", "video_path", "file_path", "filepath", "clip_path", "relative_path", "rel_path", "video_file"),
    *("file_name", "filename", "file", "video_name", "clip_name", "name", "video", "clip"),
    *("video_id", "clip_id", "vid", "id", "youtube_id", "uri", "url"),
)
_CLASSES = (
    *(
        "label",
        "class",
        "class_name",
        "classname",
        "label_name",
        "category",
        "action",
        "activity",
        "target",
        "tag",
    ),
    *("labels", "y", "label_id", "class_id", "label_idx", "class_idx", "label_index", "class_index"),
)
_NUMBERS = frozenset(_CLASSES[-6:])
_SPLITS = ("split", "part", "subset", "set", "partition", "phase", "usage")
# Names in a table of predictions, which is not a list of videos to learn from.
_ANSWERS = ("predict", "pred", "score", "prob", "confidence", "top1", "logit")


@dataclass(frozen=True, slots=True)
class _Row:
    """The content of one line; `number` is the label's number if `label` is its name."""

    where: str
    path: str
    label: str
    part: str = ""
    number: str = ""
    group: str = ""


def _part_of(file: Path) -> tuple[str, int | None]:
    """Return the part in the file's name, and the number of the split."""
    words = re.findall(r"[a-z]+", file.stem.lower())
    parts = {PARTS[word] for word in (w.removesuffix("list") for w in words) if word in PARTS}
    number = re.search(r"split_?(\d+)", file.stem.lower())
    return (parts.pop() if len(parts) == 1 else ""), (int(number[1]) if number else None)


def _add(
    listing: Listing, rows: Sequence[_Row], file: Path, labels: dict[str, int], *, split: str, bare: bool
) -> None:
    """Add a file's rows; the part is the row's own, or else the file's."""
    part, number = _part_of(file)
    split = split if number is None else f"split{number}"
    for row in rows:
        label = labels[composed(row.label)] if labels and row.label else number_of(row.label, MAX_CLASSES - 1)
        if row.label and label is None:
            at = "belongs there" if bare else "belongs last"
            listing.problem(row.where, f"a label, 0 to {MAX_CLASSES - 1}, {at}, found {row.label!r}")
            continue
        own = PARTS.get(row.part.lower(), "")
        if row.part and not own:
            listing.problem(row.where, f"unknown split {row.part!r} (known: train, validate, test)")
            continue
        label = -1 if label is None else label
        listing.add(
            row.where, row.path, label=label, split=split, part=own or part, group=row.group, bare=bare
        )


def _names(rows: Iterable[_Row]) -> list[str]:
    """Return the class names in order if the first label is a name; [] if labels are numbers."""
    texts = [row.label for row in rows if row.label]
    if not texts or re.fullmatch(r"[-+]?\d+(\.\d*)?", texts[0]):
        return []
    return sorted(set(map(composed, texts)))


def _name_numbers(listing: Listing) -> None:
    """Name numbered classes after their folders if each has its own folder, else by their number."""
    folders: dict[int, set[str]] = {}
    for entry in listing.entries:
        if entry.label >= 0:
            folders.setdefault(entry.label, set()).add(entry.path.rpartition("/")[0].rpartition("/")[2])
    count = max(folders, default=-1) + 1
    names = [next(iter(folders[label])) for label in sorted(folders) if len(folders[label]) == 1]
    one_each = len(set(names) - {""}) == count and not (count == 1 and names[0].lower() in CONTAINER_FOLDERS)
    listing.class_names = names if one_each else [str(label) for label in range(count)]


# --- Without a header ----------------------------------------------------------------------------------


def _frame_fields(line: str, separator: str) -> list[str]:
    """Return [path, frames, label] of a line that names a folder of frames; else []."""
    fields = line.rsplit(None, 2) if separator == SPACE else list_text.cut(line, separator)
    if len(fields) != 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
        return []
    return [] if is_video_name(fields[0]) or re.fullmatch(r"[\d.]+", fields[0]) else fields


def _frames_separator(file: Path, lines: Sequence[str]) -> str | None:
    """Return the separator of a list of folders of frames; None if the file is not one."""
    lines = list_text.without_remarks(lines)
    for separator in (SPACE, *SEPARATORS):
        fields = [_frame_fields(line, separator) for line in lines]
        if lines and all(fields) and (any("/" in f[0] for f in fields) or _part_of(file)[0]):
            return separator
    return None


def _bare_separator(file: Path, lines: Sequence[str]) -> str | None:
    """Return the separator of names without extension and numbers; None if there is none.

    The file must be named after a part.
    """
    lines = list_text.without_remarks(lines)
    for separator in (SPACE, *SEPARATORS):
        fields = [
            line.rsplit(None, 1) if separator == SPACE else list_text.cut(line, separator) for line in lines
        ]
        if lines and _part_of(file)[0] and all(len(f) == 2 and f[1].isdecimal() and f[0] for f in fields):
            return separator
    return None


def _is_headerless(file: Path) -> bool:
    lines = list_text.head(file)
    if _table_header(file) is not None:
        return False
    return (
        any(list_text.is_numbered_video(line) for line in lines)
        or list_text.separator_of(lines) is not None
        or _frames_separator(file, lines) is not None
        or _bare_separator(file, lines) is not None
    )


@annotation_format("mmaction", recognise=_is_headerless, general=True)
def read_mmaction(files: Sequence[Path], listing: Listing) -> None:
    """Read lists without a header: lines `path label`. The label is a 0-based number or a name.

    Paths may contain spaces. The separator may also be commas, semicolons, tabs or `|`, and the label may
    come first. Lists of folders of frames, `path frames label`, name the videos that the frames were taken
    from; they are used if no list of videos is beside them. The file's name may give the part ("train",
    "val", "test") and a number of the split ("split_1"). Numbered classes are named after their folders if
    each has its own folder, else by their number; names sort.
    """
    of_videos: dict[Path, list[_Row]] = {}
    of_frames: dict[Path, list[_Row]] = {}
    bare: set[Path] = set()
    for file in files:
        lines = list_text.head(file)
        separator = SPACE if any(map(list_text.is_numbered_video, lines)) else list_text.separator_of(lines)
        frames = None if separator else _frames_separator(file, lines)
        if separator is None and frames is not None:
            of_frames[file] = list(_rows_of_frames(file, listing, frames))
            bare.add(file)
        else:
            if separator is None and (separator := _bare_separator(file, lines)) is not None:
                bare.add(file)
            of_videos[file] = list(_rows_of_videos(file, listing, separator or SPACE, bare=file in bare))
    if of_frames and not any(of_videos.values()):
        of_videos, of_frames = of_frames, {}
        listing.notes.append("the lists are of folders of frames: the videos of these names are read instead")
    if of_frames:
        names = ", ".join(file.name for file in of_frames)
        listing.notes.append(f"not used, as they list folders of frames: {names}")
    names_ = _names(row for rows in of_videos.values() for row in rows)
    labels = {name: label for label, name in enumerate(names_)}
    for file, rows in of_videos.items():
        _add(listing, rows, file, labels, split="mmaction", bare=file in bare)
    if names_:
        listing.class_names = names_
    else:
        _name_numbers(listing)


def _rows_of_frames(file: Path, listing: Listing, separator: str) -> Iterable[_Row]:
    for where, text in listing.lines(file):
        if fields := _frame_fields(text, separator):
            yield _Row(where, fields[0], fields[2])
        else:
            listing.problem(where, f"a folder, its frames and a label belong here, found {text!r}")


def _rows_of_videos(file: Path, listing: Listing, separator: str, *, bare: bool) -> Iterable[_Row]:
    if separator != SPACE:
        for where, fields in listing.table(file, separator):
            yield from _row_of(listing, where, fields, separator, bare=bare)
        return
    for where, text in listing.lines(file):
        match text.rsplit(None, 1):
            case [path, label] if not text.startswith('"'):
                if is_video_name(path) or bare or label.isdecimal():
                    yield _Row(where, path, label)
                else:
                    path, label = list_text.path_and_rest(text) or (path, label)
                    yield from _row_of(listing, where, [path, label], separator, bare=bare)
            case [_, _]:
                yield from _row_of(listing, where, list_text.path_and_rest(text), separator, bare=bare)
            case _:
                listing.problem(where, f"{text!r} has one field where a path and a number belong")


def _row_of(
    listing: Listing, where: str, fields: Sequence[str], separator: str, *, bare: bool
) -> Iterable[_Row]:
    """Yield the row of a line's fields: a path, a label before or after it, and perhaps a part."""
    while len(fields) > 2 and not fields[-1]:
        fields = fields[:-1]
    at = 0 if bare else next((i for i, field in enumerate(fields) if is_video_name(field)), 0)
    rest = [field for i, field in enumerate(fields) if i != at]
    part = rest.pop() if len(rest) == 2 and rest[1].lower() in PARTS else ""
    if len(rest) == 1 and rest[0]:
        yield _Row(where, fields[at], rest[0], part)
        return
    found = f"{len(fields)} field{'s' if len(fields) != 1 else ''}"
    listing.problem(
        where,
        f"{found} where a path and one label belong; if there are more columns, "
        "name them in a first line: path,label,split",
    )


# --- With a header -------------------------------------------------------------------------------------


def _column(names: Sequence[str], known: Iterable[str]) -> str:
    return next((name for name in known if name in names), "")


def _is_table(names: Sequence[str]) -> bool:
    is_answers = any(name.startswith(_ANSWERS) for name in names)
    return bool(_column(names, _PATHS) and _column(names, (*_CLASSES, *_SPLITS))) and not is_answers


def _table_header(file: Path) -> tuple[str, list[str]] | None:
    """Return the separator and the columns of a table.

    A table named after a part may have only paths, as test sets do.
    """
    lines = list_text.head(file)
    found = list_text.header(lines, _is_table)
    if found is None and file.suffix.lower() in (".csv", ".tsv") and _part_of(file)[0]:
        # Another column may be the label, under an unknown name.
        found = list_text.header(lines, lambda names: {*_PATHS, "group", ""}.issuperset(names))
    if found is not None and found[0] == SPACE and not {*_PATHS, *_CLASSES, *_SPLITS}.issuperset(found[1]):
        return None  # a sentence
    return found


@annotation_format("csv", recognise=lambda file: _table_header(file) is not None, general=True)
def read_csv(files: Sequence[Path], listing: Listing) -> None:
    """Read tables with a header that names a column of paths, and one of labels or parts, or both.

    Other columns are ignored. Columns may be in any order; the separator is `,` `;` a tab, `|` or spaces. A
    label is a class's name or 0-based number. If one column holds names and another numbers (`label` and
    `label_id`), the numbers order the classes. A video without a label is unlabelled. The part comes from the
    column `split`, or from the file's name.
    """
    tables: dict[Path, list[_Row]] = {}
    for file in files:
        found = _table_header(file)
        if found is None:
            listing.problem(
                f"{file}:1", "the header names no column of paths with one of labels: path,label,split"
            )
            continue
        separator, columns = found
        tables[file] = list(_rows_of_table(file, listing, separator, columns))
    rows = [row for each in tables.values() for row in each]
    names = _names(rows)
    if names and any(row.number for row in rows):
        numbered = _numbered(listing, rows)
        names = numbered if set(names) <= set(numbered) else names  # else a problem was recorded
    labels = {name: label for label, name in enumerate(names) if name}
    for file, each in tables.items():
        _add(listing, each, file, labels, split="csv", bare=True)
    if names:
        listing.class_names = [name or str(label) for label, name in enumerate(names)]
    else:
        _name_numbers(listing)


def _rows_of_table(file: Path, listing: Listing, separator: str, columns: Sequence[str]) -> Iterable[_Row]:
    path, split = _column(columns, _PATHS), _column(columns, _SPLITS)
    label = _column(columns, _CLASSES)
    number = "" if label in _NUMBERS else _column(columns, _CLASSES[-6:])
    for where, row in named_rows(file, listing, separator, columns):
        row[""] = ""  # the value of a column that is not there
        if not row[path]:
            listing.problem(where, f"the column {path!r} is empty")
            continue
        # Spreadsheets and data frames write integers as 3.0 if a cell of the column is empty.
        texts = [re.sub(r"^(\d+)\.0+$", r"\1", row[column]) for column in (label, number)]
        yield _Row(where, row[path], texts[0], row[split], texts[1], row.get("group", ""))


def _numbered(listing: Listing, rows: Iterable[_Row]) -> list[str]:
    """Return the class names in the order of their numbers, "" for an unused number; each has one number."""
    numbers: dict[str, int] = {}
    names: dict[int, str] = {}
    for row in rows:
        if not row.label:
            continue
        number, name = number_of(row.number, MAX_CLASSES - 1), composed(row.label)
        if number is None:
            listing.problem(row.where, f"a label's number is 0 to {MAX_CLASSES - 1}, found {row.number!r}")
        elif (first := (numbers.setdefault(name, number), names.setdefault(number, name))) != (number, name):
            listing.problem(
                row.where, f"class {name!r} has number {number} here, but {first[1]!r} has {first[0]} above"
            )
    return [names.get(number, "") for number in range(max(names, default=-1) + 1)]
