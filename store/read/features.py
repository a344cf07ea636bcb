"""One model's maps and logits in a store: reads random batches of clips without a chunk pipeline."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import StoreError
from ...runtime.canonical_json import read_as
from ..format.attributes import read_group_attributes, read_spec
from ..format.checksummed_json import decode_checksummed
from ..format.encoding import checksum, dequantise
from ..format.manifest import SEGMENT_BYTES_MAX
from ..format.receipts import list_receipts
from ..format.schema import logits_key
from ..io.s3 import THREADS, RemotePath
from ..io.safe_open import read_floats, read_regular
from .coverage import Coverage, load_coverage
from .root import StoreRoot
from .shard_files import Request, ShardFiles


class StoredMaps(NamedTuple):
    """Clips as they are stored. For uint8, x = values · scales[scale_of]; float16 maps need no scales.

    values    (n, l, h, w, c) float16 or uint8
    scales    (videos, c) float32, one row per video of these clips; None for float16
    scale_of  (n,) int64, each clip's row of `scales`; None for float16
    """

    values: NDArray[Any]
    scales: NDArray[np.float32] | None
    scale_of: NDArray[np.int64] | None


class Features:
    """The maps and logits of one model at one clip length.

    Attributes:
        spec: everything that decided the maps' bytes.
        provenance: other recorded facts: GFLOPs per clip, versions, origin of the weights.
        shard_files: reads the clips.
    """

    def __init__(self, store: StoreRoot, folder: Path, *, mapped: bool = False) -> None:
        self.store = store
        self.folder = folder
        attributes = read_group_attributes(folder)
        self.spec = read_spec(folder)
        self.provenance: Mapping[str, Any] = attributes.get("recorded", {})
        self.shard_files = ShardFiles(store, folder, self.spec, mapped=mapped)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.spec.model

    @property
    def clip_frames(self) -> int:
        """L, frames per clip."""
        return self.spec.clip_frames

    @property
    def clips(self) -> int:
        """M, clips per view."""
        return self.spec.clips

    @property
    def views(self) -> int:
        """Views per video; view 0 is the centre view."""
        return self.spec.views

    @property
    def map_shape(self) -> tuple[int, int, int, int]:
        """(l, h, w, c) of a clip's map."""
        return self.spec.map_shape

    @property
    def num_classes(self) -> int:
        """Length of a clip's logits, 0 if there are none."""
        return self.spec.num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the logits, if known."""
        return self.spec.class_names

    @property
    def gflops_per_clip(self) -> float:
        """Cost of the backbone on one clip, in multiply-adds / 1e9."""
        try:
            gflops = float(self.provenance["gflops_per_clip"])
            if not 0 <= gflops < float("inf"):
                raise ValueError(gflops)
            return gflops
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise StoreError(
                f"{self.folder}/zarr.json is damaged: it does not say the GFLOPs of a clip"
            ) from error

    @cached_property
    def trained_on(self) -> frozenset[str]:
        """Ids of the videos that the weights were trained on."""
        file = self.folder / "trained_on.json"
        try:
            ids = decode_checksummed(read_regular(file, size_max=SEGMENT_BYTES_MAX), name=str(file)).get(
                "ids"
            )
        except OSError as error:
            raise StoreError(
                f"{file}: {error.strerror}; without it nobody knows which videos the weights saw"
            ) from error
        try:
            return read_as(frozenset[str], ids)
        except ValueError as error:
            raise StoreError(f"{file}: not a list of videos' ids: {error}") from error

    def seen_in_training(self, ids: Sequence[str]) -> list[str]:
        """Return the `ids` whose video the weights were trained on, also as a segment or under another root.

        Two ids mean the same video if, without "#t=…", one is the end of the other's path.
        """
        trained = {name.partition("#t=")[0] for name in self.trained_on}
        ends = {end for name in trained for end in _ends(name)}
        without_time = {name: name.partition("#t=")[0] for name in ids}
        return [
            name
            for name in ids
            if without_time[name] in ends or not trained.isdisjoint(_ends(without_time[name]))
        ]

    @cached_property
    def coverage(self) -> Coverage:
        """The state of every video, from the receipts."""
        return load_coverage(
            self.folder, self.spec, videos=self.store.videos, shard_videos=self.store.shard_videos
        )

    def pending(self) -> list[tuple[int, int]]:
        """Return the (shard, view) pairs with videos but no receipt, sorted, without opening a receipt."""
        size = self.store.shard_videos
        shards = set((np.flatnonzero(self.store.videos.exists) // size).tolist())
        complete = set(list_receipts(self.folder))
        return sorted({(shard, view) for shard in shards for view in range(self.views)} - complete)

    def reasons(self, shards: Collection[int]) -> dict[tuple[int, int], str]:
        """Return why videos of some shards failed, by (row, view); reads only these shards' receipts."""
        size = self.store.shard_videos
        coverage = load_coverage(
            self.folder,
            self.spec,
            videos=self.store.videos,
            shard_videos=size,
            names=("status",),
            shards=shards,
        )
        return {key: reason for key, reason in coverage.reasons.items() if key[0] // size in shards}

    def consolidated_failures(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return failed videos and whether the shard is known, (shards, views) each, from the index only."""
        coverage = load_coverage(
            self.folder,
            self.spec,
            videos=self.store.videos,
            shard_videos=self.store.shard_videos,
            names=("status",),
            reasons=False,
            shards=(),
        )
        starts = range(0, self.store.videos.rows, self.store.shard_videos)
        failed = np.add.reduceat(coverage.failed, starts, axis=0, dtype=np.int64)
        return failed, np.logical_or.reduceat(coverage.status != 0, starts, axis=0)

    @cached_property
    def ok(self) -> NDArray[np.bool_]:
        """(rows, views) bool: the video's maps of that view are complete in the store."""
        return self._known.ok

    @cached_property
    def _known(self) -> Coverage:
        """The columns that reading needs; all columns of 240,000 videos would take 150 MB."""
        return load_coverage(
            self.folder,
            self.spec,
            videos=self.store.videos,
            shard_videos=self.store.shard_videos,
            names=("status", "crc32c", "logits_crc32c"),
            reasons=False,
        )

    def read_maps(
        self, rows: ArrayLike, views: ArrayLike, clips: ArrayLike, out: NDArray[np.float16] | None = None
    ) -> NDArray[np.float16]:
        """Read clips in any order as float16, with checksums verified: the simple way to read maps.

        Args:
            rows, views, clips: (n,) integers, or scalars that apply to all.
            out: (n, l, h, w, c) float16, C order, to fill.

        Returns:
            (n, l, h, w, c) float16.

        Raises:
            StoreError: a clip is not in the store, or damaged.
        """
        if self.spec.dtype == "float16":
            return self.read_stored(rows, views, clips, out=out, check=True).values
        if out is not None and (out.dtype != np.float16 or not out.flags.c_contiguous):
            raise ValueError("out must be C-ordered float16")
        stored = self.read_stored(rows, views, clips, check=True)
        assert stored.scales is not None and stored.scale_of is not None
        maps = dequantise(stored.values, stored.scales[stored.scale_of])
        if out is None:
            return maps
        if out.shape != maps.shape:
            raise ValueError(f"out must be of shape {maps.shape}")
        out[...] = maps
        return out

    def read_stored(
        self,
        rows: ArrayLike,
        views: ArrayLike,
        clips: ArrayLike,
        *,
        out: NDArray[Any] | None = None,
        check: bool = False,
    ) -> StoredMaps:
        """Read clips in any order as they are stored, directly into one array: the way to feed a device.

        Several threads may read at once. On object storage, one call sends `remote.THREADS` requests in
        parallel.

        Args:
            rows, views, clips: (n,) integers, or scalars that apply to all.
            out: (n, l, h, w, c) of the stored dtype, C order, to fill; may be pinned memory.
            check: verify each clip's checksum (always done for compressed clips).

        Raises:
            StoreError: a clip is not in the store, or damaged, or its file is shorter than its receipt says.
        """
        request = self._request(rows, views, clips)
        keys, places = self.shard_files.in_file_order(request)
        shape = (len(keys), *self.map_shape)
        values = np.empty(shape, dtype=self.spec.dtype) if out is None else out
        if values.shape != shape or values.dtype != self.spec.dtype or not values.flags.c_contiguous:
            raise ValueError(f"out must be C-ordered {self.spec.dtype} of shape {shape}")
        remote = isinstance(self.folder, RemotePath)
        if remote:
            self.shard_files.open_together(keys)
        scales = scale_of = starts = expected = None
        if self.spec.dtype == "uint8":
            scales, scale_of = self.shard_files.read_scales(keys, places)
        if check or self.spec.codec != "none":
            expected = self._known.columns["crc32c"][request].tolist()
            if scales is not None and scale_of is not None:
                video_starts = [checksum(scale.data) for scale in scales]
                starts = [video_starts[i] for i in scale_of.tolist()]
        read = partial(
            self.shard_files.read, values.reshape(-1).view(np.uint8).data, expected, starts, request
        )
        if not remote:
            read(keys.tolist(), places.tolist())
            return StoredMaps(values, scales, scale_of)
        chunks = zip(np.array_split(keys, THREADS), np.array_split(places, THREADS), strict=True)
        with ThreadPoolExecutor(THREADS, thread_name_prefix="store") as pool:
            # The pool waits for all threads, also after an error: they write into the caller's memory.
            for future in [pool.submit(read, k.tolist(), p.tolist()) for k, p in chunks]:
                future.result()
        return StoredMaps(values, scales, scale_of)

    def read_logits(self, rows: ArrayLike, views: ArrayLike, clips: ArrayLike) -> NDArray[np.float32]:
        """Read clips' logits: (n, classes) float32, with each video's checksum verified.

        Raises:
            StoreError: the backbone had no classifier, or a clip is not in the store, or damaged.
        """
        rows_, views_, clips_ = self._request(rows, views, clips)
        if not self.num_classes:
            raise StoreError(
                f"{self.store.path} has no logits of {self.model}: its weights came without a classifier"
            )
        shards, within = rows_ // self.store.shard_videos, rows_ % self.store.shard_videos
        out = np.empty((len(rows_), self.num_classes), dtype=np.float32)
        shape = (self.store.shard_videos, self.clips, self.num_classes)
        expected = self._known.columns["logits_crc32c"][rows_, views_].tolist()
        for shard, view in sorted(set(zip(shards.tolist(), views_.tolist(), strict=True))):
            here = (shards == shard) & (views_ == view)
            path = self.folder / logits_key(shard, view)
            try:
                stored = read_floats(path, shape)
            except OSError as error:
                raise StoreError(
                    f"{path}: {error.strerror}, though its receipt is there; see: faster verify"
                ) from error
            for place in np.flatnonzero(here)[np.unique(within[here], return_index=True)[1]].tolist():
                if checksum(stored[within[place]].tobytes()) != expected[place]:
                    raise StoreError(
                        f"{path}: the scores of {self.store.videos.ids[rows_[place]]} are "
                        f"damaged; run: faster verify {self.store.path} --repair"
                    )
            out[here] = stored[within[here], clips_[here]]
        return out

    def close(self) -> None:
        """Close the shard files; the next read opens them again."""
        self.shard_files.close()

    def _request(self, rows: ArrayLike, views: ArrayLike, clips: ArrayLike) -> Request:
        asked = [np.asarray(a) for a in (rows, views, clips)]
        if any(a.size and a.dtype.kind not in "iu" for a in asked):
            raise ValueError(f"rows, views and clips are whole numbers, not {[str(a.dtype) for a in asked]}")
        shape = np.broadcast_shapes((1,), *(a.shape for a in asked))
        if len(shape) != 1:
            raise ValueError(f"rows, views and clips are lists, not of shape {shape}")
        r, v, c = (
            a if a.shape == shape else np.broadcast_to(a, shape)
            for a in (a.astype(np.int64, copy=False) for a in asked)
        )
        limits = (self.ok.shape[0], self.views, self.clips)
        for name, values, limit in zip(("video row", "view", "clip"), (r, v, c), limits, strict=True):
            if values.size and not 0 <= values.min() <= values.max() < limit:
                raise StoreError(
                    f"{name} {values.max()} asked of {limit} that {self.store.path} has of {self.model}"
                )
        known = self.ok[r, v]
        if not known.all():
            absent = np.flatnonzero(~known)
            row = int(r[absent[0]])
            raise StoreError(
                f"{self.store.path} has no maps of {self.model} for "
                f"{self.store.videos.ids[row] or f'row {row}'} "
                f"(and {absent.size - 1} more asked for); see: faster inspect {self.store.path}"
            )
        return r, v, c


def _ends(path: str) -> list[str]:
    """Return a path, the path without its first folder, and so on."""
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]
