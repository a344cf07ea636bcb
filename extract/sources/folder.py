"""The video files under one root, listed once. Files that must not be used are kept separate."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from operator import attrgetter
from pathlib import Path

from ...errors import SourceError, UsageError
from ...runtime.file_names import as_text, is_text

# Extensions of the containers that `packets` opens, as cameras, discs and sites use them.
_COMMON = ("3gp", "avi", "flv", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ts", "webm", "wmv")
_RARE = (
    "3g2",
    "asf",
    "divx",
    "f4v",
    "m2p",
    "m2t",
    "m2ts",
    "mk3d",
    "mod",
    "mp4v",
    "mpe",
    "mts",
    "ogm",
    "ogv",
    "qt",
    "tod",
    "trp",
    "vob",
)
VIDEO_EXTENSIONS = frozenset(_COMMON + _RARE)
EXTENSIONS_TEXT = f"extensions: {', '.join(_COMMON)}; also {', '.join(_RARE)}"
PLAYLISTS = frozenset(["m3u8", "m3u", "pls", "sdp", "mpd", "ffconcat", "concat", "xspf", "asx"])
# Files beside videos that list or describe them.
LIST_EXTENSIONS = frozenset(["csv", "tsv", "txt", "lst", "list", "json", "jsonl", "xlsx", "xls", "parquet"])
# Folders with these names hold a data set's videos or its parts; they are not classes.
CONTAINER_FOLDERS = frozenset(
    [
        "video",
        "videos",
        "raw_videos",
        "rawvideos",
        "video_files",
        "clips",
        "data",
        "dataset",
        "media",
        "movies",
        "files",
        "raw",
    ]
)

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/{1,2}(?=[^/])|file:/{3}", re.IGNORECASE)
_HEAD_BYTES = 400
_BLOCK = 188  # bytes of a packet of a transport stream


def is_video_name(name: str) -> bool:
    """Whether a file of this name is a video by its extension; playlists never are."""
    return name.rpartition(".")[2].lower() in VIDEO_EXTENSIONS and "." in name


def stem_of(path: str) -> str:
    """Return the file's name without folder and video extension, in NFC: equal for all copies."""
    name = path.rpartition("/")[2]
    return composed(name.rpartition(".")[0] if is_video_name(name) else name)


