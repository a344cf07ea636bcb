"""Export a store's maps to one HDF5 file, or to a folder with one `.npy` and one JSON file per video."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..runtime.file_names import require_text
from ..runtime.signals import interruptible
from ..store.io.s3 import require_local
from ..store.read.store import Store
from ..terminal.progress_bars import tqdm
from ..terminal.suggest import did_you_mean
from ..terminal.text import counted
from .config import ExportConfig
from .export_hdf5 import write_hdf5
from .export_npy import write_npy
from .export_source import ModelExport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """The result of a run of `export`; a video counts once per model.

    Attributes:
        models: (model, clip frames) of the exported maps.
        exported: written now. already_whole: complete from an earlier run (npy only).
        absent: number of videos without maps, by reason; the output lists each.
        size_bytes: of the maps written now.
        notes: messages for the user, one line each.
    """

    out: str
    format: str
    models: tuple[tuple[str, int], ...]
    exported: int
    already_whole: int
    absent: dict[str, int]
    size_bytes: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        return asdict(self)


def export(config: ExportConfig, *, progress: bool = True) -> ExportSummary:
    """Write a store's maps as HDF5 or `.npy`, one video in memory at a time.

    An HDF5 file appears when it is complete, and an existing one is refused. A folder of `.npy` files is
    filled file by file. A second run continues: a video whose facts and size match the store is not written
    again.

    Args:
        config: what to export.
        progress: show a progress bar.

    Raises:
        UsageError, StoreError: the store does not contain what is requested, or is damaged; the output
            exists, or is on object storage.
        StorageError: the disk failed.
        Interrupted: SIGTERM, SIGUSR1 or SIGUSR2.
    """
    store, out = Store(Path(config.store)), Path(config.out)
    require_local(out)
    require_text(out, "--out")
    keys = [
        key for key in store.models if config.model in (None, key[0]) and config.clip_frames in (None, key[1])
    ]
    if not keys:
        known = ", ".join(f"{name} at {counted(length, 'frame')}" for name, length in store.models) or "none"
        hint = did_you_mean(config.model or "", {name for name, _ in store.models} - {config.model})
        raise StoreError(f"{store.path} has no such maps to export; it has: {known}{hint}")
    models = [ModelExport(store, store.features(*key), pool=config.pool) for key in keys]
    notes = [
        f"{model.features.model}: the centre view is exported; "
        f"left out: {counted(model.features.views - 1, 'other view')} of each video"
        for model in models
        if model.features.views > 1
    ]
    for note in notes:
        logger.info(f"note: {note}")
    chosen = config.settled_format
    kept = "nothing is left" if chosen == "hdf5" else "whole files are kept"
    total = sum(len(model.rows) for model in models)
    with (
        interruptible(kept),
        tqdm(total=total, unit="video", desc="export", disable=not progress, dynamic_ncols=True) as bar,
    ):
        written = (write_hdf5 if chosen == "hdf5" else write_npy)(out, models, bar.update)
    return ExportSummary(
        out=str(out),
        format=chosen,
        models=tuple(keys),
        exported=written.videos,
        already_whole=total - written.videos,
        absent=dict(Counter(a.reason for model in models for a in model.absences.values()).most_common()),
        size_bytes=written.size_bytes,
        notes=tuple(notes),
    )
