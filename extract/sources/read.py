"""Sources: read a folder, an annotation file or video files into videos, classes and splits.

    read_source("UCF-101", allow_missing=True)      # finds ucfTrainTestlist beside it
    read_source("kinetics/val.csv", video_root="/data/k400")

The formats are in `formats` and `table_lists`, and `search` recognises one. This module merges its lines into
one record per video, and reports errors before anything is decoded.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import SourceError, UsageError
from ...runtime.allocator import collector_paused
from ...store import VideoRecord
from ...terminal.text import agreeing, counted
from .folder import VideoFolder, require_local
from .folder_layout import left_out
from .formats import get_format
from .listed_paths import shown
from .listing import Entry, Listing
from .search import PathLike, Search, fitting

TEST_SHARE = 5  # split "auto": one video in so many is a test video
MIN_SEGMENT_SECONDS = 0.1

# One shared mapping for all videos: a million separate ones would take 200 MB.
_IN_AUTO: Mapping[str, Mapping[str, str]] = {part: {"auto": part} for part in ("train", "test")}


@dataclass(frozen=True, kw_only=True)
class Source:
    """The videos that one source names, in its order (class folders: sorted by path).

    root: absolute folder that every path is relative to.
    format: name of the annotation format, one of `formats.known_formats()`.
    videos, missing: the records whose file is on disk, and those whose file is not.
    class_names: name of each label, in label order; empty if nothing is labelled.
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
    follow_links: bool = False,
) -> Source:
    """Read the videos, labels and splits of `source`.

    A labelled source without splits gets the split "auto", computed from each id alone.

    Args:
        source: a folder of videos, an annotation file, a folder of annotation files, or video files. Of a
            folder, its own annotation files are used, else those beside it, else its class folders.
        format: name of the annotation format; by default recognised from the files.
        video_root: folder that listed paths are relative to. The default is the first folder that holds a
            listed video, of: `videos/` in the annotation's folder, `videos/` beside it (and `UCF-101/` for
            UCF-101), and the annotation's folder itself.
        allow_missing: continue without the listed videos that are not on disk; they become `Source.missing`.
        limit: at most so many of the videos on disk, spread over the classes, and within a class over the
            parts of the splits.
        follow_links: also take files and folders outside the root that links lead to, at the links' paths.

    Raises:
        UsageError: an unknown format, or options that exclude each other.
        SourceError: a source that cannot be read, an ambiguous one, malformed or contradicting lines
            (`file:line`), a path or link that leaves the video root, and missing videos.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, found {limit}")
    if format is not None and not format:
        raise UsageError("--format is empty; name a format, or leave it out")
    if video_root is not None and not os.fspath(video_root):
        raise UsageError("--video-root is empty; name a folder, or leave it out")
    search = Search(
        chosen=get_format(format) if format is not None else None,
        video_root=None if video_root is None else require_local(video_root),
        follow_links=follow_links,
    )
    candidate = search.locate(source)
    listing, searched = fitting(candidate.listings)
    records = merge(listing)
    if listing.problems:
        more = len(listing.problems) - 1
        raise SourceError(listing.problems[0] + (f" (and {more:,} more such problems)" if more else ""))
    notes = [*candidate.notes, *listing.notes]
    labelled = any(record.label >= 0 for record, _ in records)
    if labelled and not any(record.splits for record, _ in records):
        for i, (record, on_disk) in enumerate(records):  # in place: two lists would take twice the memory
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
        names = shown([record.path for record in missing])
        notes.append(
            f"{len(missing):,} of {counted(len(records), 'listed video')} "
            f"{agreeing(len(missing), 'is', 'are')} not on disk: recorded as missing: {names}"
        )
    if candidate.format.from_files and len(videos) < len(listing.folder.files):
        unlisted = sorted(listing.folder.files.difference(video.path for video in videos))
        if unlisted:
            notes.append(
                f"in no list and left out: {len(unlisted):,} of the videos on disk: {shown(unlisted)}"
            )
    notes += left_out(listing.folder)
    if listing.folder.skipped:
        notes.append(
            f"{counted(listing.folder.skipped, 'hidden video file')} or broken "
            f"{agreeing(listing.folder.skipped, 'link is', 'links are')} left out"
        )
    notes += _gaps(listing.class_names, records)
    if limit is not None and limit < len(videos):
        notes.append(f"limited to {limit:,} of {counted(len(videos), 'video')}")
        videos = _spread(videos, limit)
    return Source(
        root=listing.folder.root,
        format=candidate.format.name,
        videos=videos,
        missing=missing,
        class_names=tuple(listing.class_names),
        notes=tuple(notes),
    )


def _gaps(class_names: Sequence[str], records: Sequence[tuple[VideoRecord, bool]]) -> list[str]:
    """Return a note if labels are numbers with gaps; the numbers are kept as they are given."""
    classes = len(class_names)
    occur = len({record.label for record, _ in records if record.label >= 0})
    if occur == classes or any(name != str(label) for label, name in enumerate(class_names)):
        return []
    return [
        f"the labels leave gaps: of 0 to {classes - 1:,} {occur:,} occur; the numbers are kept as they are "
        "given, so a "
        f"classifier has {classes:,} outputs"
    ]


def segment_source(source: Source, durations: Mapping[str, float], every_seconds: float) -> Source:
    """Cut each video into segments of `every_seconds`, each its own record, in order of time.

    durations: record id → seconds. A video without one (not probed, broken) is not cut.

    The last segment is the rest; a rest below half of `every_seconds` joins the segment before it. Segments
    keep their video's label and splits. They share a group, so no split by group separates them. Raises
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
    """Format seconds to the millisecond: "0", "10", "27.36".

    So the durations of two decoders give the same id.
    """
    return f"{value:.3f}".rstrip("0").rstrip(".")


