"""One model's maps as the source of an export, for every output format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import StorageError
from ..store.format.manifest import VideoRecord
from ..store.format.receipts import ClipFacts
from ..store.read.features import Features
from ..store.read.store import Store
from .sidecar import Absence, record_of

Advance = Callable[[], object]


class Written(NamedTuple):
    """Number of written videos, counted per model, and the bytes of their maps."""

    videos: int
    size_bytes: int


class ModelExport:
    """One model's maps to export: the centre view, in the manifest's order."""

    def __init__(self, store: Store, features: Features, *, pool: bool) -> None:
        self.store, self.features, self.pool = store, features, pool
        self.rows: list[int] = np.flatnonzero(features.coverage.ok[:, 0]).tolist()
        """Rows of the store with complete maps."""

    @property
    def folder(self) -> str:
        """The model's folder in a `.npy` export."""
        return "-".join(self.features.spec.folder.split("/")[1:])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one video's maps: (clips, l, h, w, c), or pooled (clips, c)."""
        map_shape = self.features.map_shape
        return (self.features.clips, *(map_shape[3:] if self.pool else map_shape))

    @property
    def video_bytes(self) -> int:
        """Bytes of one video's maps, as float16."""
        return 2 * prod(self.shape)

    def values(self, row: int) -> NDArray[np.float16]:
        """Read one video's maps, with checksums verified; pooled in float32.

        Raises:
            StoreError: they are damaged.
        """
        maps = self.features.read_maps(row, 0, np.arange(self.features.clips))
        return maps.mean(axis=(1, 2, 3), dtype=np.float32).astype(np.float16) if self.pool else maps

    def facts(self, row: int) -> ClipFacts:
        """Return what decoding found out about one video."""
        columns = self.features.coverage.columns
        return ClipFacts(
            frames=int(columns["frames"][row, 0]),
            fps=float(columns["fps"][row, 0]),
            starts=tuple(columns["starts"][row, 0].tolist()),
            times_seconds=tuple(columns["times_seconds"][row, 0].tolist()),
            padded=tuple(columns["padded"][row, 0].tolist()),
        )

    @cached_property
    def absences(self) -> dict[int, Absence]:
        """Row → why it has no maps; videos that were never on disk have no row and get negative numbers."""
        videos, coverage = self.store.videos, self.features.coverage
        absences = {}
        for row in np.flatnonzero(videos.exists & ~coverage.ok[:, 0]).tolist():
            reason = coverage.reasons.get((row, 0))
            status = "waiting" if reason is None else "failed"
            absences[row] = Absence(
                record=record_of(videos, row), row=row, status=status, reason=reason or "not extracted yet"
            )
        for number, (name, (label, splits)) in enumerate(videos.missing.items(), 1):
            record = VideoRecord(id=name, path=name, label=label, splits=splits)
            absences[-number] = Absence(record=record, row=None, status="missing", reason="was not on disk")
        return absences

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of the maps, as JSON types."""
        features = self.features
        return {
            "folder": self.folder,
            "pooled": self.pool,
            "spec": features.spec.to_dict(),
            "recorded": dict(features.provenance),
            "trained_on": sorted(features.trained_on),
        }


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn errors of the disk or HDF5 into a StorageError of one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        what = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise StorageError(
            f"{path}: {what}; choose another --out, or free space there, and run again"
        ) from error
