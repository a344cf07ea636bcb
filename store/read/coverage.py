"""The coverage of one model: the state of every video, as columns from the receipts.

The receipts decide. `finalise` copies them into Zarr arrays under `index/`. A reader uses those arrays, and
opens only the receipts of shards that the arrays do not contain yet.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import StoreError, one_line
from ...terminal.text import counted
from ..format.columns import Column, read_array, read_attributes, write_arrays
from ..format.encoding import checksum
from ..format.manifest import Manifest
from ..format.receipts import FAILED, OK, Receipt, list_receipts, read_receipts
from ..format.spec import FeatureSpec

# Rows and values per chunk of an index array, at most; the same for every store, so that chunks never move.
INDEX_CHUNK_ROWS = 8192
_CHUNK_VALUES = 32 * INDEX_CHUNK_ROWS

COLUMNS: dict[str, tuple[str, bool, float]] = {  # name → dtype, one value per clip?, fill value
    "frames": ("int32", False, -1),
    "fps": ("float64", False, np.nan),
    "starts": ("int32", True, -1),
    "times_seconds": ("float64", True, np.nan),
    "padded": ("int32", True, -1),
    "crc32c": ("uint32", True, 0),
    "logits_crc32c": ("uint32", False, 0),
    "quantisation_rms": ("float64", False, np.nan),
    "status": ("int8", False, 0),
}


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Columns over a store's rows, of one model.

    Attributes:
        columns: status (rows, views) int8: 0 no receipt yet, 1 ok, 2 failed; frames, fps (rows, views);
            starts, times_seconds, padded, crc32c (rows, views, clips); see `ClipFacts` for their meaning;
            quantisation_rms (rows, views), the relative RMS error of uint8, NaN for float16.
        reasons: (row, view) → reason of the failure, in one line.
    """

    columns: dict[str, NDArray[np.generic]]
    reasons: dict[tuple[int, int], str] = field(default_factory=dict)

    @property
    def status(self) -> NDArray[np.int8]:
        """(rows, views) int8: 0 no receipt yet, 1 ok, 2 failed."""
        return self.columns["status"].astype(np.int8, copy=False)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(rows, views) bool: the maps are complete."""
        return np.equal(self.status, OK)

    @property
    def failed(self) -> NDArray[np.bool_]:
        """(rows, views) bool: the video was tried and cannot be used."""
        return np.equal(self.status, FAILED)


def empty_coverage(spec: FeatureSpec, rows: int, names: Collection[str] = COLUMNS) -> Coverage:
    """Return columns in which every row is unknown.

    Raises:
        StoreError: the columns do not fit in memory, for example because the metadata are damaged.
    """
    shapes = {
        name: (rows, spec.views, spec.clips) if per_clip else (rows, spec.views)
        for name, (_, per_clip, _) in COLUMNS.items()
        if name in names
    }
    size = sum(prod(shape) * np.dtype(COLUMNS[name][0]).itemsize for name, shape in shapes.items())
    if size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2:
        raise StoreError(
            f"{counted(rows, 'video')} of {counted(spec.views, 'view')} of {counted(spec.clips, 'clip')} of "
            f"{spec.model} would take "
            f"{size / 1e9:,.0f} GB of memory to list: the metadata is damaged, or this machine too small"
        )
    return Coverage(
        columns={
            name: np.full(shape, COLUMNS[name][2], dtype=COLUMNS[name][0]) for name, shape in shapes.items()
        }
    )


def load_coverage(
    folder: Path,
    spec: FeatureSpec,
    *,
    videos: Manifest,
    shard_videos: int,
    names: Collection[str] = COLUMNS,
    reasons: bool = True,
    shards: Collection[int] | None = None,
    again: Collection[tuple[int, int]] = (),
) -> Coverage:
    """Read the consolidated columns, if these videos have any, and the receipts that they do not contain.

    Args:
        folder: the model's.
        spec, videos, shard_videos: of the model and its store.
        names: the columns to read; must contain "status".
        reasons: whether to read the reasons of failures.
        shards: read the receipts of these shards only; None is all. For other shards, the result has only the
            consolidated data.
        again: (shard, view) pairs whose receipts are always read.

    Raises:
        StoreError: a receipt is malformed, or was made under another provenance or of other videos.
    """
    coverage = empty_coverage(spec, videos.rows, names)
    complete = list_receipts(folder)
    attributes = read_attributes(folder / "index")
    columns = _read_index(folder / "index", attributes, coverage, videos)
    for name, values in columns.items():
        coverage.columns[name][: len(values)] = values
    count = -(-videos.rows // shard_videos)
    status = np.zeros((count * shard_videos, spec.views), dtype=np.int8)
    status[: videos.rows] = coverage.status
    by_shard = status.reshape(count, shard_videos, spec.views)
    inside = [(shard, view) for shard, view in complete if shard < count and view < spec.views]
    has_receipt = np.zeros((count, spec.views), dtype=bool)
    has_receipt[tuple(np.array(inside, dtype=np.int64).reshape(-1, 2).T)] = True
    by_shard *= has_receipt[:, None]  # a shard without a receipt does not exist
    coverage.columns["status"][:] = status[: videos.rows]
    unread = ~by_shard.any(axis=1)
    if reasons:
        if columns:
            coverage.reasons.update(_read_reasons(attributes, coverage.failed))
        unexplained = by_shard == FAILED
        for row, view in coverage.reasons:
            unexplained[row // shard_videos, row % shard_videos, view] = False
        unread |= unexplained.any(axis=1)
    known = set(zip(*(axis.tolist() for axis in np.nonzero(~unread)), strict=True)).difference(again)
    wanted = [pair for pair in complete if pair not in known and (shards is None or pair[0] in shards)]
    for receipt in read_receipts(folder, wanted):
        _enter(coverage, receipt, folder, spec, videos.ids, shard_videos)
    return coverage


def index_holds(
    folder: Path,
    spec: FeatureSpec,
    *,
    videos: Manifest,
    shard_videos: int,
    whole: Sequence[tuple[int, int]],
) -> bool:
    """Return whether the index agrees with the receipts, for the shards that it contains.

    Copied or restored receipts may differ from an index that was written before.

    Args:
        folder, spec, videos, shard_videos: as in `load_coverage`.
        whole: (shard, view) pairs whose receipts are valid; all of them are opened.
    """
    index = empty_coverage(spec, videos.rows)
    attributes = read_attributes(folder / "index")
    columns = _read_index(folder / "index", attributes, index, videos)
    if not columns:
        return True  # readers use the receipts
    for name, values in columns.items():
        index.columns[name][: len(values)] = values
    index.reasons.update(_read_reasons(attributes, index.failed))
    for receipt in read_receipts(folder, list(whole)):
        rows = np.s_[receipt.shard * shard_videos : (receipt.shard + 1) * shard_videos, receipt.view]
        told = {name: values[rows].copy() for name, values in index.columns.items()}
        reasons = {
            at: reason
            for entry in receipt.videos
            if (reason := index.reasons.get(at := (entry.row, receipt.view)))
        }
        _enter(index, receipt, folder, spec, videos.ids, shard_videos)
        if not told["status"].any():
            continue
        if any(not np.array_equal(told[name], index.columns[name][rows], equal_nan=True) for name in told):
            return False
        if any(index.reasons.get(at) != reason for at, reason in reasons.items()):
            return False
    return True


def save_coverage(folder: Path, coverage: Coverage, videos: Manifest) -> None:
    """Write the columns as Zarr arrays under `index/`, which any Zarr library can read."""
    write_arrays(
        folder / "index",
        {name: (coverage.columns[name], _column(name, coverage.columns[name].shape)) for name in COLUMNS},
        attributes={
            "rows": videos.rows,
            "segments": list(videos.segments),
            "crc32c": {name: _checksum(coverage.columns[name]) for name in COLUMNS},
            "reasons": _by_reason(coverage.reasons),
        },
    )


def _by_reason(reasons: Mapping[tuple[int, int], str]) -> dict[str, list[int]]:
    """Return the rows and views of each reason: row, view, row, view, …"""
    found: dict[str, list[int]] = {}
    for (row, view), reason in sorted(reasons.items()):
        found.setdefault(reason, []).extend((row, view))
    return found


def _read_reasons(attributes: Mapping[str, Any], failed: NDArray[np.bool_]) -> dict[tuple[int, int], str]:
    """Read what `_by_reason` returned, for `failed` videos only; the receipts tell the rest."""
    found: dict[tuple[int, int], str] = {}
    by_reason = attributes.get("reasons")
    if not isinstance(by_reason, dict):
        return found
    rows, views = failed.shape
    for reason, flat in by_reason.items():
        if not isinstance(flat, list) or not {int}.issuperset(map(type, flat)):
            return {}
        for row, view in zip(flat[::2], flat[1::2], strict=False):
            if 0 <= row < rows and 0 <= view < views and failed[row, view]:
                found[row, view] = one_line(reason)
    return found


def _read_index(
    folder: Path, attributes: Mapping[str, Any], coverage: Coverage, videos: Manifest
) -> dict[str, NDArray[np.generic]]:
    """Return the consolidated columns that `coverage` needs; empty if damaged or of other videos.

    Two runs may finalise at once, or one may be stopped half-way: all columns must come from the same write.
    """
    rows, segments, checksums = (attributes.get(name) for name in ("rows", "segments", "crc32c"))
    if type(rows) is not int or not isinstance(segments, list) or not isinstance(checksums, dict):
        return {}
    if not 0 <= rows <= videos.rows or segments != list(videos.segments[: len(segments)]):
        return {}  # of other videos; a manifest may grow but never changes
    columns = {}
    for name, wanted in coverage.columns.items():
        shape = (rows, *wanted.shape[1:])
        values = read_array(folder / name, _column(name, shape), shape)
        if values is None or _checksum(values) != checksums.get(name):
            return {}
        columns[name] = values
    return columns


def _column(name: str, shape: tuple[int, ...]) -> Column:
    dtype, _, fill = COLUMNS[name]
    rows = max(1, min(INDEX_CHUNK_ROWS, _CHUNK_VALUES // prod(shape[1:])))
    return Column(dtype=dtype, chunk_rows=rows, fill=fill)


def _checksum(values: NDArray[np.generic]) -> int:
    flat = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(-1)
    return checksum(flat.view(np.uint8).data)


def _enter(
    coverage: Coverage,
    receipt: Receipt,
    folder: Path,
    spec: FeatureSpec,
    ids: Sequence[str],
    shard_videos: int,
) -> None:
    where = f"{folder}/receipts, shard {receipt.shard}"
    first, view = receipt.shard * shard_videos, receipt.view
    if why := receipt.misfit(spec.fingerprint, ids[first : first + shard_videos]):
        raise StoreError(f"{where}: {why}; see: faster verify")
    rows = coverage.status.shape[0]
    for entry in receipt.videos:
        if not (first <= entry.row < min(first + shard_videos, rows) and view < spec.views):
            raise StoreError(f"{where}: its receipt names row {entry.row}, which is not of that shard")
        at = (entry.row, view)
        coverage.columns["status"][at] = OK if entry.ok else FAILED
        if entry.facts is None:
            coverage.reasons[at] = entry.reason
            for name in coverage.columns.keys() - {"status"}:  # it may have been complete before
                coverage.columns[name][at] = COLUMNS[name][2]
            continue
        coverage.reasons.pop(at, None)
        facts = entry.facts
        sizes = {len(facts.starts), len(facts.times_seconds), len(facts.padded), len(entry.crc32c)}
        if sizes != {spec.clips}:
            raise StoreError(
                f"{where}: its receipt gives row {entry.row} other than {counted(spec.clips, 'clip')}"
            )
        values: dict[str, ArrayLike] = {
            "frames": facts.frames,
            "fps": facts.fps,
            "starts": facts.starts,
            "times_seconds": facts.times_seconds,
            "padded": facts.padded,
            "crc32c": entry.crc32c,
            "logits_crc32c": entry.logits_crc32c or 0,
            "quantisation_rms": np.nan if entry.quantisation_rms is None else entry.quantisation_rms,
        }
        for name, value in values.items():
            if name in coverage.columns:
                coverage.columns[name][at] = value
