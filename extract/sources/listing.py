"""The content of lists about the videos under one folder. Every path is checked and looked up here."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import list_text
from .folder import EXTENSIONS_TEXT, PLAYLISTS, VideoFolder, composed, is_address, is_video_name, stem_of
from .list_text import SEPARATORS, SPACE
from .listed_paths import PathLookup, shown


@dataclass(slots=True, kw_only=True)
class Entry:
    """One mention of one video.

    `where` is "file:line", or "" if the folder itself is the list. `split`/`part` are e.g. "split1"/"train",
    or empty. `listed` is the path in the list if the file has another name, else empty.
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
    """The entries of a format's files for the videos of `folder`, and the problems in them.

    Readers report an error as a `problem` and continue, so that all can be counted. `lists` is the folder of
    the lists. With `by_name_only` the folder holds no files, only names that are looked up as they are.
    """

    def __init__(self, folder: VideoFolder, lists: Path | None = None, *, by_name_only: bool = False) -> None:
        self.folder = folder
        self.entries: list[Entry] = []
        self.class_names: list[str] = []
        self.notes: list[str] = []
        self.problems: list[str] = []
        self._lookup = None if by_name_only else PathLookup(folder, lists)

    def problem(self, where: str, what: str) -> None:
        """Record that the content of `where` cannot be used."""
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
        """Add the video at `path` (relative to the root, posix), or record why it is not a path of a video.

        A file with another extension, or below or above other folders, is taken if one fits, see
        `PathLookup.find`. `id` defaults to the file's path. An empty `part` means that the video is not in
        the split. `where` is "" if the folder itself is the list: a million places would take 130 MB. `bare`:
        the list names videos without an extension. `anywhere`: names are unique in all folders.
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
        """Return the path relative to the root. None, with a problem recorded, if it is not valid."""
        if is_address(path) and not path.lower().startswith("file:///"):
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
                f"{path!r} leaves the video root {str(self.folder.root)!r}; name a folder that holds all "
                "listed videos with --video-root",
            )
        return relative

    def _found(self, where: str, path: str, *, anywhere: bool) -> str | None:
        """Return the file for a path; "" if there is none.

        None, with a problem recorded, if several fit equally.
        """
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
                f"{path!r} is a link to {target!r}, outside the video root {root!r}; take it with "
                "--follow-links, or remove it, put "
                "the file there, or list it in an annotation file and name a "
                "folder that holds all of them with --video-root",
            )
        return target is not None

    def settle(self) -> None:
        """Assign each file to one listed video: an exact name has priority over a name that fits by stem."""
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
                    f"{shown([entry.listed, first])} both fit the file "
                    f"{entry.path!r}; list it by its own path",
                )
        if names:
            listed, path = next(iter(names.items()))
            here = ascii if composed(listed) == composed(path) else repr
            self.notes.append(
                "listed under another name, found by the stem: "
                f"{len(names):,}, as {here(listed)} is {here(path)}"
            )

    def add_links_outside(self) -> None:
        """Record every link that leaves the root: if the folder itself is the list, each link is listed."""
        for path in sorted(self.folder.outside):
            self.add("", path, label=-1)

    def lines(self, file: Path) -> Iterable[tuple[str, str]]:
        """Yield ("file:line", text) for each line that is not blank or a comment, stripped."""
        for number, line in enumerate(self.text(file).split("\n"), start=1):
            if (text := line.strip()) and not self._is_remark(text):
                yield f"{file}:{number}", text

    def fields(self, file: Path) -> Iterable[tuple[str, str, str]]:
        """Yield ("file:line", path, last field) for each line `path field`; the path may contain spaces."""
        for where, text in self.lines(file):
            match text.rsplit(None, 1):
                case [path, last]:
                    yield where, path, last
                case _:
                    self.problem(where, f"{text!r} has one field where a path and a number belong")

    def table(self, file: Path, separator: str) -> Iterable[tuple[str, list[str]]]:
        """Yield ("file:line", fields) for each row of a file, without blank rows and comments."""
        lines = ("" if self._is_remark(line.strip()) else line for line in self.text(file).split("\n"))
        rows = list_text.rows(lines, separator)
        number = 0
        try:
            for number, fields in rows:
                yield f"{file}:{number}", fields
        except csv.Error as error:
            self.problem(f"{file}:{number + 1}", str(error))

    def _is_remark(self, line: str) -> bool:
        """Whether a line is a comment: a file name on the disk may begin with a "#", too."""
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
        r"""Return the file's text without a byte-order mark, with "\n" as line end; "" if it is not text."""
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
    """Whether two listed names can be the same video: but for the extension, one is the end of the other."""
    first, second = (
        [*composed(each.replace("\\", "/")).split("/")[:-1], stem_of(each)] for each in (one, other)
    )
    shorter, longer = sorted(
        ([s for s in first if s not in ("", ".")], [s for s in second if s not in ("", ".")]), key=len
    )
    return longer[len(longer) - len(shorter) :] == shorter