def composed(text: str) -> str:
    """Return the text in NFC. macOS writes names decomposed, so equal names can differ in their bytes."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def is_address(text: str) -> bool:
    """Whether `text` is the address of something elsewhere (https, rtsp, s3, …) and not a path."""
    return _ADDRESS.match(text) is not None


def require_local(name: str | os.PathLike[str]) -> Path:
    """Return the path of a video source that the user named.

    Raises:
        UsageError: it is empty, or the address of a stream or of a file elsewhere.
    """
    text = os.fspath(name)
    if not text.strip():
        raise UsageError(
            "the source is empty; name a folder, an annotation file or "
            "video files ('.' is the current folder)"
        )
    if is_address(text) and not os.path.lexists(text):
        if text.lower().startswith("file:"):
            raise UsageError(f"{text!r} is an address; name the file's path alone, without 'file://'")
        raise UsageError(
            f"{text!r} is an address; streams and files elsewhere are not supported yet: save it as a file "
            "first, for example with ffmpeg -i ADDRESS -c copy video.mkv"
        )
    return Path(name)


@dataclass(frozen=True, kw_only=True)
class VideoFolder:
    """The video files under one root, as posix paths relative to it."""

    root: Path
    files: frozenset[str]
    outside: dict[str, str] = field(default_factory=dict)  # links that leave the root, and their targets
    skipped: int = 0  # hidden video files and broken links
    left_out: Mapping[str, int] = field(default_factory=dict)  # extension → number of files left out for it
    folders: tuple[str, ...] = ()  # every folder, also one without videos

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """Group the files by name without folder and extension, see `stem_of`."""
        found: dict[str, list[str]] = {}
        for path in sorted((*self.files, *self.outside)):
            found.setdefault(stem_of(path), []).append(path)
        return found

    def leads_outside(self, path: str) -> str | None:
        """Return the target if `path`, or a folder on its way, is a link that leaves the root."""
        if not self.outside:
            return None
        steps = path.split("/")
        return next(
            filter(None, (self.outside.get("/".join(steps[: i + 1])) for i in range(len(steps)))), None
        )


def scan_folder(root: Path, *, follow_links: bool = False) -> VideoFolder:
    """List the videos under `root`, at any depth, in one pass over its folders.

    Links to files and folders within the root are followed (never in a circle). Links that leave it are kept
    separate, unless `follow_links` is set. Hidden files and folders are left out. A file without an extension
    counts if it begins as a video container does. Names that are not UTF-8 are returned with escapes: only
    such a file fails, when it is opened. Raises SourceError if a folder cannot be read.
    """
    root = root.resolve()
    files: list[str] = []
    folders: list[str] = []
    outside: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    skipped = 0
    # Per folder: path as seen from the root, real path, and the real folders whose links led here.
    stack: list[tuple[str, Path, tuple[Path, ...]]] = [("", root, ())]
    while stack:
        prefix, folder, came_by = stack.pop()
        if prefix:
            folders.append(prefix[:-1])
        for entry in list_entries(folder):
            path = prefix + entry.name
            is_video = is_video_name(entry.name)
            if entry.name.startswith("."):
                skipped += is_video
            elif entry.is_symlink():
                target = Path(os.path.realpath(entry.path))
                is_folder = entry.is_dir()
                if not follow_links and not target.is_relative_to(root):
                    if is_video or is_folder:
                        outside[path] = str(target)
                    elif "." not in entry.name and not target.exists():
                        skipped += 1  # it may have been a folder of videos
                elif is_folder:
                    on_the_way = (*came_by, folder)
                    if not any(real.is_relative_to(target) for real in on_the_way):
                        stack.append((path + "/", target, on_the_way))
                elif entry.is_file():
                    _sort_file(entry, path, files, left_out)
                else:
                    skipped += is_video or "." not in entry.name
            elif entry.is_dir():
                stack.append((path + "/", folder / entry.name, came_by))
            elif entry.is_file():
                _sort_file(entry, path, files, left_out)
    if not all(map(is_text, files)) or not all(map(is_text, outside)):
        files, outside = (
            [as_text(path) for path in files],
            {as_text(path): as_text(target) for path, target in outside.items()},
        )
    return VideoFolder(
        root=root,
        files=frozenset(files),
        outside=outside,
        skipped=skipped,
        left_out=left_out,
        folders=tuple(sorted(map(as_text, folders))),
    )


def _sort_file(entry: os.DirEntry[str], path: str, files: list[str], left_out: Counter[str]) -> None:
    """Add a file to the videos, or count it as left out by its extension."""
    if is_video_name(entry.name) or ("." not in entry.name and begins_as_video(entry.path)):
        files.append(path)
        return
    _, dot, extension = entry.name.rpartition(".")
    extension = extension.lower()
    is_list = "/" not in path and extension in LIST_EXTENSIONS  # another message names it if it is not read
    if dot and not is_list and extension not in PLAYLISTS:
        left_out[extension] += 1


def begins_as_video(path: str | os.PathLike[str]) -> bool:
    """Whether a file's first bytes are those of a video container."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return True
    if head.startswith(
        (b"\x1a\x45\xdf\xa3", b"FLV\x01", b"GIF8", b"\0\0\1\xba", b"\0\0\1\xb3", b"\x30\x26\xb2\x75")
    ):
        return True
    if head.startswith(b"OggS"):
        return b"theora" in head or b"OVP80" in head
    # Blu-ray and AVCHD put four bytes of time before each packet.
    return any(len(head) > at + _BLOCK + at and head[at] == head[2 * at + _BLOCK] == 0x47 for at in (0, 4))


def list_entries(folder: Path, at_most: int | None = None) -> list[os.DirEntry[str]]:
    """Return the folder's entries sorted by name (of a huge folder, any `at_most` of them)."""
    try:
        with os.scandir(folder) as entries:
            return sorted(islice(entries, at_most), key=attrgetter("name"))
    except OSError as error:
        raise SourceError(f"cannot read folder {str(folder)!r}: {error.strerror}") from error
