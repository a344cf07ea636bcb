"""Sources: from a folder, an annotation file or some video files to the videos, classes and splits they name.

    read_source("UCF-101", allow_missing=True)      # finds ucfTrainTestlist beside it
    read_source("kinetics/val.csv", video_root="/data/k400")

The formats themselves are in `annotation_formats`; here one is recognised, its lines become one record a
video, and what is wrong is reported before anything is decoded.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import SourceError, UsageError
from ..names import as_text
from ..store import VideoRecord
from ..store.manifest import collector_paused
from .annotation_formats import Entry, Format, Listing, file_formats, get_format
from .video_folder import VIDEO_EXTENSIONS, VideoFolder, is_video_name, list_entries, scan_folder

TEST_SHARE = 5  # split "auto" holds one video in so many out as test
MIN_SEGMENT_SECONDS = 0.1

# One for all videos: a million of their own would take 200 MB.
_IN_AUTO: Mapping[str, Mapping[str, str]] = {part: {"auto": part} for part in ("train", "test")}

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The videos that one source names, in its order (class folders: sorted by path).

    root: absolute folder that every path is relative to.
    format: name of the annotation format, one of `annotation_formats.known_formats()`.
    videos, missing: the records whose file is on disk, and those whose file is not.
    class_names: name of each label, in label order; empty where nothing is labelled.
    notes: what the user should know, one line each.
    """

    root: Path
    format: str
    videos: tuple[VideoRecord, ...]
    missing: tuple[VideoRecord, ...] = ()
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@collector_paused()
def read_source(
    source: PathLike | Sequence[PathLike],
    *,
    format: str | None = None,
    video_root: PathLike | None = None,
    allow_missing: bool = False,
    limit: int | None = None,
) -> Source:
    """Read what `source` says about its videos.

    source: a folder of videos, an annotation file, a folder of annotation files, or video files. A folder's
        own annotation files are used, else those beside it, else its class folders.
    format: name of the annotation format; by default recognised from the files.
    video_root: folder that listed paths are relative to; by default the first of `videos/` in the
        annotation's folder, beside it (and `UCF-101/` for UCF-101), and that folder itself, that holds
        a listed video.
    allow_missing: go on without the listed videos that are not on disk; they become `Source.missing`.
    limit: at most so many of the videos on disk, spread over the classes and within a class over the parts
        of the splits.

    A labelled source without splits gets the split "auto", from each id alone. Raises UsageError for an
    unknown format or options that exclude each other, SourceError for a source that cannot be read, an
    ambiguous one, malformed or contradicting lines (`file:line`), a path or link that leaves the video root,
    and missing videos.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, found {limit}")
    candidate = _locate(
        source, get_format(format) if format else None, Path(video_root) if video_root else None
    )
    searched: list[str] = []
    for listing in candidate.listings:
        searched.append(repr(str(listing.folder.root)))
        if listing.problems or any(entry.on_disk for entry in listing.entries):
            break
    records = merge(listing)
    if listing.problems:
        more = len(listing.problems) - 1
        raise SourceError(listing.problems[0] + (f" (and {more:,} more such problems)" if more else ""))
    notes = [*candidate.notes, *listing.notes]
    labelled = any(record.label >= 0 for record, _ in records)
    if labelled and not any(record.splits for record, _ in records):
        for i, (record, on_disk) in enumerate(records):  # in place: both lists would take twice the memory
            records[i] = (with_auto_split(record), on_disk)
        notes.append(
            f"no splits given: split 'auto' holds out about 1 video in {TEST_SHARE} as test, by its id"
        )
    videos = tuple(record for record, on_disk in records if on_disk)
    missing = tuple(record for record, on_disk in records if not on_disk)
    if not records:
        raise SourceError(f"no videos are listed by {candidate.what}")
    if missing and not (videos and allow_missing):
        raise _missing_error(missing, len(records), " or ".join(searched), listing.folder, candidate.what)
    if missing:
        notes.append(
            f"{len(missing):,} of {len(records):,} listed videos are not on disk: recorded as missing"
        )
    if listing.folder.skipped:
        notes.append(f"{listing.folder.skipped:,} hidden video files or broken links are left out")
    if limit is not None and limit < len(videos):
        notes.append(f"limited to {limit:,} of {len(videos):,} videos")
        videos = _spread(videos, limit)
    return Source(
        root=listing.folder.root,
        format=candidate.format.name,
        videos=videos,
        missing=missing,
        class_names=tuple(listing.class_names),
        notes=tuple(notes),
    )


def segment_source(source: Source, durations: Mapping[str, float], every_seconds: float) -> Source:
    """Cut each video into segments of `every_seconds`, each a record of its own, in time order.

    durations: record id → seconds. A video without one (not probed, broken) stays whole.

    The last segment is what is left; less than half of `every_seconds` joins the one before it. Segments
    keep their video's label and splits, and share a group, so that no split by group parts them. Raises
    UsageError for a length below 0.1 s and for a source that is cut already.
    """
    if not MIN_SEGMENT_SECONDS <= every_seconds < math.inf:
        raise UsageError(f"segments must be at least {MIN_SEGMENT_SECONDS} s long, found {every_seconds}")
    segments: list[VideoRecord] = []
    for video in source.videos:
        duration = durations.get(video.id, 0.0)
        if video.start_seconds is not None or video.end_seconds is not None:
            raise UsageError(f"{video.id!r} is a segment already; cut the source that holds the whole videos")
        if not 0 < duration < math.inf:
            segments.append(video)
            continue
        count = max(1, math.floor(duration / every_seconds + 0.5))
        for index in range(count):
            start = index * every_seconds
            end = duration if index == count - 1 else start + every_seconds
            segments.append(
                replace(
                    video,
                    id=f"{video.id}#t={_seconds(start)},{_seconds(end)}",
                    group=video.group or video.id,
                    start_seconds=start,
                    end_seconds=end,
                )
            )
    return replace(source, videos=tuple(segments))


def _seconds(value: float) -> str:
    """To the millisecond, so that two decoders' idea of a duration gives one id: "0", "10", "27.36"."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


