"""Reading a store: what it holds, and random batches of clips as byte ranges asked of the operating system."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import StoreError
from . import manifest as manifests
from .coverage import Coverage, load_coverage
from .manifest import Manifest
from .schema import FORMAT, FeatureSpec, clip_bytes, digest, features_folder, logits_key, maps_key, unseal

OPEN_FILES_MAX = 256


class Store:
    """One dataset's maps, scores and provenance, of all its models; opened for reading by `store.open`.

    Attributes:
        path: the store's folder.
        shard_videos: videos a shard, the same for every model.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        attributes = read_group_attributes(path)
        if attributes.get("format") != FORMAT:
            raise StoreError(f"{path} has format {attributes.get('format')!r}; this version reads {FORMAT}")
        shard_videos = attributes.get("shard_videos")
        if not isinstance(shard_videos, int) or not 1 <= shard_videos <= 1_000_000:
            raise StoreError(f"{path}: {shard_videos!r} videos a shard; the store's metadata is damaged")
        self.shard_videos = shard_videos

    @cached_property
    def videos(self) -> Manifest:
        """The manifest: ids, paths, labels, splits, a row each."""
        return manifests.load(self.path)

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the videos' labels stand for."""
        return self.videos.class_names

    @cached_property
    def models(self) -> list[tuple[str, int]]:
        """(model, clip frames) of every set of maps in the store, sorted."""
        specs = [_read_spec(file.parent) for file in self.path.glob("features/*/L*/zarr.json")]
        return sorted((spec.model, spec.clip_frames) for spec in specs)

    def features(self, model: str, clip_frames: int) -> Features:
        """One model's maps at one clip length.

        Raises:
            StoreError: the store has none; the message lists what it has.
        """
        folder = self.path / features_folder(model, clip_frames)
        if not (folder / "zarr.json").is_file():
            known = ", ".join(f"{name} at {length} frames" for name, length in self.models) or "none"
            raise StoreError(
                f"{self.path} has no maps of {model} at {clip_frames} frames (it has: {known}); "
                f"make them: faster extract --store {self.path} --model {model} --clip-frames {clip_frames}"
            )
        return Features(self, folder)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the manifest and every model's provenance: what a run was trained on."""
        segments = [digest(segment.decode()) for segment in self.videos.segments]
        return digest([segments, [self.features(*key).spec.fingerprint for key in self.models]])

    def to_dask(self, model: str, clip_frames: int) -> Any:
        """The maps as a dask array, (video, view, clip, l, h, w, c) float16, one block a shard; absent clips are NaN."""
        import dask.array

        return dask.array.from_zarr(  # type: ignore[no-untyped-call]
            str(self.path / features_folder(model, clip_frames) / "maps")
        )


