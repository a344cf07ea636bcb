"""The annotation formats: what each kind of list says about the videos under one folder.

A format is a name, a test that recognises its files, and a reader that adds one `Entry` a line to a
`Listing`. The listing is the door: it checks every path and looks it up among the files that
`scan_folder` found, so that a reader only parses. A new format is one decorated function.
"""

from __future__ import annotations

import csv
import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SourceError, UsageError
from . import list_text
from .folder_layout import PARTS, classes_without_videos, layout_of, same_names
from .list_text import SEPARATORS, SPACE
from .listed_paths import PathLookup, shown
from .video_folder import (
    EXTENSIONS_TEXT,
    PLAYLISTS,
    VideoFolder,
    composed,
    is_address,
    is_utf8,
    is_video_name,
    stem_of,
)

MAX_CLASSES = 100_000  # a label beyond it is a number that is no label
UCF_LIST = re.compile(r"(train|test)list(\d+)\.txt")
HMDB_LIST = re.compile(r"(.+)_test_split(\d+)\.txt")


# --- What the lists say --------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Entry:
    """One mention of one video: `where` is "file:line", "" where the folder itself is the list; `split`/`part` e.g. "split1"/"train", or empty.

    `listed` is the path as the list has it where the file is called otherwise, else empty.
    """

    id: str
    path: str
    on_disk: bool
    where: str
    label: int
    split: str
    part: str
    group: str
    listed: str = ""


