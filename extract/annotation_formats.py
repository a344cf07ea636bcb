"""The annotation formats: what each kind of list says about the videos under one folder.

A format is a name, a test that recognises its files, and a reader that adds one `Entry` a line to a
`Listing`. The listing is the door: it checks every path and looks it up among the files that
`scan_folder` found, so that a reader only parses. A new format is one decorated function.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SourceError, UsageError
from ..suggest import did_you_mean
from .video_folder import VIDEO_EXTENSIONS, VideoFolder, is_utf8, is_video_name

# What datasets call their parts, in file names, folder names and columns.
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validate", "validation"), "val"
)
MAX_CLASSES = 100_000  # a label beyond it is a number that is no label
UCF_LIST = re.compile(r"(train|test)list(\d+)\.txt")
HMDB_LIST = re.compile(r"(.+)_test_split(\d+)\.txt")


# --- What the lists say --------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Entry:
    """One mention of one video: `where` is "file:line", "" where the folder itself is the list; `split`/`part` e.g. "split1"/"train", or empty."""

    id: str
    path: str
    on_disk: bool
    where: str
    label: int
    split: str
    part: str
    group: str


class Listing:
    """What a format's files say about the videos of `folder`, and what is wrong with them.

    Readers report what is wrong as a `problem` and go on, so that all of it can be counted.
    """

    def __init__(self, folder: VideoFolder) -> None:
        self.folder = folder
        self.entries: list[Entry] = []
        self.class_names: list[str] = []
        self.notes: list[str] = []
        self.problems: list[str] = []

    def problem(self, where: str, what: str) -> None:
        """Note that what `where` says cannot be used."""
        self.problems.append(f"{where}: {what}")

    def add(
        self,
        where: str,
        path: str,
        *,
        label: int,
        id: str = "",
        split: str = "",
        part: str = "",
        group: str = "",
    ) -> None:
        """Add the video at `path` (relative to the root, posix), or note why that is no path of a video.

        `id` defaults to the path; an empty `part` means that the video is not in the split. `where` is "" where the
        folder itself is the list: a million places would take 130 MB.
        """
        said, where = where, where or f"{self.folder.root}/{path}"
        steps = path.split("/")
        if path.startswith("/") or ".." in steps:
            return self.problem(
                where, f"{path!r} leaves the video root; paths are relative to it, without '..'"
            )
        if "" in steps or "." in steps:
            path = "/".join(step for step in steps if step not in ("", "."))
        target = self.folder.leads_outside(path)
        if target is not None:
            root = str(self.folder.root)
            return self.problem(
                where,
                f"{path!r} is a link to {target!r}, outside the video root {root!r}; remove it, put the file there, or list it in an "
                "annotation file and name a folder that holds all of them with --video-root",
            )
        if not is_video_name(path):
            allowed = ", ".join(sorted(VIDEO_EXTENSIONS))
            return self.problem(where, f"{path!r} is not a video file (extensions: {allowed})")
        if not is_utf8(path):
            return self.problem(where, f"the name {path!r} is not UTF-8; rename the file")
        self.entries.append(
            Entry(
                id=id or path,
                path=path,
                on_disk=path in self.folder.files,
                where=said,
                label=label,
                split=split if part else "",
                part=part,
                group=group,
            )
        )
        return None

    def add_links_outside(self) -> None:
        """Note every link that leaves the root: where the folder itself is the list, each is on it."""
        for path in sorted(self.folder.outside):
            self.add("", path, label=-1)

    def lines(self, file: Path) -> Iterable[tuple[str, str]]:
        """("file:line", text) of each line that is not blank, without the space around it."""
        for number, line in enumerate(self.text(file).split("\n"), start=1):
            if text := line.strip():
                yield f"{file}:{number}", text

    def fields(self, file: Path) -> Iterable[tuple[str, str, str]]:
        """("file:line", path, last field) of each line `path field`, where the path may hold spaces."""
        for where, text in self.lines(file):
            match text.rsplit(None, 1):
                case [path, last]:
                    yield where, path, last
                case _:
                    self.problem(where, f"{text!r} has one field where a path and a number belong")

    def text(self, file: Path) -> str:
        """The file as UTF-8 text without a byte-order mark, every line ending a newline; empty if it is none."""
        try:
            return file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            self.problem(f"{file}:{line}", "not UTF-8 text; save the file as UTF-8")
        except OSError as error:
            self.problem(str(file), f"cannot be read: {error.strerror}")
        return ""


# --- The registry --------------------------------------------------------------------------------------

Reader = Callable[[Sequence[Path], Listing], None]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One annotation format; `recognise` is None where no files are read, only what the folders say."""

    name: str
    read: Reader
    recognise: Callable[[Path], bool] | None
    own_folder: bool  # its lists come as a folder of their own, known by their names

    @property
    def from_files(self) -> bool:
        """Whether it reads annotation files."""
        return self.recognise is not None

    def recognises(self, file: Path) -> bool:
        """Whether `file` is one of this format's annotation files."""
        return self.recognise is not None and self.recognise(file)


