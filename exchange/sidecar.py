"""The metadata of an export: `export` writes it next to the maps, and `import` reads it back.

    OUT/export.json                     the models, their provenance, the class names
    OUT/failures.jsonl                  every video without maps and why; written last
    OUT/<model>-L<frames>/<name>.npy    a video's maps (clips, l, h, w, c), or pooled (clips, c), float16
    OUT/<model>-L<frames>/<name>.json   its facts

The HDF5 file holds the same as datasets and attributes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath
from typing import Any

from ..errors import StoreError
from ..runtime.canonical_json import indented_json, read_as
from ..store.format.manifest import PART_NAMES, Manifest, VideoRecord
from ..store.format.receipts import ClipFacts
from ..store.format.spec import FeatureSpec

EXPORT_FORMAT = "faster-export 1"
INDEX_FILE, FAILURES_FILE = "export.json", "failures.jsonl"
FOLDER_BYTES_MAX = 255
STEM_BYTES_MAX = 220  # at most 255 with an extension, also as a temporary file's name
UNKNOWN_FRAMES = 0  # in `ClipFacts`, of a video with unknown frames, rate and times


@dataclass(frozen=True, kw_only=True)
class Absence:
    """A video without maps: "failed", "waiting" (not extracted yet) or "missing" (never on disk), and why.

    `row` is the store's row; None if the video is missing.
    """

    record: VideoRecord
    row: int | None
    status: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return the absence as JSON types."""
        return {**asdict(self.record), "row": self.row, "status": self.status, "reason": self.reason}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Absence:
        """Read back what `to_dict` returned. Raises KeyError, TypeError or ValueError."""
        return cls(
            record=record_from_dict(data),
            row=None if data["row"] is None else int(data["row"]),
            status=str(data["status"]),
            reason=str(data["reason"]),
        )


def record_of(videos: Manifest, row: int) -> VideoRecord:
    """Return a store's row as the record that it was made from."""
    start, end = float(videos.start_seconds[row]), float(videos.end_seconds[row])
    return VideoRecord(
        id=videos.ids[row],
        path=videos.paths[row],
        label=int(videos.labels[row]),
        splits={
            name: PART_NAMES[subset]
            for name in videos.split_names
            if (subset := int(videos.split(name)[row]))
        },
        group=videos.groups[row],
        start_seconds=start if start == start else None,  # NaN means the complete file
        end_seconds=end if end == end else None,
    )


def record_from_dict(data: Mapping[str, Any]) -> VideoRecord:
    """Read a record from JSON. Raises KeyError, TypeError or ValueError if it is not one."""
    record = read_as(VideoRecord, {field.name: data[field.name] for field in fields(VideoRecord)})
    if not record.id or set(record.splits.values()) - set(PART_NAMES.values()):
        raise ValueError(f"no video's record: id {record.id!r}, splits {record.splits}")
    return record


def sidecar(
    spec: FeatureSpec,
    record: VideoRecord,
    facts: ClipFacts,
    *,
    row: int,
    class_names: Sequence[str],
    shape: Sequence[int],
    crc32c: Sequence[int],
) -> dict[str, Any]:
    """Return the sidecar of a video's `.npy`; unknown values are null. See `docs/exchange.md`.

    A feature's centre is at frame offset_frames + i · feature_stride_frames, or exactly at starts[i] +
    feature_frames / 2.
    """
    known = facts.frames != UNKNOWN_FRAMES
    span = (spec.clip_frames - 1) * spec.frame_stride + 1
    return {
        **asdict(record),
        "class_name": class_names[record.label] if record.label >= 0 else None,
        "row": row,
        "model": spec.model,
        "clip_frames": spec.clip_frames,
        "frame_stride": spec.frame_stride,
        "feature_stride_frames": facts.frames / spec.clips if known else None,
        "feature_frames": span,
        "offset_frames": span / 2,
        "fps": facts.fps if facts.fps > 0 else None,
        "frame_count": facts.frames if known else None,
        "duration_seconds": facts.frames / facts.fps if known and facts.fps > 0 else None,
        "starts": list(facts.starts) if known else None,
        "times_seconds": list(facts.times_seconds) if known else None,
        "padded": list(facts.padded),
        "shape": list(shape),
        "dtype": "float16",
        "stored_crc32c": list(crc32c),
    }


def facts_from_sidecar(data: Mapping[str, Any]) -> ClipFacts:
    """Read the facts of a sidecar. Raises KeyError, TypeError or ValueError if it is not one."""
    clips = len(data["padded"])
    known = data["frame_count"] is not None
    facts = {
        "frames": data["frame_count"] if known else UNKNOWN_FRAMES,
        "fps": 0.0 if data["fps"] is None else data["fps"],
        "starts": data["starts"] if known else (0,) * clips,
        "times_seconds": data["times_seconds"] if known else (0.0,) * clips,
        "padded": data["padded"],
    }
    return read_as(ClipFacts, facts)


def file_names(ids: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Return each video's file name without extension: its id without the video's extension.

    Videos that differ only in the extension keep it. A name that is too long for a file system is cut, and
    ends in a digest of the id. "" stays "" (a hole of the store).

    Raises:
        StoreError: an id is not a path within the output's folder, or two ids give the same name.
    """
    short = []
    for name, path in zip(ids, paths, strict=True):
        base, mark, segment = name.partition("#t=")
        short.append(base.removesuffix(PurePosixPath(path).suffix) + mark + segment)
    counts: dict[str, int] = {}
    for name in short:
        counts[name] = counts.get(name, 0) + 1
    names = [
        _that_fits(own if counts[own] == 1 else full, full) for own, full in zip(short, ids, strict=True)
    ]
    seen: set[str] = set()
    for name, full in zip(names, ids, strict=True):
        if not full:
            continue
        if name in seen or "\0" in name or any(step in ("", ".", "..") for step in name.split("/")):
            raise StoreError(f"the id {full!r} gives no file name of its own; export to HDF5 (--format hdf5)")
        seen.add(name)
    return names


def _that_fits(name: str, full: str) -> str:
    """Shorten the folders and the last part of a name that file systems would refuse."""
    steps = name.split("/")
    limits = [FOLDER_BYTES_MAX] * (len(steps) - 1) + [STEM_BYTES_MAX]
    for i, (step, limit) in enumerate(zip(steps, limits, strict=True)):
        if len(step.encode()) > limit:
            # A folder is the same for all videos in it.
            hashed = full if i + 1 == len(steps) else step
            end = f"~{hashlib.sha256(hashed.encode()).hexdigest()[:16]}"
            steps[i] = step.encode()[: limit - len(end)].decode(errors="ignore") + end
    return "/".join(steps)


def pretty(value: object) -> bytes:
    """Encode JSON for people and programs, UTF-8; refuses NaN, which is not valid JSON."""
    return indented_json(value, indent=1, allow_nan=False) + b"\n"
