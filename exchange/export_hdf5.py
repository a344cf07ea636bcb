"""Write one HDF5 file: a dataset per model, chunked by clip, with ids, labels, splits and times."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from ..errors import StoreError
from ..runtime.atomic import link_if_absent, temporary_beside
from ..store.format.manifest import Manifest
from .export_source import Advance, ModelExport, Written, output_errors
from .sidecar import EXPORT_FORMAT

Result = TypeVar("Result")

FACTS = ("frames", "fps", "starts", "times_seconds", "padded")
LIBRARY_VERSIONS = ("v110", "v110")  # HDF5 1.10 (2016) and newer can read it; provenance may exceed 64 KiB


def write_hdf5(out: Path, models: Sequence[ModelExport], report: Advance) -> Written:
    """Write a new file, which appears when it is complete.

    Raises:
        StoreError: the path exists, or maps are damaged.
        StorageError: the disk failed.
    """
    taken = f"{out} is there already; remove it, or choose another --out"
    if out.exists():
        raise StoreError(taken)
    videos = models[0].store.videos
    rows = np.flatnonzero(videos.exists).tolist()
    with (
        output_errors(out),
        temporary_beside(out) as (handle, temporary),
        temporary.open("r+b", buffering=0) as disk,
    ):
        sink = _Sink(disk)
        with h5py.File(sink, "w", libver=LIBRARY_VERSIONS) as file:
            file.attrs["format"] = EXPORT_FORMAT
            file.attrs["root"] = videos.root
            _write_videos(file, videos, rows)
            for model in models:
                _write_model(file, model, rows, report, sink)
        sink.require_sound()
        os.fsync(handle.fileno())
        if not link_if_absent(temporary, out):
            raise StoreError(taken)
    return Written(
        sum(len(model.rows) for model in models), sum(len(model.rows) * model.video_bytes for model in models)
    )


class _Sink:
    """The file object that HDF5 writes to. It ignores all writes after the first failed or interrupted one.

    HDF5 retries pending writes whenever a part of the file is closed. On a full disk it prints each failure,
    and the last one can crash the process. So the first error is kept, and `require_sound` raises it.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._error: BaseException | None = None
        self.seek, self.tell, self.read, self.readinto = file.seek, file.tell, file.read, file.readinto

    def require_sound(self) -> None:
        """Raise the error of the first failed write, if there is one."""
        if self._error is not None:
            raise self._error

    def write(self, data: memoryview) -> int:
        return self._try(lambda: self._write_all(data), len(data))

    def truncate(self, size: int) -> int:
        return self._try(lambda: self._file.truncate(size), size)

    def flush(self) -> None:
        self._try(self._file.flush, None)

    def _write_all(self, data: memoryview) -> int:
        rest = memoryview(data).cast("B")
        while rest:  # an almost full disk may accept only a part
            rest = rest[self._file.write(rest) :]
        return len(data)

    def _try(self, act: Callable[[], Result], pretended: Result) -> Result:
        if self._error is None:
            try:
                return act()
            except BaseException as error:  # also Interrupted and Ctrl-C: `require_sound` raises it
                self._error = error
        return pretended


def _write_videos(file: Any, videos: Manifest, rows: Sequence[int]) -> None:
    """Write the manifest's columns; row i of every dataset is the same video."""
    _strings(file, "class_names", videos.class_names)
    for name in ("ids", "paths", "groups"):
        _strings(file, name, [getattr(videos, name)[row] for row in rows])
    for name in ("labels", "start_seconds", "end_seconds"):
        file[name] = getattr(videos, name)[rows]
    splits = file.create_group("splits")
    splits.attrs["parts"] = "0 none, 1 train, 2 val, 3 test"
    for name in videos.split_names:
        splits[name] = videos.split(name)[rows]


def _write_model(file: Any, model: ModelExport, rows: Sequence[int], report: Advance, sink: _Sink) -> None:
    features, spec = model.features, model.features.spec
    group = file.create_group(spec.folder)
    group.attrs.update(
        {
            "model": spec.model,
            "clip_frames": spec.clip_frames,
            "frame_stride": spec.frame_stride,
            "gflops_per_clip": features.gflops_per_clip,
            "pooled": model.pool,
            "spec": json.dumps(spec.to_dict(), ensure_ascii=False),
            "recorded": json.dumps(dict(features.provenance), ensure_ascii=False),
        }
    )
    columns = features.coverage.columns
    group["status"] = features.coverage.status[rows, 0]
    group["status"].attrs["values"] = "0 not extracted yet, 1 ok, 2 failed"
    for name in FACTS:
        group[name] = columns[name][rows, 0]
    absences = model.absences
    _strings(group, "reasons", [absences[row].reason if row in absences else "" for row in rows])
    lines = [json.dumps(a.to_dict(), ensure_ascii=False) for a in absences.values() if a.status == "missing"]
    _strings(group, "missing", lines)
    _strings(group, "trained_on", sorted(features.trained_on))
    maps = group.create_dataset(
        "maps",
        shape=(len(rows), *model.shape),
        dtype="<f2",
        chunks=(1, *model.shape) if model.pool else (1, 1, *model.shape[1:]),
        fillvalue=np.nan,
    )
    maps.attrs["dimensions"] = "video, clip, c" if model.pool else "video, clip, l, h, w, c"
    logits = None
    if spec.num_classes:
        shape = (len(rows), spec.clips, spec.num_classes)
        logits = group.create_dataset("logits", shape=shape, dtype="<f4", chunks=True, fillvalue=np.nan)
    place = {row: i for i, row in enumerate(rows)}
    for row in model.rows:
        maps[place[row]] = model.values(row)
        if logits is not None:
            logits[place[row]] = features.read_logits(row, 0, np.arange(spec.clips))
        sink.require_sound()
        report()


def _strings(group: Any, name: str, values: Sequence[str]) -> None:
    group.create_dataset(name, data=list(values), shape=(len(values),), dtype=h5py.string_dtype())