class Features:
    """The maps and logits of one model at one clip length.

    Attributes:
        spec: everything that decided the maps' bytes.
        provenance: what else was recorded: GFLOPs a clip, versions, where the weights came from.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder
        attributes = read_group_attributes(folder)
        self.spec = _read_spec(folder)
        self.provenance: Mapping[str, Any] = attributes.get("recorded", {})
        self._files: dict[tuple[int, int], int] = {}
        self._offsets: dict[tuple[int, int], NDArray[np.int64]] = {}

    @property
    def model(self) -> str:
        """The model's name."""
        return self.spec.model

    @property
    def clip_frames(self) -> int:
        """L, frames a clip."""
        return self.spec.clip_frames

    @property
    def clips(self) -> int:
        """M, clips a view."""
        return self.spec.clips

    @property
    def views(self) -> int:
        """Views a video; view 0 is the centre view."""
        return self.spec.views

    @property
    def map_shape(self) -> tuple[int, int, int, int]:
        """(l, h, w, c) of a clip's map."""
        return self.spec.map_shape

    @property
    def num_classes(self) -> int:
        """Length of a clip's logits, 0 where there are none."""
        return self.spec.num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What the logits stand for, where known."""
        return self.spec.class_names

    @property
    def gflops_per_clip(self) -> float:
        """Cost of the backbone on one clip, in multiply-adds / 1e9."""
        try:
            return float(self.provenance["gflops_per_clip"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{self.folder}/zarr.json is damaged: it does not say the GFLOPs of a clip"
            ) from error

    @cached_property
    def trained_on(self) -> frozenset[str]:
        """Ids of the videos that the weights' training saw."""
        file = self.folder / "trained_on.json"
        try:
            return frozenset(unseal(file.read_bytes(), name=str(file))["ids"])
        except OSError as error:
            raise StoreError(
                f"{file}: {error.strerror}; without it nobody knows which videos the weights saw"
            ) from error

    def seen_in_training(self, ids: Sequence[str]) -> list[str]:
        """Those of `ids` whose video the weights' training saw, also as a segment or under another root.

        Two ids are of one video if, without "#t=…", one is the end of the other's path.
        """
        trained = {name.partition("#t=")[0] for name in self.trained_on}
        ends = {end for name in trained for end in _ends(name)}
        plain = {name: name.partition("#t=")[0] for name in ids}
        return [name for name in ids if plain[name] in ends or not trained.isdisjoint(_ends(plain[name]))]

    @cached_property
    def coverage(self) -> Coverage:
        """What became of every video, from the receipts."""
        return load_coverage(
            self.folder, self.spec, ids=self.store.videos.ids, shard_videos=self.store.shard_videos
        )

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(rows, views) bool: the video's maps of that view are in the store, whole."""
        return self.coverage.ok

    def read_maps(
        self, rows: ArrayLike, views: ArrayLike, clips: ArrayLike, out: NDArray[np.float16] | None = None
    ) -> NDArray[np.float16]:
        """Read clips in any order, straight into one array.

        Args:
            rows, views, clips: (n,) integers, or scalars that hold for all.
            out: (n, l, h, w, c) float16, C order, to fill; pinned memory will do.

        Returns:
            (n, l, h, w, c) float16.

        Raises:
            StoreError: a clip is not in the store, or its file is shorter than its receipt says.
        """
        rows_, views_, clips_ = self._request(rows, views, clips)
        if out is None:
            out = np.empty((len(rows_), *self.map_shape), dtype=np.float16)
        if (
            out.shape != (len(rows_), *self.map_shape)
            or out.dtype != np.float16
            or not out.flags.c_contiguous
        ):
            raise ValueError(f"out must be C-ordered float16 of shape {(len(rows_), *self.map_shape)}")
        size = clip_bytes(self.map_shape)
        buffer = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        shards, within = rows_ // self.store.shard_videos, rows_ % self.store.shard_videos
        for i in np.lexsort((clips_, within, views_, shards)):
            key = (int(shards[i]), int(views_[i]))
            offset = int(self._shard_offsets(key)[within[i], clips_[i]])
            _read_exactly(self._file(key), buffer[i * size : (i + 1) * size], offset, self.folder)
        return out

    def read_logits(self, rows: ArrayLike, views: ArrayLike, clips: ArrayLike) -> NDArray[np.float32]:
        """Read clips' logits: (n, classes) float32.

        Raises:
            StoreError: the backbone had no classifier, or a clip is not in the store.
        """
        rows_, views_, clips_ = self._request(rows, views, clips)
        if not self.num_classes:
            raise StoreError(
                f"{self.store.path} has no logits of {self.model}: its weights came without a classifier"
            )
        shards, within = rows_ // self.store.shard_videos, rows_ % self.store.shard_videos
        out = np.empty((len(rows_), self.num_classes), dtype=np.float32)
        shape = (self.store.shard_videos, self.clips, self.num_classes)
        for shard, view in sorted(set(zip(shards.tolist(), views_.tolist(), strict=True))):
            here = (shards == shard) & (views_ == view)
            data = _read_file(self.folder / logits_key(shard, view), 4 * int(np.prod(shape)))
            out[here] = np.frombuffer(data, dtype="<f4").reshape(shape)[within[here], clips_[here]]
        return out

    def close(self) -> None:
        """Close the shard files; the next read opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()

    def _request(
        self, rows: ArrayLike, views: ArrayLike, clips: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        r, v, c = (np.atleast_1d(np.asarray(a, dtype=np.int64)) for a in (rows, views, clips))
        r, v, c = np.broadcast_arrays(r, v, c)
        limits = (self.ok.shape[0], self.views, self.clips)
        for name, values, limit in zip(("video row", "view", "clip"), (r, v, c), limits, strict=True):
            if values.size and not 0 <= values.min() <= values.max() < limit:
                raise StoreError(
                    f"{name} {values.max()} asked of {limit} that {self.store.path} has of {self.model}"
                )
        absent = np.flatnonzero(~self.ok[r, v])
        if absent.size:
            row = int(r[absent[0]])
            raise StoreError(
                f"{self.store.path} has no maps of {self.model} for {self.store.videos.ids[row] or f'row {row}'}"
                f" (and {absent.size - 1} more asked for); see: faster inspect {self.store.path}"
            )
        return r, v, c

    def _shard_offsets(self, key: tuple[int, int]) -> NDArray[np.int64]:
        """(videos a shard, clips) offset of each clip, from the index at the shard's end; 2^63 and more are absent."""
        if key not in self._offsets:
            count = self.store.shard_videos * self.clips
            size = os.fstat(self._file(key)).st_size
            data = bytearray(count * 16 + 4)
            if size < len(data):
                raise StoreError(
                    f"{self.folder}: the shard {key} is cut off; run: faster verify {self.store.path}"
                )
            _read_exactly(self._file(key), memoryview(data), size - len(data), self.folder)
            index = np.frombuffer(data, dtype="<u8", count=count * 2).reshape(
                self.store.shard_videos, self.clips, 2
            )
            present = index[..., 1] == clip_bytes(self.map_shape)
            self._offsets[key] = np.where(present, index[..., 0], np.uint64(2**63 - 1)).astype(np.int64)
        return self._offsets[key]

    def _file(self, key: tuple[int, int]) -> int:
        if key not in self._files:
            if len(self._files) >= OPEN_FILES_MAX:
                os.close(self._files.pop(next(iter(self._files))))
            path = self.folder / maps_key(*key)
            try:
                self._files[key] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise StoreError(
                    f"{path}: {error.strerror}, though its receipt is there; run: faster verify {self.store.path}"
                ) from error
        return self._files[key]


