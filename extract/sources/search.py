"""Find a source's lists and videos: the format, the files and the root."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import SourceError, UsageError
from ...runtime.file_names import as_text
from ...terminal.text import agreeing, counted
from . import table_lists as table_lists  # registers its formats
from .folder import (
    EXTENSIONS_TEXT,
    LIST_EXTENSIONS,
    VideoFolder,
    begins_as_video,
    is_video_name,
    list_entries,
    require_local,
    scan_folder,
)
from .folder_layout import below_the_container, layout_of, left_out
from .formats import Format, file_formats, get_format
from .listing import Listing
from .unread_lists import is_part_of, looks_like_a_list, notes_on, unknown_form, unread

# Folders in which data sets keep their lists.
_ANNOTATION_FOLDERS = frozenset(["annotation", "annotations", "annots", "lists", "splits", "labels"])

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to read a source; `listings` reads it under each possible root, lazily."""

    format: Format
    what: str
    listings: Iterable[Listing]
    notes: tuple[str, ...] = ()


def fitting(listings: Iterable[Listing]) -> tuple[Listing, list[str]]:
    """Return the first listing with a video at its listed path, else the one with most videos found.

    Also returns the roots tried.
    """
    searched: list[str] = []
    best: tuple[int, Listing] | None = None
    for listing in listings:
        searched.append(repr(str(listing.folder.root)))
        found = [entry for entry in listing.entries if entry.on_disk]
        if any(not entry.listed for entry in found):
            return listing, searched
        if best is None or len(found) > best[0]:
            best = len(found), listing
    assert best is not None
    return best[1], searched


