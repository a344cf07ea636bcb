"""The manifest of a store's videos: immutable segments on disk, and the columns that readers use.

A segment is one JSON file of columns, written once. Its first row is a multiple of the number of videos per
shard, so adding videos never changes an existing shard. The rows between two segments are holes: id "",
label -1, in no split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError
from ...runtime.allocator import collector_paused
from ...runtime.atomic import put_if_absent
from ...terminal.text import counted
from ..io.safe_open import read_regular
from .checksummed_json import decode_checksummed, encode_checksummed

PARTS = {"train": 1, "val": 2, "test": 3}
SEGMENT_BYTES_MAX = 1 << 28
SHARD_VIDEOS_LIMIT = 1_000_000
ROWS_MAX = 10_000_000
PART_NAMES = {0: "none", **{number: name for name, number in PARTS.items()}}


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoRecord:
    """One row of a source or a store: a video, or one segment of it.

    Attributes:
        id: stable name of the row: its path with extension, or "<youtube_id>_<start:06d>_<end:06d>" for
            Kinetics; a segment adds "#t=<start>,<end>" in seconds.
        path: the file, posix, relative to the video root.
        label: index into the class names, -1 if unlabelled.
        splits: named split → "train", "val" or "test"; absent if the split does not contain the video.
        group: videos that must stay on one side of a split (UCF-101 "Archery/g07"; a segment's video), or "".
        start_seconds, end_seconds: the segment within the file, None for the complete file.
    """

    id: str
    path: str
    label: int = -1
    splits: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All rows of a store, in order.

    Attributes:
        ids: one per row; "" is a hole.
        paths: relative to the video root that the extraction was given.
        labels: (rows,) int32, index into `class_names`; -1 is unlabelled.
        groups: a validation split must not divide the rows of one group; "" is no group.
        start_seconds, end_seconds: (rows,) float64, NaN if the row is the complete file.
        class_names: the names of the labels.
        missing: listed videos that were not on disk when the source was read: id → (label, splits).
        root: video root of the newest segment.
        segments: SHA-256 of each segment's file, oldest first; they identify the manifest.
    """

    ids: list[str]
    paths: list[str]
    labels: NDArray[np.int32]
    groups: list[str]
    start_seconds: NDArray[np.float64]
    end_seconds: NDArray[np.float64]
    class_names: tuple[str, ...]
    missing: Mapping[str, tuple[int, Mapping[str, str]]]
    root: str
    segments: tuple[str, ...]
    _splits: Mapping[str, NDArray[np.int8]]

    @property
    def rows(self) -> int:
        """Number of rows, including holes."""
        return len(self.ids)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each video id."""
        return {name: row for row, name in enumerate(self.ids) if name}

    @cached_property
    def exists(self) -> NDArray[np.bool_]:
        """(rows,) bool: False for holes."""
        return np.array([bool(name) for name in self.ids], dtype=bool)

    @property
    def split_names(self) -> list[str]:
        """The named splits, sorted."""
        return sorted(self._splits)

    def split(self, name: str) -> NDArray[np.int8]:
        """Return (rows,) int8: 0 not in the split, 1 train, 2 val, 3 test.

        Raises:
            StoreError: there is no split of this name.
        """
        if name not in self._splits:
            known = ", ".join(self.split_names) or "none"
            raise StoreError(f"the store has no split {name!r}; it has: {known}")
        return self._splits[name]

    def missing_in(self, split: str, part: str) -> int:
        """Count the videos of a subset that were listed but not on disk."""
        return sum(splits.get(split) == part for _, splits in self.missing.values())


@collector_paused()
def load(store: Path) -> Manifest:
    """Read a store's manifest.

    Raises:
        StoreError: a segment is malformed, or there is none.
    """
    files = sorted((store / "manifest").glob("[0-9]*.json"))
    if not files:
        raise StoreError(
            f"{store} has no manifest: no extraction has begun there; run faster extract --store {store}"
        )
    if [file.stem for file in files] != [f"{number:06d}" for number in range(len(files))]:
        raise StoreError(
            f"{store / 'manifest'} has {counted(len(files), 'segment')} and not the numbers 0 to "
            f"{len(files) - 1}: one is missing, and "
            "rows cannot be told without it; restore it, or extract into another --store"
        )
    columns, segments = [], []
    rows = videos = 0
    for file in files:
        try:
            data = read_regular(file, size_max=SEGMENT_BYTES_MAX)
        except OSError as error:
            raise StoreError(f"{file}: {error.strerror}") from error
        column = _parse(file, data)
        if not rows <= column["start"] < rows + SHARD_VIDEOS_LIMIT or (column["start"] and not rows):
            raise StoreError(
                f"{file}: begins at row {column['start']}, after {counted(rows, 'row')} before it"
            )
        rows, videos = column["start"] + len(column["ids"]), videos + len(column["ids"])
        if rows > ROWS_MAX:
            raise StoreError(f"{file}: {counted(rows, 'row')}; a store has at most {ROWS_MAX}")
        columns.append(column)
        segments.append(hashlib.sha256(data).hexdigest())
    ids, paths, groups = [""] * rows, [""] * rows, [""] * rows
    labels = np.full(rows, -1, dtype=np.int32)
    start, end = np.full(rows, np.nan), np.full(rows, np.nan)
    splits: dict[str, NDArray[np.int8]] = {}
    missing: dict[str, tuple[int, Mapping[str, str]]] = {}
    for column in columns:
        first = column["start"]
        here = slice(first, first + len(column["ids"]))
        ids[here], groups[here] = column["ids"], column["groups"]
        # Path and id are mostly the same text: share it, to save memory for a million videos.
        paths[here] = [
            name if name == path else path for name, path in zip(column["ids"], column["paths"], strict=True)
        ]
        labels[here] = column["labels"]
        start[here] = [np.nan if value is None else value for value in column["start_seconds"]]
        end[here] = [np.nan if value is None else value for value in column["end_seconds"]]
        for name, subsets in column["splits"].items():
            splits.setdefault(name, np.zeros(rows, dtype=np.int8))[here] = subsets
        missing.update({name: (entry["label"], entry["splits"]) for name, entry in column["missing"].items()})
    present = set(ids) - {""}
    if len(present) != videos:
        raise StoreError(
            f"{store / 'manifest'} names {counted(videos - len(present), 'video')} twice, or without an id"
        )
    return Manifest(
        ids=ids,
        paths=paths,
        labels=labels,
        groups=groups,
        start_seconds=start,
        end_seconds=end,
        class_names=tuple(columns[0]["class_names"]),
        missing={name: entry for name, entry in missing.items() if name not in present},
        root=columns[-1]["root"],
        segments=tuple(segments),
        _splits=splits,
    )


@collector_paused()
def append(
    store: Path,
    *,
    videos: Sequence[VideoRecord],
    missing: Sequence[VideoRecord],
    class_names: Sequence[str],
    root: Path,
    shard_videos: int,
) -> Manifest:
    """Add the videos that are not in the store yet, as one new segment, and return the complete manifest.

    Known videos must have the same label and splits. If two runs append at once, the second one to write
    reads the first one's segment and adds the videos that remain.

    Raises:
        StoreError: the class names, or a known video's label or splits, differ from the store's.
        StorageError: the disk failed.
    """
    while True:
        has = any((store / "manifest").glob("[0-9]*.json"))
        current = load(store) if has else None
        fresh = list(videos) if current is None else _new_ones(current, videos, class_names)
        known = set() if current is None else current.missing.keys() | current.row_of.keys()
        fresh_missing = [video for video in missing if video.id not in known]
        if current is not None and not fresh and not fresh_missing:
            return current
        rows = 0 if current is None else current.rows
        number = 0 if current is None else len(current.segments)
        segment = _segment(
            start=-(-rows // shard_videos) * shard_videos,
            videos=fresh,
            missing=fresh_missing,
            class_names=class_names,
            root=root,
        )
        put_if_absent(store / "manifest" / f"{number:06d}.json", segment)
        del segment  # as large as the list of videos; `load` reads it back now


def _new_ones(
    current: Manifest, videos: Sequence[VideoRecord], class_names: Sequence[str]
) -> list[VideoRecord]:
    if tuple(class_names) != current.class_names:
        raise StoreError(
            f"the source has {counted(len(class_names), 'class', 'classes')}, the store "
            f"{len(current.class_names)}, or their names or "
            "order differ; labels would not mean the same: write to another --store"
        )
    fresh = []
    for video in videos:
        row = current.row_of.get(video.id)
        if row is None:
            fresh.append(video)
            continue
        splits = {
            name: PART_NAMES[subset]
            for name in current.split_names
            if (subset := int(current.split(name)[row]))
        }
        if (video.label, dict(video.splits)) != (int(current.labels[row]), splits):
            raise StoreError(
                f"{video.id}: the store has label {current.labels[row]} and splits {splits}, the source "
                f"label {video.label} and splits {dict(video.splits)}; a manifest is written once: "
                "write to another --store"
            )
    return fresh


def _segment(
    *,
    start: int,
    videos: Sequence[VideoRecord],
    missing: Sequence[VideoRecord],
    class_names: Sequence[str],
    root: Path,
) -> bytes:
    names = sorted({name for video in videos for name in video.splits})
    columns = {
        "start": start,
        "root": str(root),
        "class_names": list(class_names),
        "ids": [video.id for video in videos],
        "paths": [video.path for video in videos],
        "labels": [video.label for video in videos],
        "groups": [video.group for video in videos],
        "start_seconds": [video.start_seconds for video in videos],
        "end_seconds": [video.end_seconds for video in videos],
        "splits": {
            name: [PARTS[video.splits[name]] if name in video.splits else 0 for video in videos]
            for name in names
        },
        "missing": {video.id: {"label": video.label, "splits": dict(video.splits)} for video in missing},
    }
    _require_sound(columns)
    return encode_checksummed(columns)


def _parse(file: Path, data: bytes) -> dict[str, Any]:
    column = decode_checksummed(data, name=str(file))
    try:
        _require_sound(column)
    except StoreError as error:
        raise StoreError(f"{file}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise StoreError(f"{file}: not a manifest segment: {error!r:.200}") from error
    return column


def _require_sound(column: Mapping[str, Any]) -> None:
    """Refuse a segment whose columns do not match, or with paths or names that are not safe.

    Written by hand: most checks compare columns, and a typed decoder would copy each list of a million rows.

    Raises:
        StoreError: the message says what is wrong.
        ValueError, TypeError, KeyError, AttributeError, OverflowError: it is not a segment at all.
    """
    count, classes = len(column["ids"]), len(column["class_names"])
    names = ("ids", "paths", "labels", "groups", "start_seconds", "end_seconds")
    lists = [*(column[name] for name in names), *column["splits"].values(), column["class_names"]]
    seconds = [value for value in column["start_seconds"] + column["end_seconds"] if value is not None]
    texts = [*column["ids"], *column["paths"], *column["groups"], *column["class_names"], column["root"]]
    for text in (*texts, *column["missing"]):
        text.encode()  # AttributeError or ValueError if it is not text
    sound = (
        all(type(values) is list for values in lists)
        and all(len(values) == count for values in lists[:-1])
        and type(column["start"]) is int
        and {int}.issuperset(map(type, column["labels"]))
        and all(-1 <= label < classes for label in column["labels"])
        and {int, float}.issuperset(map(type, seconds))
        and all(0 <= value < 1e9 for value in seconds)
        and all({0, 1, 2, 3}.issuperset(subsets) for subsets in column["splits"].values())
        and all({int}.issuperset(map(type, subsets)) for subsets in column["splits"].values())
        and all(
            type(entry["label"]) is int
            and -1 <= entry["label"] < classes
            and all(subset in PARTS for subset in entry["splits"].values())
            for entry in column["missing"].values()
        )
    )
    if not sound:
        raise StoreError("a manifest segment whose columns do not fit together")
    for name in column["splits"]:
        if (
            not name.isprintable()
            or not 0 < len(name) <= 200
            or name[0] == "."
            or "/" in name
            or name == "zarr.json"
        ):
            raise StoreError(f"{name!r} is no name of a split: it becomes a folder's")
    for path in column["paths"]:
        if path[:1] == "/" or "\0" in path or (".." in path and ".." in path.split("/")):
            raise StoreError(f"the path {path!r} leads out of the video root")
