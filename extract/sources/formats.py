"""The annotation formats: what each kind of list says about the videos under one folder.

A format is a name, a test that recognises its files, and a reader that adds one `Entry` per line to a
`Listing`. The listing checks every path and looks it up among the files that `scan_folder` found, so a reader
only parses. A new format is one decorated function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import SourceError, UsageError
from ...terminal.suggest import did_you_mean
from ...terminal.text import counted
from . import list_text
from .folder import composed, is_video_name
from .folder_layout import PARTS, classes_without_videos, layout_of, parts_among_others, same_names
from .listing import Entry as Entry
from .listing import Listing as Listing

MAX_CLASSES = 100_000  # a number above it is not a label
UCF_LIST = re.compile(r"(train|test)list(\d+)\.txt")
HMDB_LIST = re.compile(r"(.+)_test_split(\d+)\.txt")


# --- The registry --------------------------------------------------------------------------------------

Reader = Callable[[Sequence[Path], Listing], None]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One annotation format. `recognise` is None if it reads no files, only folder names."""

    name: str
    read: Reader
    recognise: Callable[[Path], bool] | None
    own_folder: bool  # its lists are in their own folder, known by their names
    general: bool  # it takes the files that no stricter format takes

    @property
    def from_files(self) -> bool:
        """Whether it reads annotation files."""
        return self.recognise is not None

    def recognises(self, file: Path) -> bool:
        """Whether `file` is one of this format's annotation files."""
        return self.recognise is not None and self.recognise(file)


_formats: dict[str, Format] = {}


def annotation_format(
    name: str,
    *,
    recognise: Callable[[Path], bool] | None = None,
    own_folder: bool = False,
    general: bool = False,
) -> Callable[[Reader], Reader]:
    """Register a reader. If two formats recognise a file, the first registered has it.

    `general` formats come last.
    """

    def register(read: Reader) -> Reader:
        if name in _formats:
            raise ValueError(f"annotation format {name!r} is registered twice")
        _formats[name] = Format(
            name=name, read=read, recognise=recognise, own_folder=own_folder, general=general
        )
        return read

    return register


def known_formats() -> tuple[str, ...]:
    """Return the names that `get_format` takes."""
    return tuple(_formats)


def file_formats() -> tuple[Format, ...]:
    """Return the formats that read annotation files, in the order in which they are tried."""
    return tuple(
        sorted((each for each in _formats.values() if each.from_files), key=lambda each: each.general)
    )


def get_format(name: str) -> Format:
    """Return the format of this name. UsageError lists the known names and the nearest."""
    if name in _formats:
        return _formats[name]
    hint = did_you_mean(name, _formats)
    raise UsageError(f"unknown annotation format {name!r} (known: {', '.join(_formats)}){hint}")


# --- The formats ---------------------------------------------------------------------------------------


def number_of(text: str, largest: int) -> int | None:
    """Return `text` as an integer in 0 … largest, or None."""
    number = int(text) if text.isdecimal() and len(text) < 10 else -1
    return number if 0 <= number <= largest else None


_KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end"}


def _kinetics_header(file: Path) -> tuple[str, list[str]] | None:
    return list_text.header(list_text.head(file), lambda names: set(names) >= _KINETICS_COLUMNS)


@annotation_format("kinetics", recognise=lambda file: _kinetics_header(file) is not None)
def read_kinetics(files: Sequence[Path], listing: Listing) -> None:
    """Read Kinetics csv: header `label,youtube_id,time_start,time_end,split`, in any order.

    `label` and `split` are optional. The file is `<youtube_id>_<start:06d>_<end:06d>` with any video
    extension, in any folder under the root. Of several, the one under a folder named after its class or part
    is taken. Classes sort by name.
    """
    rows = [row for file in files for row in _csv_rows(file, listing)]
    listing.class_names = sorted({row["label"] for _, row in rows if row.get("label")})
    labels = {name: label for label, name in enumerate(listing.class_names)}
    for where, row in rows:
        class_name, split = row.get("label", ""), row.get("split", "")
        try:
            start, end = (int(float(row[column])) for column in ("time_start", "time_end"))
        except (ValueError, OverflowError):
            times = f"{row['time_start']!r} and {row['time_end']!r}"
            listing.problem(where, f"time_start and time_end must be seconds, found {times}")
            continue
        part = PARTS.get(split.lower(), "")
        if split and not part:
            listing.problem(where, f"unknown split {split!r} (known: train, validate, test)")
            continue
        id = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        found = _best_of(listing.folder.by_stem.get(composed(id), []), class_name, part)
        if len(found) > 1:
            listing.problem(where, f"{len(found)} files fit: {found[0]!r} and {found[1]!r}; keep one")
            continue
        path = found[0] if found else f"{id}.mp4"
        listing.add(where, path, label=labels.get(class_name, -1), id=id, split="kinetics", part=part)


def _csv_rows(file: Path, listing: Listing) -> Iterable[tuple[str, dict[str, str]]]:
    """Yield ("file:line", column → value) for each complete row of a Kinetics csv."""
    found = _kinetics_header(file)
    if found is None:
        names = list_text.names_of(next(iter(list_text.head(file)), ""), ",")
        absent = ", ".join(sorted(_KINETICS_COLUMNS - set(names)))
        listing.problem(f"{file}:1", f"the header lacks {absent}")
        return
    separator, columns = found
    yield from named_rows(file, listing, separator, columns)


def named_rows(
    file: Path, listing: Listing, separator: str, columns: Sequence[str]
) -> Iterable[tuple[str, dict[str, str]]]:
    """Yield ("file:line", column → value) for each row below the header; other lengths are problems."""
    names: list[str] | None = None
    for where, row in listing.table(file, separator):
        if names is None and list_text.as_names(row) == list(columns):
            names = row
        if row == names:  # also if files with headers were concatenated
            continue
        fields = row if any(row[len(columns) :]) else row[: len(columns)]
        if len(fields) == len(columns):
            yield where, dict(zip(columns, fields, strict=True))
        else:
            listing.problem(where, f"{len(row)} fields where the header has {len(columns)}")


def _best_of(paths: list[str], class_name: str, part: str) -> list[str]:
    """Return the files whose folders fit the class and the part best, of several with one name."""
    if len(paths) < 2:
        return paths

    def fit(path: str) -> int:
        folders = path.split("/")[:-1]
        return 2 * (class_name in folders) + (part in (PARTS.get(folder.lower()) for folder in folders))

    best = max(map(fit, paths))
    return [path for path in paths if fit(path) == best]


@annotation_format("ucf101", recognise=lambda file: bool(UCF_LIST.fullmatch(file.name)), own_folder=True)
def read_ucf101(files: Sequence[Path], listing: Listing) -> None:
    """Read UCF-101: `trainlistNN.txt`, `testlistNN.txt` and `classInd.txt`.

    Lines are `Class/v_x.avi 1` (1-based) in the train lists and have no label in the test lists. The folder
    in the path names a test video's class. The group is the `_gNN_` of the name, "Archery/g07".
    """
    lists: list[tuple[int, str, Path]] = []
    for file in files:
        named = UCF_LIST.fullmatch(file.name)
        if named is None:
            raise SourceError(
                f"{str(file)!r} is no UCF-101 list; they are named trainlistNN.txt, testlistNN.txt"
            )
        lists.append((int(named[2]), named[1], file))
    names = listing.class_names
    class_file = files[0].parent / "classInd.txt"
    for where, text in listing.lines(class_file):
        number, *rest = text.split(None, 1)
        name = rest[0] if rest else ""
        if number != str(len(names) + 1) or not name:
            listing.problem(where, f"expected '{len(names) + 1} ClassName', found {text!r}")
            return
        names.append(name.strip())
    if not names:
        listing.problem(str(class_file), "lists no class")
        return
    labels = {composed(name): label for label, name in enumerate(names)}
    for split, part, file in sorted(lists, key=lambda item: (item[0], item[1] == "test")):
        for where, text in listing.lines(file):
            path, number = text, ""
            if not is_video_name(text):
                path, _, number = text.rpartition(" ")
            class_name = path.replace("\\", "/").rpartition("/")[0].rpartition("/")[2]
            label = labels.get(composed(class_name))
            if part == "train" or number:
                numbered = number_of(number, len(names)) or 0
                if numbered == 0:
                    listing.problem(
                        where, f"a class number of 1 to {len(names)} belongs last, found {text!r}"
                    )
                    continue
                if label not in (None, numbered - 1):
                    other = names[numbered - 1]
                    listing.problem(
                        where, f"{path!r} has class {numbered}, {other!r}, but lies in {class_name!r}"
                    )
                    continue
                label = numbered - 1
            if label is None:
                listing.problem(where, f"the folder {class_name!r} is no class of {class_file.name}")
                continue
            found = re.search(r"_(g\d+)_", path)
            group = f"{names[label]}/{found[1]}" if found else ""
            listing.add(
                where,
                path.rstrip(),
                label=label,
                split=f"split{split}",
                part=part,
                group=group,
                anywhere=True,
            )