def _ends(path: str) -> list[str]:
    """A path, and the path without its first folder, and so on."""
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def read_group_attributes(folder: Path) -> dict[str, Any]:
    """Our attributes of a Zarr group.

    Raises:
        StoreError: the folder is not a group of a store of ours.
    """
    try:
        attributes = json.loads((folder / "zarr.json").read_bytes())["attributes"]["faster"]
    except OSError as error:
        raise StoreError(
            f"{folder} is not a store ({error.strerror}); make one: faster extract --store {folder} --model …"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder}/zarr.json is not one that faster wrote ({error!r})") from error
    if not isinstance(attributes, dict):
        raise StoreError(f"{folder}/zarr.json is not one that faster wrote")
    return attributes


def _read_spec(folder: Path) -> FeatureSpec:
    spec = read_group_attributes(folder).get("spec")
    if not isinstance(spec, dict):
        raise StoreError(f"{folder}/zarr.json holds no provenance")
    return FeatureSpec.from_dict(spec)


def _read_exactly(file: int, buffer: memoryview, offset: int, where: Path) -> None:
    done = 0
    while done < len(buffer):
        try:
            count = os.preadv(file, [buffer[done:]], offset + done)
        except OSError as error:
            raise StoreError(f"{where}: {error.strerror}") from error
        if not count:
            raise StoreError(f"{where}: a shard ends before the clip that its receipt promises")
        done += count


def _read_file(path: Path, size_bytes: int) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror}, though its receipt is there; see: faster verify"
        ) from error
    if len(data) != size_bytes:
        raise StoreError(f"{path}: {len(data)} bytes, expected {size_bytes}")
    return data
