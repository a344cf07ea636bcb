"""What is derived from receipts and manifest, written again from them at any time: safe to repeat or interrupt."""

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
# Receipts that are younger than the index, or nearly so, are read again: clocks of several machines differ.
CLOCKS_DIFFER_SECONDS = 600.0


def finalise(store: Store) -> None:
    """Merge every model's receipts into its `index/` arrays, and rewrite `videos/` and `failures.jsonl`.

    Only receipts that the arrays lack, or that may be newer than they are, are opened.

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
            if newer:  # the next one need not read them again, even where nothing changed
                index = features.folder / "index" / "zarr.json"
                replace(index, index.read_bytes())
            fit_arrays(
                store.path, features.spec, store.videos, store.shard_videos
            )  # of models not run this time, too
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
    """The (shard, view) of receipts that may have been put after the index of a model's folder was written."""
    try:
        written = (folder / "index" / "zarr.json").stat().st_mtime
    except FileNotFoundError:
        return set()  # all are read
    times = receipt_times(folder, entered=True)
    return {key for key, put in times.items() if put > written - CLOCKS_DIFFER_SECONDS}


def _save_videos(store: Store, videos: Manifest) -> None:
    """The manifest as Zarr arrays; strings are UTF-8 bytes with offsets, which every Zarr library reads."""
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