# --- Which format, which files, which root -------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """One way to read a source; `listings` reads it under each root in question, lazily."""

    format: Format
    what: str
    listings: Iterable[Listing]
    notes: tuple[str, ...] = ()


def _locate(
    source: PathLike | Sequence[PathLike], chosen: Format | None, video_root: Path | None
) -> _Candidate:
    paths = [Path(source)] if isinstance(source, (str, os.PathLike)) else [Path(path) for path in source]
    if not paths:
        raise UsageError("no source: pass a folder, an annotation file or video files")
    if video_root and not video_root.is_dir():
        raise SourceError(f"no folder {str(video_root)!r} to take as the video root")
    first = paths[0]
    if len(paths) == 1 and first.is_dir():
        return _in_folder(first, chosen, video_root)
    if len(paths) == 1 and not first.exists():
        raise SourceError(f"no such file or folder: {str(first)!r}")
    if len(paths) == 1 and not is_video_name(first.name):
        recognised = chosen or next((f for f in file_formats() if f.recognises(first)), None)
        if recognised is None:
            raise SourceError(
                f"{str(first)!r} is no video ({_extensions()}) and no annotation file of a known format "
                f"({', '.join(each.name for each in file_formats())}); name its format with --format"
            )
        if not recognised.from_files:
            raise UsageError(f"format {recognised.name!r} takes a folder or videos, found {str(first)!r}")
        return _with_files(recognised, [first], _default_roots(recognised, first.parent, video_root))
    if chosen and chosen.name != "files":
        raise UsageError(f"video files are read as 'files'; format {chosen.name!r} does not go with them")
    return _Candidate(
        format=get_format("files"), what="the command", listings=[_named_files(paths, video_root)]
    )


def _extensions() -> str:
    return "extensions: " + ", ".join(sorted(VIDEO_EXTENSIONS))


def _in_folder(folder: Path, chosen: Format | None, video_root: Path | None) -> _Candidate:
    """A folder of annotation files or videos: lists in it, else beside it, else what the folders say."""
    notes: tuple[str, ...] = ()
    if chosen is None or chosen.from_files:
        candidates, notes = _with_lists_of(_absolute(folder), chosen, video_root)
        if len(candidates) > 1:
            listed = "; ".join(candidate.what for candidate in candidates)
            raise SourceError(
                f"more than one annotation fits {str(folder)!r}: {listed}; choose with --format, or pass the "
                "annotation file itself with --video-root"
            )
        if candidates:
            return candidates[0]
        if chosen or video_root:
            name = f"{chosen.name} " if chosen else ""
            beside = "" if video_root else ", nor any beside it that names its videos"
            raise SourceError(f"no {name}annotation files in {str(folder)!r}{beside}")
    if video_root is not None:
        raise UsageError("--video-root goes with annotation files; for class folders pass the folder alone")
    videos = scan_folder(folder)
    if not videos.files and not videos.outside:
        hidden = f"; {videos.skipped:,} hidden files or broken links are left out" if videos.skipped else ""
        raise SourceError(f"no videos in {str(folder)!r} ({_extensions()}){hidden}")
    has_folders = any("/" in path for path in videos.files)
    if chosen and chosen.name == "class-folders" and not has_folders and not videos.outside:
        raise SourceError(
            f"no class folders with videos in {str(folder)!r}; without labels, pass --format files"
        )
    fallback = chosen or get_format("class-folders" if has_folders else "files")
    return _Candidate(format=fallback, what=str(folder), listings=_read(fallback, [], [videos]), notes=notes)


