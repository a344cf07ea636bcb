"""A store opened for reading, with all its models."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import StoreError, UsageError
from ...runtime.canonical_json import digest
from ...runtime.file_names import require_text
from ...terminal.suggest import did_you_mean
from ...terminal.text import counted
from ..format.attributes import read_spec
from ..format.spec import features_folder
from ..io.s3 import RemotePath, store_location
from .features import Features
from .root import StoreRoot


class Store(StoreRoot):
    """One dataset's maps, logits and provenance, of all its models; `store.open` opens it for reading.

    Attributes:
        path: the store's folder, a `RemotePath` on object storage.
        shard_videos: videos per shard, the same for every model.
    """

    def __init__(self, path: Path, *, mapped: bool = False) -> None:
        path = store_location(path)
        if mapped and isinstance(path, RemotePath):
            raise UsageError(f"{path}: object storage cannot be mapped; open it without mapped=True")
        if not isinstance(path, RemotePath):
            require_text(path, "the store")
        self._mapped = mapped
        super().__init__(path)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the videos' labels."""
        return self.videos.class_names

    @cached_property
    def models(self) -> list[tuple[str, int]]:
        """(model, clip frames) of every set of maps in the store, sorted."""
        specs = [read_spec(file.parent) for file in self.path.glob("features/*/L*/zarr.json")]
        return sorted((spec.model, spec.clip_frames) for spec in specs)

    def features(self, model: str, clip_frames: int) -> Features:
        """Return one model's maps at one clip length.

        Raises:
            StoreError: the store has none; the message lists what it has.
        """
        folder = self.path / features_folder(model, clip_frames)
        if not (folder / "zarr.json").is_file():
            known = (
                ", ".join(f"{name} at {counted(length, 'frame')}" for name, length in self.models) or "none"
            )
            others = [name for name, _ in self.models if name != model]
            raise StoreError(
                f"{self.path} has no maps of {model} at {counted(clip_frames, 'frame')} (it has: {known})"
                f"{did_you_mean(model, others)}; "
                f"make them: faster extract --store {self.path} --model {model} --clip-frames {clip_frames}"
            )
        return Features(self, folder, mapped=self._mapped)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the manifest and every model's provenance; it identifies a run's training data."""
        return digest(
            [list(self.videos.segments), [self.features(*key).spec.fingerprint for key in self.models]]
        )

    def to_dask(self, model: str | None = None, clip_frames: int | None = None) -> Any:
        """Return maps as a dask array, (video, view, clip, l, h, w, c) float16; absent clips are NaN.

        One block is one shard.

        Args:
            model, clip_frames: which maps; optional if the store has only one such set.

        Raises:
            StoreError: the store has no such set, or several.
        """
        import dask.array

        fitting = [key for key in self.models if model in (None, key[0]) and clip_frames in (None, key[1])]
        if len(fitting) != 1:
            known = (
                ", ".join(f"{name} at {counted(length, 'frame')}" for name, length in self.models) or "none"
            )
            raise StoreError(f"{self.path}: say which model's maps and clip length; it has: {known}")
        features = self.features(*fitting[0])
        blocks = (self.shard_videos, 1, features.clips, *features.map_shape)
        source = _zarr_store(features.folder / "maps")
        maps = dask.array.from_zarr(source, chunks=blocks)  # type: ignore[no-untyped-call]
        complete = np.zeros(maps.shape[:2], dtype=bool)  # a shard without a receipt does not exist
        rows = min(len(complete), len(features.ok))
        complete[:rows] = features.ok[:rows]
        mask = dask.array.from_array(complete, chunks=blocks[:2])  # type: ignore[no-untyped-call]
        if features.spec.dtype == "uint8":
            source = _zarr_store(features.folder / "scales")
            scales = dask.array.from_zarr(source, chunks=(*blocks[:2], blocks[-1]))  # type: ignore[no-untyped-call]
            maps = (maps * scales[:, :, None, None, None, None, :]).astype("float16")
        nan = np.float16("nan")
        return dask.array.where(mask[:, :, None, None, None, None, None], maps, nan)


def _zarr_store(folder: Path) -> Any:
    return folder.zarr_store() if isinstance(folder, RemotePath) else str(folder)
