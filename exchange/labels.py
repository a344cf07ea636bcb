"""Find the video record of each imported feature array, by name, from lists, folders or a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from ..errors import SourceError, UsageError
from ..extract.sources.folder import VideoFolder, is_video_name
from ..extract.sources.formats import Format, Listing, file_formats, get_format
from ..extract.sources.read import merge, with_auto_split
from ..store import Store, VideoRecord
from ..terminal.text import counted
from .sidecar import record_of


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The records of the arrays to import.

    Attributes:
        records: name of the array → the video's record, in the order of the rows.
        class_names: the names of the labels.
        missing: listed videos that have no array.
        left_out: number of arrays that match no listed video.
        notes: messages for the user, one line each.
    """

    records: Mapping[str, VideoRecord]
    class_names: tuple[str, ...]
    missing: tuple[VideoRecord, ...] = ()
    left_out: int = 0
    notes: tuple[str, ...] = field(default_factory=tuple)


def labels_from_lists(
    names: Sequence[str], lists: Sequence[Path], *, format: str | None, allow_missing: bool
) -> Labels:
    """Match arrays with the videos in annotation lists.

    Args:
        names: the arrays' names; a video's id, path or bare file name, with or without its extension.
        lists: annotation files, or folders of them; all of one format.
        format: name of that format; by default recognised from the files.
        allow_missing: allow listed videos that have no array.

    Raises:
        UsageError: an unknown format, or one that reads no lists.
        SourceError: lists that cannot be read or are contradictory, no match, two matches, missing videos.
    """
    chosen, files = _format_of(lists, format)
    listing = _listing(names)
    chosen.read(files, listing)
    merged = [record for record, _ in merge(listing)]
    if listing.problems:
        more = len(listing.problems) - 1
        raise SourceError(
            listing.problems[0] + (f" (and {counted(more, 'more such problem')})" if more else "")
        )
    matched, missing, left_out = _match(names, merged)
    where = ", ".join(str(each) for each in lists)
    if not matched:
        raise SourceError(
            f"of {counted(len(names), 'feature')} ({names[0]!r}, …) none is of a video that {where} lists "
            f"({merged[0].id if merged else 'none'!r}, …); they are matched by id, path or file name"
        )
    if missing and not allow_missing:
        raise SourceError(
            f"no features of {len(missing):,} of {counted(len(merged), 'listed video')}: {missing[0].id!r}, "
            "…; go on without "
            "with --allow-missing"
        )
    notes = [f"labels from {chosen.name} ({where})", *listing.notes]
    if missing:
        notes.append(
            f"no features of {len(missing):,} of {counted(len(merged), 'listed video')}: recorded as missing"
        )
    if left_out:
        notes.append(
            f"left out, as of no listed video: {len(left_out):,} of {len(names):,} features: "
            f"{left_out[0]!r}, …"
        )
    records, split_notes = _with_splits(matched)
    if split_notes:
        missing = [with_auto_split(record) for record in missing]
    return Labels(
        records=records,
        class_names=tuple(listing.class_names),
        missing=tuple(missing),
        left_out=len(left_out),
        notes=(*notes, *split_notes),
    )


def labels_from_folders(names: Sequence[str]) -> Labels:
    """Get labels from class folders, with or without train/, val/ and test/ above; no labels without folders.

    Raises:
        SourceError: an array lies in the folder of a subset, but in no class folder.
    """
    chosen = get_format("class-folders" if any("/" in name for name in names) else "files")
    listing = _listing(names)
    chosen.read([], listing)
    if listing.problems:
        raise SourceError(listing.problems[0])
    by_video = {_as_video(name): name for name in names}
    matched = {
        by_video[record.path]: replace(record, id=by_video[record.path], path=by_video[record.path])
        for record, _ in merge(listing)
    }
    records, notes = _with_splits(matched)
    said = (
        [f"labels from {chosen.name}"]
        if listing.class_names
        else ["no labels: name lists with --annotations"]
    )
    return Labels(
        records=records,
        class_names=tuple(listing.class_names),
        notes=(*said, *listing.notes, *notes),
    )