# --- From lines to records -----------------------------------------------------------------------------


def merge(listing: Listing) -> list[tuple[VideoRecord, bool]]:
    """Return (record, whether it is on disk) per id, in order of first mention.

    Contradictions are recorded as problems. The entries are removed from the listing: for a million videos
    they take 200 MB.
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
    while first:  # from the last on, so that the memory of merged entries is freed at once
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
    """Assign its part by a hash of the id alone, so that it never changes when other videos come or go."""
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
        f" ({len(folder.outside)} links there lead outside it and are not followed without --follow-links)"
        if folder.outside
        else ""
    )
    names = shown([record.path for record in missing])
    if len(missing) == listed:
        return SourceError(
            f"none of the {counted(listed, 'video')} listed by {what} is under {searched}{links}: {names}; "
            "name their "
            "folder with --video-root, or do without the list with --format class-folders or files"
            + "".join(f"; {line}" for line in left_out(folder))
        )
    return SourceError(
        f"{len(missing):,} of {counted(listed, 'listed video')} {agreeing(len(missing), 'is', 'are')} not "
        f"under {str(folder.root)!r}{links}: {names}; "
        "fetch them, or go on without them with --allow-missing"
    )


def _spread(videos: Sequence[VideoRecord], limit: int) -> tuple[VideoRecord, ...]:
    """Return `limit` videos in source order: round-robin over the labels, and within a label over the parts.

    A larger limit always gives a superset.
    """
    in_part = _turns((video.label, *sorted(video.splits.items())) for video in videos)
    by_part = sorted(range(len(videos)), key=lambda index: in_part[index])
    in_label = _turns(videos[index].label for index in by_part)
    by_label = [index for _, index in sorted(zip(in_label, by_part, strict=True))]
    return tuple(videos[index] for index in sorted(by_label[:limit]))


def _turns(keys: Iterable[object]) -> list[int]:
    """Return, for each key, the number of equal keys before it."""
    before: Counter[object] = Counter()
    turns = []
    for key in keys:
        turns.append(before[key])
        before[key] += 1
    return turns