class Listing:
    """What a format's files say about the videos of `folder`, and what is wrong with them.

    Readers report what is wrong as a `problem` and go on, so that all of it can be counted. `lists` is the folder of the
    lists. With `by_name_only` the folder holds no files, only names that are looked up as they are.
    """

    def __init__(self, folder: VideoFolder, lists: Path | None = None, *, by_name_only: bool = False) -> None:
        self.folder = folder
        self.entries: list[Entry] = []
        self.class_names: list[str] = []
        self.notes: list[str] = []
        self.problems: list[str] = []
        self._lookup = None if by_name_only else PathLookup(folder, lists)

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
        bare: bool = False,
        anywhere: bool = False,
    ) -> None:
        """Add the video at `path` (relative to the root, posix), or note why that is no path of a video.

        A file with another extension, or below or above other folders, is taken where one fits, see `PathLookup.find`.
        `id` defaults to the file's path; an empty `part` means that the video is not in the split. `where` is "" where
        the folder itself is the list: a million places would take 130 MB. `bare`: the list names videos without an
        extension. `anywhere`: names are unique, whatever the folder.
        """
        said, where = where, where or f"{self.folder.root}/{path}"
        listed = ""
        if path not in self.folder.files:
            relative = self._relative(where, path)
            if relative is None:
                return
            found = self._found(where, relative, anywhere=anywhere)
            if found is None or self._is_link_outside(where, found or relative):
                return
            if found:
                listed = "" if found == relative else path
            elif not is_video_name(relative) and not (bare and "." not in relative.rpartition("/")[2]):
                return self.problem(where, f"{path!r} is not a video file ({EXTENSIONS_TEXT})")
            path = found or relative
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
                listed=listed,
            )
        )
        return None

    def _relative(self, where: str, path: str) -> str | None:
        """The path relative to the root; None, with the problem noted, where it is none."""
        if is_address(path):
            self.problem(where, f"{path!r} is an address and no path; fetch the videos, and list their files")
            return None
        if self._lookup is not None:
            relative = self._lookup.relative(path)
        else:
            steps = path.replace("\\", "/").split("/")
            relative = "/".join(step for step in steps if step not in ("", "."))
            relative = None if path.startswith("/") or ".." in steps else relative
        if relative is None:
            self.problem(
                where,
                f"{path!r} leaves the video root {str(self.folder.root)!r}; name a folder that holds all listed videos with "
                "--video-root",
            )
        return relative

    def _found(self, where: str, path: str, *, anywhere: bool) -> str | None:
        """The file that is meant; "" where there is none; None, with the problem noted, where several fit alike."""
        if path in self.folder.files or self._lookup is None or self.folder.leads_outside(path):
            return path
        if path.rpartition(".")[2].lower() in PLAYLISTS:
            return ""
        fits = self._lookup.find(path, anywhere=anywhere)
        if len(fits) > 1:
            self.problem(
                where,
                f"{len(fits)} files fit {path!r}: {shown(fits)}; keep one, or list it by its whole path",
            )
            return None
        return fits[0] if fits else ""

    def _is_link_outside(self, where: str, path: str) -> bool:
        target = self.folder.leads_outside(path)
        if target is not None:
            root = str(self.folder.root)
            self.problem(
                where,
                f"{path!r} is a link to {target!r}, outside the video root {root!r}; take it with --follow-links, or remove it, put "
                "the file there, or list it in an annotation file and name a folder that holds all of them with --video-root",
            )
        return target is not None

    def settle(self) -> None:
        """Let each file be one listed video's: a name that fits it only by its stem yields to the one that is its own."""
        others = [entry for entry in self.entries if entry.listed]
        if not others:
            return
        own = {entry.path for entry in self.entries if not entry.listed}
        claims: dict[str, str] = {}
        names: dict[str, str] = {}
        for entry in others:
            if entry.path in own:
                if entry.id == entry.path:
                    entry.id = entry.listed
                entry.path, entry.listed, entry.on_disk = entry.listed, "", False
                continue
            first = claims.setdefault(entry.path, entry.listed)
            names[entry.listed] = entry.path
            if not _may_be_one(first, entry.listed):
                self.problem(
                    entry.where,
                    f"{shown([entry.listed, first])} both fit the file {entry.path!r}; list it by its own path",
                )
        if names:
            listed, path = next(iter(names.items()))
            here = ascii if composed(listed) == composed(path) else repr
            self.notes.append(
                f"listed under another name, found by the stem: {len(names):,}, as {here(listed)} is {here(path)}"
            )

    def add_links_outside(self) -> None:
        """Note every link that leaves the root: where the folder itself is the list, each is on it."""
        for path in sorted(self.folder.outside):
            self.add("", path, label=-1)

    def lines(self, file: Path) -> Iterable[tuple[str, str]]:
        """("file:line", text) of each line that is not blank and no comment, without the space around it."""
        for number, line in enumerate(self.text(file).split("\n"), start=1):
            if (text := line.strip()) and not self._is_remark(text):
                yield f"{file}:{number}", text

    def fields(self, file: Path) -> Iterable[tuple[str, str, str]]:
        """("file:line", path, last field) of each line `path field`, where the path may hold spaces."""
        for where, text in self.lines(file):
            match text.rsplit(None, 1):
                case [path, last]:
                    yield where, path, last
                case _:
                    self.problem(where, f"{text!r} has one field where a path and a number belong")

    def table(self, file: Path, separator: str) -> Iterable[tuple[str, list[str]]]:
        """("file:line", fields) of each row of a csv file, or one with another separator, without blanks and comments."""
        lines = ("" if self._is_remark(line.strip()) else line for line in self.text(file).split("\n"))
        rows = list_text.rows(lines, separator)
        number = 0
        try:
            for number, fields in rows:
                yield f"{file}:{number}", fields
        except csv.Error as error:
            self.problem(f"{file}:{number + 1}", str(error))

    def _is_remark(self, line: str) -> bool:
        """Whether a line is a comment: a name on the disk may begin with a "#", too."""
        if not list_text.is_remark(line):
            return False
        names = [
            line,
            *(
                name
                for separator in (SPACE, *SEPARATORS)
                for name in list_text.video_fields(line, separator)[:1]
            ),
        ]
        return not any(name in self.folder.files or stem_of(name) in self.folder.by_stem for name in names)

    def text(self, file: Path) -> str:
        """The file as text without a byte-order mark, every line ending a newline; empty if it is none."""
        try:
            data = file.read_bytes()
            return list_text.decode(data)
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            again = f"iconv -f latin1 -t utf-8 {shlex.quote(str(file))} > utf8{file.suffix}"
            self.problem(
                f"{file}:{line}", f"not UTF-8 text; save the file as UTF-8, or if it is Latin-1: {again}"
            )
        except OSError as error:
            self.problem(str(file), f"cannot be read: {error.strerror}")
        return ""