def _with_lists_of(
    folder: Path, chosen: Format | None, video_root: Path | None
) -> tuple[list[_Candidate], tuple[str, ...]]:
    """The lists in the folder; else those beside it that are about it; and a note on those that are not.

    A folder of lists beside this one may be another data set's: it counts if it names one of the videos here.
    A file beside the folder counts always, unless another annotation fits.
    """
    formats = [chosen] if chosen else file_formats()
    inside = [*_lists_in(folder, formats), *_list_folders_in(folder, formats)]
    if inside or video_root:
        return [
            _with_files(each, files, _default_roots(each, files[0].parent, video_root, folder), place="in")
            for each, files in inside
        ], ()
    files_beside = _lists_in(folder.parent, formats, beside=True)
    folders_beside = _list_folders_in(folder.parent, formats)
    if not files_beside and not folders_beside:
        return [], ()
    about_it, others, strangers = [], [], []
    videos = scan_folder(folder)
    for index, (each, files) in enumerate((*files_beside, *folders_beside)):
        listing = next(_read(each, files, [videos]))
        candidate = replace(_with_files(each, files, [], place="beside"), listings=[listing])
        if any(entry.on_disk for entry in listing.entries):
            about_it.append(candidate)
        elif index < len(files_beside):
            others.append(candidate)
        else:
            strangers.append(": ".join([candidate.what, *listing.problems[:1]]))
    notes = [f"beside the folder, but about none of its videos: {what}" for what in strangers[:3]]
    return about_it or others, tuple(notes)


def _absolute(path: Path) -> Path:
    """Without following links: what lies beside a link to a folder is beside the link."""
    return Path(os.path.normpath(path.absolute()))


def _with_files(chosen: Format, files: list[Path], roots: Iterable[Path], *, place: str = "") -> _Candidate:
    names = ", ".join(file.name for file in files[:3])
    names += f" and {len(files) - 3} more" if len(files) > 3 else ""
    what = f"{chosen.name} ({names} in {str(files[0].parent)!r})"
    folders = (scan_folder(root) for root in roots)
    notes = (f"annotations found {place} the folder: {what}",) if place else ()
    return _Candidate(format=chosen, what=what, listings=_read(chosen, files, folders), notes=notes)


def _read(chosen: Format, files: Sequence[Path], folders: Iterable[VideoFolder]) -> Iterator[Listing]:
    for folder in folders:
        listing = Listing(folder)
        chosen.read(files, listing)
        yield listing


def _default_roots(
    chosen: Format, lists: Path, video_root: Path | None, named: Path | None = None
) -> list[Path]:
    """Where the videos of the lists in this folder may lie; `named` is the folder that the user passed."""
    if video_root is not None:
        return [video_root]
    lists = _absolute(lists)
    ucf = [lists.parent / "UCF-101"] if chosen.name == "ucf101" else []
    roots = (lists / "videos", *ucf, lists.parent / "videos", lists, named or lists)
    return list(dict.fromkeys(root.resolve() for root in roots if root.is_dir()))


def _lists_in(
    folder: Path, formats: Sequence[Format], *, beside: bool = False, by_name: bool = False
) -> list[tuple[Format, list[Path]]]:
    """The annotation files directly in `folder`, by format; beside videos only those that look the part."""
    found: dict[str, list[Path]] = {}
    if (beside or by_name) and not os.access(folder, os.R_OK | os.X_OK):
        return []  # nobody named this folder: not being allowed to look is no mistake
    for entry in list_entries(folder, at_most=500 if by_name else None):
        name = entry.name.lower()
        if name.startswith(".") or not name.endswith((".csv", ".txt")) or not entry.is_file():
            continue
        looks_the_part = name.endswith(".csv") or "list" in name or "_test_split" in name
        if beside and not (looks_the_part and os.access(entry.path, os.R_OK)):
            continue
        recognised = next((f for f in formats if f.recognises(Path(entry.path))), None)
        if recognised:
            found.setdefault(recognised.name, []).append(Path(entry.path))
    return [(get_format(name), files) for name, files in found.items()]


def _list_folders_in(parent: Path, formats: Sequence[Format]) -> list[tuple[Format, list[Path]]]:
    """The folders in `parent` that hold nothing but lists (UCF-101, HMDB-51), known by the lists' names."""
    own = [f for f in formats if f.own_folder]
    if not own or not os.access(parent, os.R_OK | os.X_OK):
        return []
    folders = [entry for entry in list_entries(parent) if entry.is_dir() and not entry.name.startswith(".")]
    return [found for entry in folders for found in _lists_in(Path(entry.path), own, by_name=True)]


