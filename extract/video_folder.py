"""The video files under one root, listed once, with what may not be used kept apart."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from operator import attrgetter
from pathlib import Path

from ..errors import SourceError
from ..names import as_text, is_text

VIDEO_EXTENSIONS = frozenset(
    ["mp4", "avi", "mkv", "webm", "mov", "m4v", "mpg", "mpeg", "gif", "wmv", "flv", "ts", "3gp"]
)


def is_video_name(name: str) -> bool:
    """Whether a file of this name is a video by its extension; playlists never are."""
    return name.rpartition(".")[2].lower() in VIDEO_EXTENSIONS and "." in name


@dataclass(frozen=True, kw_only=True)
class VideoFolder:
    """The video files under one root, as posix paths relative to it."""

    root: Path
    files: frozenset[str]
    outside: dict[str, str] = field(default_factory=dict)  # links that leave the root, and where they lead
    skipped: int = 0  # hidden video files and broken links

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """Every file by its name without folder and extension."""
        found: dict[str, list[str]] = {}
        for path in sorted((*self.files, *self.outside)):
            found.setdefault(path.rpartition("/")[2].rpartition(".")[0], []).append(path)
        return found

    def leads_outside(self, path: str) -> str | None:
        """Where `path` leads if it, or a folder on its way, is a link that leaves the root."""
        if not self.outside:
            return None
        steps = path.split("/")
        return next(
            filter(None, (self.outside.get("/".join(steps[: i + 1])) for i in range(len(steps)))), None
        )


def scan_folder(root: Path) -> VideoFolder:
    """List the videos under `root`, at any depth, in one pass over its folders.

    Links to files and folders within the root are followed (never in a circle), those that leave it are
    kept apart, hidden files and folders are left out. Names that are not UTF-8 are given with escapes: such a file
    fails when it is opened, and costs no other. Raises SourceError where a folder cannot be read.
    """
    root = root.resolve()
    files: list[str] = []
    outside: dict[str, str] = {}
    skipped = 0
    # Per folder: path as seen from the root, real path, and the real folders whose links led here.
    stack: list[tuple[str, Path, tuple[Path, ...]]] = [("", root, ())]
    while stack:
        prefix, folder, came_by = stack.pop()
        for entry in list_entries(folder):
            path = prefix + entry.name
            is_video = is_video_name(entry.name)
            if entry.name.startswith("."):
                skipped += is_video
            elif entry.is_symlink():
                target = Path(os.path.realpath(entry.path))
                is_folder = entry.is_dir()
                if not target.is_relative_to(root):
                    if is_video or is_folder:
                        outside[path] = str(target)
                elif is_folder:
                    on_the_way = (*came_by, folder)
                    if not any(real.is_relative_to(target) for real in on_the_way):
                        stack.append((path + "/", target, on_the_way))
                elif entry.is_file() and is_video:
                    files.append(path)
                else:
                    skipped += is_video
            elif entry.is_dir():
                stack.append((path + "/", folder / entry.name, came_by))
            elif is_video and entry.is_file():
                files.append(path)
    if not all(map(is_text, files)) or not all(map(is_text, outside)):
        files, outside = (
            [as_text(path) for path in files],
            {as_text(path): as_text(target) for path, target in outside.items()},
        )
    return VideoFolder(root=root, files=frozenset(files), outside=outside, skipped=skipped)


def list_entries(folder: Path, at_most: int | None = None) -> list[os.DirEntry[str]]:
    """The folder's entries sorted by name (of a huge folder, `at_most` any of them)."""
    try:
        with os.scandir(folder) as entries:
            return sorted(islice(entries, at_most), key=attrgetter("name"))
    except OSError as error:
        raise SourceError(f"cannot read folder {str(folder)!r}: {error.strerror}") from error