_formats: dict[str, Format] = {}


def annotation_format(
    name: str, *, recognise: Callable[[Path], bool] | None = None, own_folder: bool = False
) -> Callable[[Reader], Reader]:
    """Register a reader. Of two formats that recognise a file, the one registered first has it."""

    def register(read: Reader) -> Reader:
        if name in _formats:
            raise ValueError(f"annotation format {name!r} is registered twice")
        _formats[name] = Format(name=name, read=read, recognise=recognise, own_folder=own_folder)
        return read

    return register


def known_formats() -> tuple[str, ...]:
    """The names that `get_format` takes, in the order in which they are tried."""
    return tuple(_formats)


def file_formats() -> tuple[Format, ...]:
    """The formats that read annotation files, in the order in which they are tried."""
    return tuple(each for each in _formats.values() if each.from_files)


def get_format(name: str) -> Format:
    """The format of this name; raises UsageError with the known ones and the nearest."""
    if name in _formats:
        return _formats[name]
    hint = did_you_mean(name, _formats)
    raise UsageError(f"unknown annotation format {name!r} (known: {', '.join(_formats)}){hint}")


# --- The formats ---------------------------------------------------------------------------------------


def _head(file: Path) -> list[str]:
    """The first lines of a file that may be anything."""
    try:
        with file.open("rb") as stream:
            return stream.read(1 << 14).decode("utf-8-sig", errors="replace").splitlines()[:20]
    except OSError as error:
        raise SourceError(f"cannot read {str(file)!r}: {error.strerror}") from error


def _number(text: str, largest: int) -> int | None:
    """The whole number 0 … largest that `text` is, or None."""
    number = int(text) if text.isdecimal() and len(text) < 10 else -1
    return number if 0 <= number <= largest else None


def _columns(row: Sequence[str]) -> list[str]:
    return [column.strip().lower() for column in row]


def _is_kinetics(file: Path) -> bool:
    return {"youtube_id", "time_start", "time_end"} <= set(_columns(",".join(_head(file)[:1]).split(",")))


def _is_mmaction(file: Path) -> bool:
    fields = [line.rsplit(None, 1) for line in _head(file)]
    return any(len(f) == 2 and is_video_name(f[0]) and f[1].isdecimal() for f in fields)


@annotation_format("kinetics", recognise=_is_kinetics)
def read_kinetics(files: Sequence[Path], listing: Listing) -> None:
    """Kinetics csv, header `label,youtube_id,time_start,time_end,split`; `label` and `split` may lack.

    The file is `<youtube_id>_<start:06d>_<end:06d>` with any video extension, in any folder under the root;
    of several, the one under a folder named after its class or part. Classes sort by name.
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
        found = _best_of(listing.folder.by_stem.get(id, []), class_name, part)
        if len(found) > 1:
            listing.problem(where, f"{len(found)} files fit: {found[0]!r} and {found[1]!r}; keep one")
            continue
        path = found[0] if found else f"{id}.mp4"
        listing.add(where, path, label=labels.get(class_name, -1), id=id, split="kinetics", part=part)


def _csv_rows(file: Path, listing: Listing) -> Iterable[tuple[str, dict[str, str]]]:
    """("file:line", column → value) of each row of a Kinetics csv that has as many fields as its header."""
    reader = csv.reader(listing.text(file).split("\n"))
    columns = _columns(next(reader, []))
    if absent := {"youtube_id", "time_start", "time_end"} - set(columns):
        listing.problem(f"{file}:1", f"the header lacks {', '.join(sorted(absent))}")
        return
    line = reader.line_num
    try:
        for row in reader:
            where, line = f"{file}:{line + 1}", reader.line_num
            if len(row) == len(columns):
                yield where, dict(zip(columns, map(str.strip, row), strict=True))
            elif row:
                listing.problem(where, f"{len(row)} fields where the header has {len(columns)}")
    except csv.Error as error:
        listing.problem(f"{file}:{line + 1}", str(error))


def _best_of(paths: list[str], class_name: str, part: str) -> list[str]:
    """Of several files with one name, those whose folders fit the class and the part best."""
    if len(paths) < 2:
        return paths

    def fit(path: str) -> int:
        folders = path.split("/")[:-1]
        return 2 * (class_name in folders) + (part in (PARTS.get(folder.lower()) for folder in folders))

    best = max(map(fit, paths))
    return [path for path in paths if fit(path) == best]


@annotation_format("ucf101", recognise=lambda file: bool(UCF_LIST.fullmatch(file.name)), own_folder=True)
def read_ucf101(files: Sequence[Path], listing: Listing) -> None:
    """UCF-101: `trainlistNN.txt` (`Class/v_x.avi 1`, 1-based) and `testlistNN.txt` (no label), by `classInd.txt`.

    The folder in the path names a test video's class. The group is the `_gNN_` of the name, "Archery/g07".
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
        number, _, name = text.partition(" ")
        if number != str(len(names) + 1) or not name:
            listing.problem(where, f"expected '{len(names) + 1} ClassName', found {text!r}")
            return
        names.append(name.strip())
    if not names:
        listing.problem(str(class_file), "lists no class")
        return
    labels = {name: label for label, name in enumerate(names)}
    for split, part, file in sorted(lists, key=lambda item: (item[0], item[1] == "test")):
        for where, text in listing.lines(file):
            path, number = text, ""
            if not is_video_name(text):
                path, _, number = text.rpartition(" ")
            class_name = path.rpartition("/")[0].rpartition("/")[2]
            label = labels.get(class_name)
            if part == "train" or number:
                numbered = _number(number, len(names)) or 0
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
            listing.add(where, path.rstrip(), label=label, split=f"split{split}", part=part, group=group)