def _named_files(paths: Sequence[Path], video_root: Path | None) -> Listing:
    """Video files named one by one, relative to `video_root` or the folder common to all of them."""
    if wrong := [path for path in paths if not is_video_name(path.name)]:
        raise SourceError(f"{str(wrong[0])!r} is not a video file ({_extensions()})")
    files = [path.parent.resolve() / path.name for path in paths]
    root = video_root.resolve() if video_root else Path(os.path.commonpath([file.parent for file in files]))
    outside = next((file for file in files if not file.is_relative_to(root)), None)
    if outside:
        raise SourceError(f"{str(outside)!r} is not under the video root {str(root)!r}")
    names = {as_text(file.relative_to(root).as_posix()): file for file in files}
    leaving = {
        name: as_text(str(file.resolve()))
        for name, file in names.items()
        if not file.resolve().is_relative_to(root)
    }
    on_disk = frozenset(name for name, file in names.items() if file.is_file())
    listing = Listing(VideoFolder(root=root, files=on_disk, outside=leaving))
    for name in names:
        listing.add(name, name, label=-1)
    return listing


# --- From lines to records -----------------------------------------------------------------------------


def merge(listing: Listing) -> list[tuple[VideoRecord, bool]]:
    """One record an id, in order of first mention, and whether it is on disk; contradictions are problems.

    Takes the entries out of the listing: of a million videos they are 200 MB.
    """
    first: dict[str, Entry] = {}
    splits: dict[str, dict[str, str]] = {}
    for entry in listing.entries:
        known = first.setdefault(entry.id, entry)
        if entry.label != known.label:
            names = [_class_name(listing, label) for label in (entry.label, known.label)]
            listing.problem(entry.where, f"{entry.id!r} is {names[0]} here and {names[1]} at {known.where}")
        if not entry.split:
            continue
        was = splits.setdefault(entry.id, {}).setdefault(entry.split, entry.part)
        if was != entry.part:
            listing.problem(
                entry.where,
                f"{entry.id!r} is in {entry.part} here, but in {was} of the same split {entry.split!r}",
            )
    listing.entries.clear()
    records = []
    alike: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {(): {}}
    while first:  # from the last on, so that what is done with goes at once
        id, entry = first.popitem()
        parts = splits.pop(id, {})
        record = VideoRecord(
            id=id,
            path=entry.path,
            label=entry.label,
            splits=alike.setdefault(tuple(parts.items()), parts),
            group=entry.group,
        )
        records.append((record, entry.on_disk))
    records.reverse()
    return records


def _class_name(listing: Listing, label: int) -> str:
    return repr(listing.class_names[label]) if label >= 0 else "unlabelled"


def with_auto_split(record: VideoRecord) -> VideoRecord:
    """Its part by a hash of the id alone, so that it never changes when videos come or go."""
    if record.label < 0:
        return record
    is_test = int.from_bytes(hashlib.sha256(record.id.encode()).digest()) % TEST_SHARE == 0
    return VideoRecord(
        id=record.id,
        path=record.path,
        label=record.label,
        splits=_IN_AUTO["test" if is_test else "train"],
        group=record.group,
        start_seconds=record.start_seconds,
        end_seconds=record.end_seconds,
    )


def _missing_error(
    missing: Sequence[VideoRecord], listed: int, searched: str, folder: VideoFolder, what: str
) -> SourceError:
    links = (
        f" ({len(folder.outside)} links there lead outside it and are not followed)" if folder.outside else ""
    )
    names = ", ".join(repr(record.path) for record in missing[:3]) + (", …" if len(missing) > 3 else "")
    if len(missing) == listed:
        return SourceError(
            f"none of the {listed:,} videos listed by {what} is under {searched}{links}: {names}; name their "
            "folder with --video-root, or do without the list with --format class-folders or files"
        )
    return SourceError(
        f"{len(missing):,} of {listed:,} listed videos are not under {str(folder.root)!r}{links}: {names}; "
        "fetch them, or go on without them with --allow-missing"
    )


def _spread(videos: Sequence[VideoRecord], limit: int) -> tuple[VideoRecord, ...]:
    """`limit` videos, in source order: round-robin over the labels, within a label over the parts.

    More of the same source is always a superset of less of it.
    """
    in_part = _turns((video.label, *sorted(video.splits.items())) for video in videos)
    by_part = sorted(range(len(videos)), key=lambda index: in_part[index])
    in_label = _turns(videos[index].label for index in by_part)
    by_label = [index for _, index in sorted(zip(in_label, by_part, strict=True))]
    return tuple(videos[index] for index in sorted(by_label[:limit]))


def _turns(keys: Iterable[object]) -> list[int]:
    """For each key, how many equal ones came before it."""
    before: Counter[object] = Counter()
    turns = []
    for key in keys:
        turns.append(before[key])
        before[key] += 1
    return turns