@annotation_format("hmdb51", recognise=lambda file: bool(HMDB_LIST.fullmatch(file.name)), own_folder=True)
def read_hmdb51(files: Sequence[Path], listing: Listing) -> None:
    """Read HMDB-51: `<class>_test_splitN.txt`, lines `name.avi 0|1|2`: 1 train, 2 test, 0 in neither part.

    A video is in its class's folder, or all are in one folder. Classes sort by name.
    """
    lists: list[tuple[str, int, Path]] = []
    for file in files:
        named = HMDB_LIST.fullmatch(file.name)
        if named is None:
            raise SourceError(f"{str(file)!r} is no HMDB-51 list; they are named <class>_test_splitN.txt")
        lists.append((named[1], int(named[2]), file))
    listing.class_names = sorted({class_name for class_name, _, _ in lists})
    for class_name, split, file in sorted(lists):
        label = listing.class_names.index(class_name)
        for where, name, flag in listing.fields(file):
            path = f"{class_name}/{name}"
            if name in listing.folder.files and path not in listing.folder.files:
                path = name
            if flag in ("0", "1", "2"):
                part = ("", "train", "test")[int(flag)]
                listing.add(where, path, label=label, split=f"split{split}", part=part, anywhere=True)
            else:
                listing.problem(where, f"0, 1 or 2 belongs last, found {flag!r}")


@annotation_format("class-folders")
def read_class_folders(files: Sequence[Path], listing: Listing) -> None:
    """Read class folders, below `train/ val/ test/`, above them, or without; sorted by path."""
    root = str(listing.folder.root)
    listing.add_links_outside()
    paths = sorted(listing.folder.files, key=lambda path: path.replace("/", "\0"))  # folder by folder
    layout = layout_of(paths)
    depth = layout.class_step
    if not any("/" in path for path in paths):
        return
    names = same_names(
        {steps[depth] for steps in (path.split("/", depth + 1) for path in paths) if len(steps) > depth + 1}
    )
    listing.class_names = sorted(set(names.values()))
    numbers = {known: label for label, known in enumerate(listing.class_names)}
    labels = {name: numbers[known] for name, known in names.items()}
    if mixed := parts_among_others(paths):
        listing.problem(root, mixed)
    loose = 0
    for path in paths:
        steps = path.split("/")
        part = layout.part(steps)
        if part and len(steps) < depth + 2:
            listing.problem(
                f"{root}/{path}",
                f"lies in {steps[-2]!r}, the folder of a part, and in no class "
                "folder; without labels, pass --format files",
            )
            continue
        is_loose = len(steps) < depth + 2
        loose += is_loose
        label = -1 if is_loose else labels[steps[depth]]
        listing.add("", path, label=label, split="folders", part=part)
    if loose:
        listing.notes.append(f"unlabelled, beside the class folders: {counted(loose, 'video')}")
    if len(listing.class_names) == 1:
        listing.notes.append(
            f"one class only: all labelled videos lie in the folder {listing.class_names[0]!r}"
        )
    listing.notes += classes_without_videos(listing.folder, layout)


@annotation_format("files")
def read_files(files: Sequence[Path], listing: Listing) -> None:
    """Read video files without labels, sorted by path; `files` is not used if a folder is the source."""
    listing.add_links_outside()
    for path in sorted(listing.folder.files, key=lambda path: path.replace("/", "\0")):
        listing.add("", path, label=-1)