@annotation_format("hmdb51", recognise=lambda file: bool(HMDB_LIST.fullmatch(file.name)), own_folder=True)
def read_hmdb51(files: Sequence[Path], listing: Listing) -> None:
    """HMDB-51: `<class>_test_splitN.txt`, lines `name.avi 0|1|2`: 1 trains, 2 tests, 0 is in neither part.

    A video lies in its class's folder, or flat. Classes sort by name.
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
                listing.add(where, path, label=label, split=f"split{split}", part=part)
            else:
                listing.problem(where, f"0, 1 or 2 belongs last, found {flag!r}")


@annotation_format("mmaction", recognise=_is_mmaction)
def read_mmaction(files: Sequence[Path], listing: Listing) -> None:
    """mmaction list: lines `path label`, the label 0-based and last, so that paths may hold spaces.

    The file's name says the part ("train", "val", "test") and a number of the split ("split_1") or neither.
    Classes are named after their folders where every one has a folder of its own, else by their number.
    """
    for file in files:
        words = re.findall(r"[a-z]+", file.stem.lower())
        parts = {PARTS[word] for word in (w.removesuffix("list") for w in words) if word in PARTS}
        part = parts.pop() if len(parts) == 1 else ""
        number = re.search(r"split_?(\d+)", file.stem.lower())
        split = f"split{int(number[1])}" if number else "mmaction"
        for where, path, last in listing.fields(file):
            label = _number(last, MAX_CLASSES - 1)
            if label is None:
                listing.problem(where, f"a label, 0 to {MAX_CLASSES - 1}, belongs last, found {last!r}")
            else:
                listing.add(where, path, label=label, split=split, part=part)
    folders: dict[int, set[str]] = {}
    for entry in listing.entries:
        folders.setdefault(entry.label, set()).add(entry.path.rpartition("/")[0].rpartition("/")[2])
    count = max(folders, default=-1) + 1
    names = [next(iter(folders[label])) for label in sorted(folders) if len(folders[label]) == 1]
    one_each = len(set(names) - {""}) == count
    listing.class_names = names if one_each else [str(label) for label in range(count)]


@annotation_format("class-folders")
def read_class_folders(files: Sequence[Path], listing: Listing) -> None:
    """Folders named after their classes, or `train/ val/ test/` with these below; sorted by path."""
    root = str(listing.folder.root)
    listing.add_links_outside()
    paths = sorted(listing.folder.files, key=lambda path: path.replace("/", "\0"))  # folder by folder
    tops = {path[: path.index("/")] for path in paths if "/" in path}
    if not tops:
        return
    has_parts = all(top.lower() in PARTS for top in tops)
    depth = 1 if has_parts else 0
    listing.class_names = sorted(
        {steps[depth] for steps in (path.split("/", depth + 1) for path in paths) if len(steps) > depth + 1}
    )
    labels = {name: label for label, name in enumerate(listing.class_names)}
    loose = 0
    for path in paths:
        steps = path.split("/")
        part = PARTS[steps[0].lower()] if has_parts and len(steps) > 1 else ""
        if part and len(steps) == 2:
            listing.problem(
                f"{root}/{path}", f"lies in {steps[0]!r}, the folder of a part, and in no class folder"
            )
            continue
        loose += len(steps) == 1
        label = labels[steps[depth]] if len(steps) > 1 else -1
        listing.add("", path, label=label, split="folders", part=part)
    if loose:
        listing.notes.append(f"unlabelled, beside the class folders: {loose:,} videos")
    if len(listing.class_names) == 1:
        listing.notes.append(
            f"one class only: all labelled videos lie in the folder {listing.class_names[0]!r}"
        )


@annotation_format("files")
def read_files(files: Sequence[Path], listing: Listing) -> None:
    """Plain video files, unlabelled, sorted by path; `files` is not used where a folder is the source."""
    listing.add_links_outside()
    for path in sorted(listing.folder.files, key=lambda path: path.replace("/", "\0")):
        listing.add("", path, label=-1)
