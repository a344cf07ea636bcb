"""Rewrite all data derived from receipts and manifest; may be repeated or interrupted at any time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.atomic import replace, storage_errors
from ...runtime.canonical_json import json_lines
from ..format.columns import Column, write_arrays
from ..format.manifest import Manifest
from ..format.receipts import receipt_times
from ..read.coverage import INDEX_CHUNK_ROWS, load_coverage, save_coverage
from ..read.store import Store
from .create import fit_arrays

STRING_CHUNK_BYTES = 1 << 20
# Receipts newer than the index, or almost, are read again, because clocks of machines differ.
CLOCKS_DIFFER_SECONDS = 600.0


def finalise(store: Store) -> None:
    """Merge every model's receipts into its `index/` arrays, and rewrite `videos/` and `failures.jsonl`.

    Opens only receipts that are not in the arrays, or that may be newer than they are.

    Raises:
        StoreError: a receipt is malformed.
        StorageError: the disk failed.
    """
    failures = []
    with storage_errors(store.path):
        for model, clip_frames in store.models:
            features = store.features(model, clip_frames)
            newer = _newer_receipts(features.folder)
            coverage = load_coverage(
                features.folder,
                features.spec,
                videos=store.videos,
                shard_videos=store.shard_videos,
                again=newer,
            )
            save_coverage(features.folder, coverage, store.videos)
            if newer:  # give the index a new time, so that the next call need not read them again
                index = features.folder / "index" / "zarr.json"
                replace(index, index.read_bytes())
            # Also for models that were not extracted in this run.
            fit_arrays(store.path, features.spec, store.videos, store.shard_videos)
            for (row, view), reason in sorted(coverage.reasons.items()):
                failures.append(
                    {
                        "id": store.videos.ids[row],
                        "path": store.videos.paths[row],
                        "row": row,
                        "view": view,
                        "model": model,
                        "clip_frames": clip_frames,
                        "reason": reason,
                    }
                )
        _save_videos(store, store.videos)
    replace(store.path / "failures.jsonl", json_lines(failures))


def _newer_receipts(folder: Path) -> set[tuple[int, int]]:
    """Return the (shard, view) of receipts that may be newer than the index in a model's folder."""
    try:
        written = (folder / "index" / "zarr.json").stat().st_mtime
    except FileNotFoundError:
        return set()  # all are read
    times = receipt_times(folder, entered=True)
    return {key for key, put in times.items() if put > written - CLOCKS_DIFFER_SECONDS}


def _save_videos(store: Store, videos: Manifest) -> None:
    """Write the manifest as Zarr arrays; strings are UTF-8 bytes with offsets, for every Zarr library."""
    columns: dict[str, NDArray[np.generic]] = {
        "labels": videos.labels,
        "start_seconds": videos.start_seconds,
        "end_seconds": videos.end_seconds,
    }
    columns |= {f"splits/{name}": videos.split(name) for name in videos.split_names}
    for name, strings in (("ids", videos.ids), ("paths", videos.paths), ("groups", videos.groups)):
        encoded = [text.encode() for text in strings]
        columns[f"{name}/offsets"] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        columns[f"{name}/utf8"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    write_arrays(
        store.path / "videos",
        {
            name: (
                values,
                Column(
                    dtype=values.dtype.name,
                    chunk_rows=STRING_CHUNK_BYTES if name.endswith("utf8") else INDEX_CHUNK_ROWS,
                    fill=0,
                ),
            )
            for name, values in columns.items()
        },
        attributes={"class_names": list(videos.class_names)},
    )