def _may_be_one(one: str, other: str) -> bool:
    """Whether two listed names can be one video's: but for the extension, one is the end of the other."""
    first, second = (
        [*composed(each.replace("\\", "/")).split("/")[:-1], stem_of(each)] for each in (one, other)
    )
    shorter, longer = sorted(
        ([s for s in first if s not in ("", ".")], [s for s in second if s not in ("", ".")]), key=len
    )
    return longer[len(longer) - len(shorter) :] == shorter


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
    nearest = difflib.get_close_matches(name, _formats, n=1, cutoff=0.4)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise UsageError(f"unknown annotation format {name!r} (known: {', '.join(_formats)}){hint}")


# --- The formats ---------------------------------------------------------------------------------------


def number_of(text: str, largest: int) -> int | None:
    """The whole number 0 … largest that `text` is, or None."""
    number = int(text) if text.isdecimal() and len(text) < 10 else -1
    return number if 0 <= number <= largest else None


_KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end"}


def _kinetics_header(file: Path) -> tuple[str, list[str]] | None:
    return list_text.header(list_text.head(file), lambda names: set(names) >= _KINETICS_COLUMNS)


@annotation_format("kinetics", recognise=lambda file: _kinetics_header(file) is not None)
def read_kinetics(files: Sequence[Path], listing: Listing) -> None:
    """Kinetics csv, header `label,youtube_id,time_start,time_end,split`, in any order; `label` and `split` may lack.

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
        found = _best_of(listing.folder.by_stem.get(composed(id), []), class_name, part)
        if len(found) > 1:
            listing.problem(where, f"{len(found)} files fit: {found[0]!r} and {found[1]!r}; keep one")
            continue
        path = found[0] if found else f"{id}.mp4"
        listing.add(where, path, label=labels.get(class_name, -1), id=id, split="kinetics", part=part)


def _csv_rows(file: Path, listing: Listing) -> Iterable[tuple[str, dict[str, str]]]:
    """("file:line", column → value) of each row of a Kinetics csv that has as many fields as its header."""
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
    """("file:line", column → value) of each row below the header; one of another length is a problem."""
    names: list[str] | None = None
    for where, row in listing.table(file, separator):
        if names is None and list_text.as_names(row) == list(columns):
            names = row
        if row == names:  # also where files with headers were put together
            continue
        fields = row if any(row[len(columns) :]) else row[: len(columns)]
        if len(fields) == len(columns):
            yield where, dict(zip(columns, fields, strict=True))
        else:
            listing.problem(where, f"{len(row)} fields where the header has {len(columns)}")


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
                listing.add(where, path, label=label, split=f"split{split}", part=part, anywhere=True)
            else:
                listing.problem(where, f"0, 1 or 2 belongs last, found {flag!r}")


@annotation_format("class-folders")
def read_class_folders(files: Sequence[Path], listing: Listing) -> None:
    """Folders named after their classes, below `train/ val/ test/`, above them, or without; sorted by path."""
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
    loose = 0
    for path in paths:
        steps = path.split("/")
        part = layout.part(steps)
        if part and len(steps) < depth + 2:
            listing.problem(
                f"{root}/{path}",
                f"lies in {steps[-2]!r}, the folder of a part, and in no class folder; without labels, pass --format files",
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
    listing.notes += classes_without_videos(listing.folder, layout)


@annotation_format("files")
def read_files(files: Sequence[Path], listing: Listing) -> None:
    """Plain video files, unlabelled, sorted by path; `files` is not used where a folder is the source."""
    listing.add_links_outside()
    for path in sorted(listing.folder.files, key=lambda path: path.replace("/", "\0")):
        listing.add("", path, label=-1)