@dataclass(frozen=True, kw_only=True)
class Search:
    """The user's options for reading sources; finds the candidate for one."""

    chosen: Format | None
    video_root: Path | None
    follow_links: bool

    def locate(self, source: PathLike | Sequence[PathLike]) -> Candidate:
        """Return the one way to read the source.

        Raises:
            UsageError: options that exclude each other; an empty name, or an address.
            SourceError: nothing readable is there, more than one annotation fits, or a list has no known
                form.
        """
        paths = list(map(require_local, [source] if isinstance(source, (str, os.PathLike)) else source))
        if not paths:
            raise UsageError("no source: pass a folder, an annotation file or video files")
        if self.video_root and not self.video_root.is_dir():
            raise SourceError(f"no folder {str(self.video_root)!r} to take as the video root")
        first = paths[0]
        if len(paths) == 1 and first.is_dir():
            return self._in_folder(first)
        if len(paths) == 1 and not first.exists():
            raise SourceError(f"no such file or folder: {str(first)!r}")
        if len(paths) == 1 and not first.is_file():
            raise SourceError(
                f"{str(first)!r} is no regular file; devices and streams are not "
                "supported yet: save them as files first"
            )
        if len(paths) == 1 and not is_video_name(first.name) and not _is_bare_video(first):
            return self._with_list(first)
        if self.chosen and self.chosen.name != "files":
            raise UsageError(
                f"video files are read as 'files'; format {self.chosen.name!r} does not go with them"
            )
        return Candidate(format=get_format("files"), what="the command", listings=[self._named_files(paths)])

    def _with_list(self, file: Path) -> Candidate:
        """Return the candidate for an annotation file that the user named."""
        recognised = self.chosen or next((f for f in file_formats() if f.recognises(file)), None)
        if recognised is None and file.suffix.lower().lstrip(".") in LIST_EXTENSIONS:
            raise unknown_form(file)
        if recognised is None:
            raise SourceError(
                f"{str(file)!r} is no video ({EXTENSIONS_TEXT}) and no annotation file of a known format "
                f"({', '.join(each.name for each in file_formats())}); name its format with --format"
            )
        if not recognised.from_files:
            raise UsageError(f"format {recognised.name!r} takes a folder or videos, found {str(file)!r}")
        return self._with_files(recognised, [file], self._default_roots(recognised, file.parent))

    def _scan(self, root: Path) -> VideoFolder:
        return scan_folder(root, follow_links=self.follow_links)

    def _in_folder(self, folder: Path) -> Candidate:
        """Return the candidate for a folder: lists in it, else beside it, else its class folders."""
        chosen = self.chosen
        notes: list[str] = []
        if chosen is None or chosen.from_files:
            candidates, notes = self._with_lists_of(_absolute(folder))
            if len(candidates) > 1:
                listed = "; ".join(candidate.what for candidate in candidates)
                raise SourceError(
                    f"more than one annotation fits {str(folder)!r}: {listed}; choose with --format, or "
                    "pass the annotation file itself with --video-root"
                )
            if candidates:
                return replace(candidates[0], notes=(*candidates[0].notes, *notes))
            if chosen or self.video_root:
                name = f"{chosen.name} " if chosen else ""
                beside = "" if self.video_root else ", nor any beside it that names its videos"
                raise SourceError(f"no {name}annotation files in {str(folder)!r}{beside}")
        if self.video_root is not None:
            raise UsageError(
                "--video-root goes with annotation files; for class folders pass the folder alone"
            )
        videos = self._scan(folder)
        if chosen is None or chosen.name == "class-folders":
            videos, moved = below_the_container(folder, videos, follow_links=self.follow_links)
            if moved and chosen is None:  # there may be lists in it
                inner = self._in_folder(videos.root)
                return replace(inner, notes=(*notes, *moved, *inner.notes))
            notes += moved
        if not videos.files and not videos.outside:
            hidden = (
                f"; {counted(videos.skipped, 'hidden file')} or broken "
                f"{agreeing(videos.skipped, 'link is', 'links are')} left out"
                if videos.skipped
                else ""
            )
            said = "".join(f"; {line}" for line in left_out(videos))
            raise SourceError(f"no videos in {str(folder)!r} ({EXTENSIONS_TEXT}){hidden}{said}")
        has_folders = any("/" in path for path in videos.files)
        if chosen and chosen.name == "class-folders" and not has_folders and not videos.outside:
            raise SourceError(
                f"no class folders with videos in {str(folder)!r}; without labels, pass --format files"
            )
        fallback = chosen or get_format("class-folders" if has_folders else "files")
        return Candidate(
            format=fallback, what=str(folder), listings=_read(fallback, [], [videos]), notes=tuple(notes)
        )

    def _with_lists_of(self, folder: Path) -> tuple[list[Candidate], list[str]]:
        """Return the candidates for lists in the folder, else beside it, and notes on unread lists.

        A folder of lists beside this one may be another data set's: it counts only if it names one of the
        videos here. A file beside the folder always counts, unless another annotation fits. Raises
        SourceError for a list that no format knows, if no other list is read instead.
        """
        formats = [self.chosen] if self.chosen else file_formats()
        inside = [*_lists_in(folder, formats), *_list_folders_in(folder, formats)]
        inside = inside or _list_folders_in(folder, formats, annotations=True)
        read = [file for _, files in inside for file in files]
        notes = self._judge_unread(unread(folder, read), read, where="in")
        if inside or self.video_root:
            return [
                self._with_files(each, files, self._default_roots(each, files[0].parent, folder), place="in")
                for each, files in inside
            ], notes
        files_beside = _lists_in(folder.parent, formats, beside=True)
        folders_beside = _list_folders_in(folder.parent, formats)
        folders_beside += _list_folders_in(folder.parent, formats, annotations=True)
        if not files_beside and not folders_beside:
            if os.access(folder.parent, os.R_OK | os.X_OK):
                looked_at = [file for file in unread(folder.parent, []) if _looks_the_part(file.name)]
                paths = self._scan(folder).files if any(map(looks_like_a_list, looked_at)) else frozenset()
                where = "beside" if layout_of(paths).part_step is None and paths else "around"
                notes += self._judge_unread(looked_at, [], where=where)
            return [], notes
        about_it, others, strangers = [], [], []
        videos = self._scan(folder)
        for index, (each, files) in enumerate((*files_beside, *folders_beside)):
            listing = next(_read(each, files, [videos]))
            candidate = replace(self._with_files(each, files, [], place="beside"), listings=[listing])
            if any(entry.on_disk for entry in listing.entries):
                about_it.append(candidate)
            elif index < len(files_beside):
                others.append(candidate)
            else:
                strangers.append(": ".join([candidate.what, *listing.problems[:1]]))
        notes += [f"beside the folder, but about none of its videos: {what}" for what in strangers[:3]]
        return about_it or others, notes

    def _judge_unread(self, files: Sequence[Path], read: Sequence[Path], *, where: str) -> list[str]:
        """Return notes on tables that are not read. Raises SourceError for one that is named like a list.

        It is not an error if other lists are read and it is not another part of them.
        """
        if self.chosen is not None:
            return []
        for file in files:
            is_needed = not read or (is_part_of(file, read) and file.stat().st_size > 0)
            if looks_like_a_list(file) and where != "around" and is_needed:
                raise unknown_form(file)
        return notes_on(files) if where == "in" else []

    def _with_files(
        self, chosen: Format, files: list[Path], roots: Iterable[Path], *, place: str = ""
    ) -> Candidate:
        names = ", ".join(file.name for file in files[:3])
        names += f" and {len(files) - 3} more" if len(files) > 3 else ""
        what = f"{chosen.name} ({names} in {str(files[0].parent)!r})"
        folders = (self._scan(root) for root in roots)
        notes = (f"annotations found {place} the folder: {what}",) if place else ()
        return Candidate(format=chosen, what=what, listings=_read(chosen, files, folders), notes=notes)

    def _default_roots(self, chosen: Format, lists: Path, named: Path | None = None) -> list[Path]:
        """Return the possible roots of the videos of the lists in this folder.

        `named` is the folder that the user passed.
        """
        if self.video_root is not None:
            return [self.video_root]
        lists = _absolute(lists)
        ucf = [lists.parent / "UCF-101"] if chosen.name == "ucf101" else []
        roots = (lists / "videos", *ucf, lists.parent / "videos", lists, named or lists)
        return list(dict.fromkeys(root.resolve() for root in roots if root.is_dir()))

    def _named_files(self, paths: Sequence[Path]) -> Listing:
        """List video files named one by one, relative to the video root or to their common folder."""
        if wrong := [path for path in paths if not is_video_name(path.name) and not _is_bare_video(path)]:
            raise SourceError(f"{str(wrong[0])!r} is not a video file ({EXTENSIONS_TEXT})")
        files = [path.parent.resolve() / path.name for path in paths]
        root = (
            self.video_root.resolve()
            if self.video_root
            else Path(os.path.commonpath([file.parent for file in files]))
        )
        outside = next((file for file in files if not file.is_relative_to(root)), None)
        if outside:
            raise SourceError(f"{str(outside)!r} is not under the video root {str(root)!r}")
        names = {as_text(file.relative_to(root).as_posix()): file for file in files}
        leaving = {
            name: as_text(str(file.resolve()))
            for name, file in names.items()
            if not self.follow_links and not file.resolve().is_relative_to(root)
        }
        on_disk = frozenset(name for name, file in names.items() if file.is_file())
        listing = Listing(
            VideoFolder(root=root, files=on_disk - leaving.keys(), outside=leaving), by_name_only=True
        )
        for name in names:
            listing.add(name, name, label=-1)
        return listing


