"""Write one `.npy` and one JSON file per video, the layout that temporal-localisation code reads."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import StoreError
from ..runtime.atomic import replacing
from ..runtime.canonical_json import json_lines
from .export_source import Advance, ModelExport, Written, output_errors
from .sidecar import EXPORT_FORMAT, FAILURES_FILE, INDEX_FILE, file_names, pretty, record_of, sidecar


def write_npy(out: Path, models: Sequence[ModelExport], report: Advance) -> Written:
    """Fill a new folder, or complete one of the same export.

    Raises:
        StoreError: the folder holds something else, or maps are damaged.
        StorageError: the disk failed.
    """
    store = models[0].store
    index = pretty(
        {
            "format": EXPORT_FORMAT,
            "class_names": list(store.class_names),
            "root": store.videos.root,
            "models": [model.provenance() for model in models],
        }
    )
    names = file_names(store.videos.ids, store.videos.paths)
    with output_errors(out):
        _claim(out, index)
        written = Written(0, 0)
        for model in models:
            columns = model.features.coverage.columns
            for row in model.rows:
                facts = sidecar(
                    model.features.spec,
                    record_of(store.videos, row),
                    model.facts(row),
                    row=row,
                    class_names=store.class_names,
                    shape=model.shape,
                    crc32c=columns["crc32c"][row, 0].tolist(),
                )
                if _write_video(out / model.folder / names[row], model, row, pretty(facts)):
                    written = Written(written.videos + 1, written.size_bytes + model.video_bytes)
                report()
        lines = [
            {"model": model.features.model, "clip_frames": model.features.clip_frames, **absence.to_dict()}
            for model in models
            for absence in model.absences.values()
        ]
        _place(out / FAILURES_FILE, json_lines(lines))
    return written


def _claim(out: Path, index: bytes) -> None:
    """Begin an export in an empty folder, or continue the same one."""
    if out.exists() and not out.is_dir():
        raise StoreError(f"{out} is a file; --out of .npy files is a folder")
    if (out / INDEX_FILE).is_file():
        if (out / INDEX_FILE).read_bytes() != index:
            raise StoreError(f"{out} holds another export, of other maps or options; choose another --out")
    elif out.exists() and any(out.iterdir()):
        raise StoreError(f"{out} is not empty, and no export of this store; choose another --out")
    else:
        _place(out / INDEX_FILE, index)


def _write_video(stem: Path, model: ModelExport, row: int, facts: bytes) -> bool:
    """Write a video's maps and then its facts, unless both exist; return whether it wrote them."""
    array, beside = stem.with_name(f"{stem.name}.npy"), stem.with_name(f"{stem.name}.json")
    if beside.is_file() and beside.read_bytes() == facts and array.is_file():
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f2", "fortran_order": False, "shape": model.shape}
        )
        if array.stat().st_size == len(header.getvalue()) + model.video_bytes:
            return False
    # Not durable, as in `_place`: syncing each of many small files is slow, and the last file marks the end.
    with replacing(array, durable=False) as file:
        np.save(file, model.values(row).astype("<f2", copy=False), allow_pickle=False)
    _place(beside, facts)
    return True


def _place(path: Path, data: bytes) -> None:
    """Write a file atomically, without syncing it."""
    with replacing(path, durable=False) as file:
        file.write(data)