def labels_from_store(names: Sequence[str], store: Store) -> Labels:
    """Match arrays with the videos that a store already has, as another model's maps of them.

    Raises:
        SourceError: no array matches its videos, or two match the same one.
    """
    videos = store.videos
    known = [record_of(videos, row) for row, exists in enumerate(videos.exists.tolist()) if exists]
    matched, missing, left_out = _match(names, known)
    if not matched:
        raise SourceError(
            f"of {counted(len(names), 'feature')} ({names[0]!r}, …) none is of a video of {store.path} "
            f"({known[0].id!r}, …); name their lists with --annotations, or write to another --store"
        )
    notes = [f"videos, labels and splits as {store.path} has them"]
    if missing:
        notes.append(f"no features of {len(missing):,} of its videos: recorded as failed, for this model")
    if left_out:
        notes.append(
            f"left out, as of none of its videos: {counted(len(left_out), 'feature')}: {left_out[0]!r}, …"
        )
    return Labels(records=matched, class_names=videos.class_names, left_out=len(left_out), notes=tuple(notes))


def _format_of(lists: Sequence[Path], name: str | None) -> tuple[Format, list[Path]]:
    """Return the one format of the lists, and its files."""
    for path in lists:
        if not path.exists():
            raise SourceError(f"no such annotation file or folder: {str(path)!r}")
    named = [path for path in lists if path.is_file()]
    inside = [file for path in lists if path.is_dir() for file in sorted(path.iterdir()) if file.is_file()]
    if name is not None:
        chosen = get_format(name)
        if not chosen.from_files:
            raise UsageError(f"format {name!r} reads no lists; leave out --annotations and --format")
        return chosen, named + [file for file in inside if chosen.recognises(file)]
    by_format: dict[str, list[Path]] = {}
    for file in named + inside:
        recognised = next((each for each in file_formats() if each.recognises(file)), None)
        if recognised is not None:
            by_format.setdefault(recognised.name, []).append(file)
        elif file in named:
            raise SourceError(f"{str(file)!r} is no annotation file of a known format; name it with --format")
    if len(by_format) != 1:
        found = ", ".join(by_format) or "none"
        raise SourceError(f"--annotations must be lists of one format, found {found}; name it with --format")
    ((chosen_name, files),) = by_format.items()
    return get_format(chosen_name), files


def _as_video(name: str) -> str:
    """Return the video file name of an array; the list readers recognise videos by their extension."""
    return name if is_video_name(name) else f"{name}.mp4"


def _listing(names: Iterable[str]) -> Listing:
    """Return a listing of a root that contains a video for each array."""
    return Listing(VideoFolder(root=Path(), files=frozenset(map(_as_video, names))), by_name_only=True)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] if is_video_name(name) else name


def _match(
    names: Sequence[str], records: Sequence[VideoRecord]
) -> tuple[dict[str, VideoRecord], list[VideoRecord], list[str]]:
    """Return array → record, in the records' order; records without an array; arrays without a record.

    An array matches a record by its complete id or path, or else by its file name.
    """
    by_path = {_stem(name): name for name in names}
    by_name: dict[str, list[str]] = {}
    for name in names:
        by_name.setdefault(PurePosixPath(_stem(name)).name, []).append(name)
    matched: dict[str, VideoRecord] = {}
    missing = []
    for record in records:
        exact = by_path.get(_stem(record.id)) or by_path.get(_stem(record.path))
        found = [exact] if exact else by_name.get(PurePosixPath(_stem(record.id)).name, [])
        if not found:
            missing.append(record)
            continue
        if len(found) > 1 or found[0] in matched:
            other = found[1] if len(found) > 1 else matched[found[0]].id
            raise SourceError(
                f"{record.id!r} fits the features {found[0]!r}, and so does {other!r}"
                if len(found) == 1
                else f"{record.id!r} fits two features, {found[0]!r} and {other!r}; "
                "name them after the whole path"
            )
        matched[found[0]] = record
    return matched, missing, [name for name in names if name not in matched]


def _with_splits(records: Mapping[str, VideoRecord]) -> tuple[dict[str, VideoRecord], list[str]]:
    """Add the split "auto" if there are labels but no split, as for every source."""
    if any(record.splits for record in records.values()) or all(r.label < 0 for r in records.values()):
        return dict(records), []
    return (
        {name: with_auto_split(record) for name, record in records.items()},
        ["no splits given: split 'auto' holds out about 1 video in 5 as test, by its id"],
    )