def _is_bare_video(path: Path) -> bool:
    """Whether a file without an extension is a video by its content."""
    return "." not in path.name and begins_as_video(path)


def _absolute(path: Path) -> Path:
    """Return the absolute path without following links, so that files beside a link are found."""
    return Path(os.path.normpath(path.absolute()))


def _read(chosen: Format, files: Sequence[Path], folders: Iterable[VideoFolder]) -> Iterator[Listing]:
    for folder in folders:
        listing = Listing(folder, _absolute(files[0].parent) if files else None)
        chosen.read(files, listing)
        listing.settle()
        yield listing


def _looks_the_part(name: str) -> bool:
    """Whether a file beside videos may be a list of them by its name."""
    name = name.lower()
    return name.endswith((".csv", ".tsv")) or "list" in name or "_test_split" in name


def _lists_in(
    folder: Path, formats: Sequence[Format], *, beside: bool = False, by_name: bool = False
) -> list[tuple[Format, list[Path]]]:
    """Return the annotation files directly in `folder`, by format.

    Beside videos, only those named like a list.
    """
    found: dict[str, list[Path]] = {}
    if (beside or by_name) and not os.access(folder, os.R_OK | os.X_OK):
        return []  # the user did not name this folder, so a refused access is no error
    for entry in list_entries(folder, at_most=500 if by_name else None):
        name = entry.name.lower()
        is_list = name.endswith((".csv", ".txt", ".tsv", ".lst", ".list"))
        if name.startswith(".") or not is_list or not entry.is_file():
            continue
        if beside and not (_looks_the_part(name) and os.access(entry.path, os.R_OK)):
            continue
        recognised = next((f for f in formats if f.recognises(Path(entry.path))), None)
        if recognised:
            found.setdefault(recognised.name, []).append(Path(entry.path))
    return [(get_format(name), files) for name, files in found.items()]


def _list_folders_in(
    parent: Path, formats: Sequence[Format], *, annotations: bool = False
) -> list[tuple[Format, list[Path]]]:
    """Return the folders in `parent` that hold only lists, by format.

    They are known by the lists' names (UCF-101, HMDB-51), or by their own.
    """
    own = [f for f in formats if annotations or f.own_folder]
    if not own or not os.access(parent, os.R_OK | os.X_OK):
        return []
    folders = [entry for entry in list_entries(parent) if entry.is_dir() and not entry.name.startswith(".")]
    if annotations:
        folders = [entry for entry in folders if entry.name.lower() in _ANNOTATION_FOLDERS]
    found = [lists for entry in folders for lists in _lists_in(Path(entry.path), own, by_name=True)]
    return [(each, files) for each, files in found if not (annotations and each.own_folder)]
