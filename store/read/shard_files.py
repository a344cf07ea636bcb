"""The open shard files of one model's maps; reads clips from them as byte ranges."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError
from ..format.encoding import checksum, decompress
from ..format.schema import maps_key, scales_key
from ..format.shard_file import ShardFile
from ..format.spec import FeatureSpec
from ..io.s3 import THREADS
from .root import StoreRoot

Request = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""The requested rows, views and clips, (n,) each."""


class ShardFiles:
    """Reads clips from a model's shard files and keeps recent ones open; threads may read in parallel."""

    def __init__(self, store: StoreRoot, folder: Path, spec: FeatureSpec, *, mapped: bool) -> None:
        self.store = store
        self.folder = folder
        self.spec = spec
        self._mapped = mapped
        self._files: dict[tuple[int, int], ShardFile] = {}  # least recently used first
        self._lock = Lock()

    def close(self) -> None:
        """Close the files; the next read opens them again."""
        with self._lock:
            self._files.clear()

    def in_file_order(self, request: Request) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each clip's number in the order of the shard files, sorted, and its place in the request."""
        rows, views, clips = request
        shards, within = np.divmod(rows, self.store.shard_videos)
        keys = (
            (shards * self.spec.views + views) * self.store.shard_videos + within
        ) * self.spec.clips + clips
        places = np.argsort(keys, kind="stable")
        return keys[places], places

    def read(
        self,
        memory: memoryview,
        expected: list[int] | None,
        starts: list[int] | None,
        request: Request,
        keys: list[int],
        places: list[int],
    ) -> None:
        """Fill the clips' places in `memory`; the overhead is microseconds per clip."""
        size, file_clips = self.spec.clip_bytes, self.store.shard_videos * self.spec.clips
        compressed = self.spec.codec != "none"
        number, scratch = -1, memoryview(b"")
        for key, place in zip(keys, places, strict=True):
            if key // file_clips != number:
                number = key // file_clips
                file = self.file(*divmod(number, self.spec.views))
                offsets, sizes, read_into = file.offsets.data, file.sizes.data, file.read_into
            at = key % file_clips
            clip = memory[place * size : (place + 1) * size]
            if not (stored_size := sizes[at]):
                raise StoreError(
                    f"{file.path}: has no {self._name(place, request)}, though its receipt is there"
                )
            if compressed and stored_size > len(scratch):
                scratch = memoryview(bytearray(stored_size))
            stored = scratch[:stored_size] if compressed else clip
            read_into(stored, offsets[at])
            if expected is not None and checksum(stored, starts[place] if starts else 0) != expected[place]:
                raise StoreError(
                    f"{file.path}: {self._name(place, request)} is damaged; "
                    f"run: faster verify {self.store.path} --repair"
                )
            if compressed:
                decompress(stored, clip)

    def read_scales(
        self, keys: NDArray[np.int64], places: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the scales of the requested videos, and each place's index into them."""
        videos = keys // self.spec.clips
        first = _changes(videos)
        scale_of = np.empty(len(keys), dtype=np.int64)
        scale_of[places] = np.cumsum(first) - 1
        numbers, within = np.divmod(videos[first], self.store.shard_videos)
        scales = np.empty((len(within), self.spec.map_shape[3]), dtype="<f4")
        for start, end in pairwise([*np.flatnonzero(_changes(numbers)).tolist(), len(numbers)]):
            file = self.file(*divmod(int(numbers[start]), self.spec.views))
            assert file.scales is not None
            # The places are in range; mode "clip" avoids the safety copy that `take` makes.
            np.take(file.scales, within[start:end], axis=0, out=scales[start:end], mode="clip")
        return scales, scale_of

    def file(self, shard: int, view: int) -> ShardFile:
        """Return the open file of a shard and view."""
        with self._lock:
            file = self._files.pop((shard, view), None) or self._open(shard, view)
            return self._keep(shard, view, file)

    def _open(self, shard: int, view: int) -> ShardFile:
        return ShardFile(
            self.folder / maps_key(shard, view),
            self.spec,
            self.store.shard_videos,
            scales=self.folder / scales_key(shard, view),
            mapped=self._mapped,
        )

    def _keep(self, shard: int, view: int, file: ShardFile) -> ShardFile:
        if len(self._files) >= _open_files_max():
            # Closed with its last reference, because a read may be in progress.
            del self._files[next(iter(self._files))]
        self._files[shard, view] = file
        return file

    def open_together(self, keys: NDArray[np.int64]) -> None:
        """Open several shards in parallel: on object storage each one takes a round trip."""
        numbers = np.unique(keys // (self.store.shard_videos * self.spec.clips)).tolist()
        wanted = [divmod(number, self.spec.views) for number in numbers]
        missing = [key for key in wanted if key not in self._files][: _open_files_max()]
        with ThreadPoolExecutor(THREADS) as pool:
            for key, file in zip(missing, pool.map(lambda key: self._open(*key), missing), strict=True):
                with self._lock:
                    self._keep(key[0], key[1], file)

    def _name(self, place: int, request: Request) -> str:
        row, view, clip = (int(values[place]) for values in request)
        return f"clip {clip} of {self.store.videos.ids[row]}" + (f", view {view}" if view else "")


@cache
def _open_files_max() -> int:
    """Return how many shards of one model may be open: a small share of the process's limit on open files."""
    return max(16, min(512, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))


def _changes(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return True where a value differs from the previous one, and for the first value."""
    changes = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes
