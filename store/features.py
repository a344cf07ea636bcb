"""One model's maps and logits in a store: random batches of clips as byte ranges, past any chunk pipeline."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, cached_property
from itertools import pairwise, repeat
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import StoreError
from .attributes import read_group_attributes, read_spec
from .coverage import Coverage, load_coverage
from .encoding import checksum, decompress, dequantise
from .files import read_regular
from .manifest import SEGMENT_BYTES_MAX
from .remote import THREADS, RemotePath
from .schema import logits_key, maps_key, scales_key
from .sealed import unseal
from .shard_file import ShardFile

if TYPE_CHECKING:
    from .reader import Store

Request = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
# A clip to read: its shard, where its stored bytes lie, and its place in the batch.
Job = tuple[ShardFile, int, int, int]


class StoredMaps(NamedTuple):
    """Clips as they are stored; float16 maps need no scales, of uint8 x = values · scales[scale_of].

    values    (n, l, h, w, c) float16 or uint8
    scales    (videos, c) float32, of each video that the clips are of; None for float16
    scale_of  (n,) int64, each clip's row of `scales`; None for float16
    """

    values: NDArray[Any]
    scales: NDArray[np.float32] | None
    scale_of: NDArray[np.int64] | None


class Features:
    """The maps and logits of one model at one clip length.

    Attributes:
        spec: everything that decided the maps' bytes.
        provenance: what else was recorded: GFLOPs a clip, versions, where the weights came from.
    """

    def __init__(self, store: Store, folder: Path, *, mapped: bool = False) -> None:
        self.store = store
        self.folder = folder
        self._mapped = mapped
        attributes = read_group_attributes(folder)
        self.spec = read_spec(folder)
        self.provenance: Mapping[str, Any] = attributes.get("recorded", {})
        self._files: dict[tuple[int, int], ShardFile] = {}  # the longest unused one first
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None

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
        """Ids of the videos that the weights' training saw."""
        file = self.folder / "trained_on.json"
        try:
            ids = unseal(read_regular(file, size_max=SEGMENT_BYTES_MAX), name=str(file)).get("ids")
        except OSError as error:
            raise StoreError(
                f"{file}: {error.strerror}; without it nobody knows which videos the weights saw"
            ) from error
        if not isinstance(ids, list) or not {str}.issuperset(map(type, ids)):
            raise StoreError(f"{file}: not a list of videos' ids")
        return frozenset(ids)

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
            self.folder, self.spec, videos=self.store.videos, shard_videos=self.store.shard_videos
        )

    @cached_property
    def ok(self) -> NDArray[np.bool_]:
        """(rows, views) bool: the video's maps of that view are in the store, whole."""
        return self._known.ok

    @cached_property
    def _known(self) -> Coverage:
        """What reading needs: of 240,000 videos all columns would take 150 MB."""
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
        """Read clips in any order as float16, each checked against its checksum; the plain way to look at maps.

        Args:
            rows, views, clips: (n,) integers, or scalars that hold for all.
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
        threads: int = 1,
    ) -> StoredMaps:
        """Read clips in any order as they are stored, straight into one array: the way to feed a device.

        Args:
            rows, views, clips: (n,) integers, or scalars that hold for all.
            out: (n, l, h, w, c) of the stored dtype, C order, to fill; pinned memory will do.
            check: compare each clip with its checksum (always done for compressed ones).
            threads: that read at once, on object storage at least `remote.THREADS`; several calls may be under way at once, too.

        Raises:
            StoreError: a clip is not in the store, or damaged, or its file is shorter than its receipt says.
        """
        request = rows_, views_, _ = self._request(rows, views, clips)
        shape = (len(rows_), *self.map_shape)
        values = np.empty(shape, dtype=self.spec.dtype) if out is None else out
        if values.shape != shape or values.dtype != self.spec.dtype or not values.flags.c_contiguous:
            raise ValueError(f"out must be C-ordered {self.spec.dtype} of shape {shape}")
        if isinstance(self.folder, RemotePath):
            threads = max(threads, THREADS)
            self._open_together(rows_, views_, threads)
        scales = scale_of = None
        starts: list[int] = [0] * len(rows_)
        check = check or self.spec.codec != "none"
        if self.spec.dtype == "uint8":
            scales, scale_of = self._read_scales(rows_, views_)
            if check:
                video_starts = [checksum(scale.data) for scale in scales]
                starts = [video_starts[i] for i in scale_of.tolist()]
        expected = self._known.columns["crc32c"][request].tolist() if check else None
        memory = values.reshape(-1).view(np.uint8).data
        for jobs in self._jobs(*request):
            if threads == 1:
                self._read(jobs, memory, starts, expected, request)
                continue
            if self._pool is None:
                self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
            parts = [jobs[i * len(jobs) // threads : (i + 1) * len(jobs) // threads] for i in range(threads)]
            others = [
                self._pool.submit(self._read, part, memory, starts, expected, request) for part in parts[1:]
            ]
            try:
                self._read(parts[0], memory, starts, expected, request)
            finally:
                wait(others)  # they write into the caller's memory
            for other in others:
                other.result()
        return StoredMaps(values, scales, scale_of)

    def read_logits(self, rows: ArrayLike, views: ArrayLike, clips: ArrayLike) -> NDArray[np.float32]:
        """Read clips' logits: (n, classes) float32, each video's checked against its checksum.

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
            data = _read_file(self.folder / logits_key(shard, view), 4 * int(np.prod(shape)))
            stored = np.frombuffer(data, dtype="<f4").reshape(shape)
            for place in np.flatnonzero(here)[np.unique(within[here], return_index=True)[1]].tolist():
                if checksum(stored[within[place]].tobytes()) != expected[place]:
                    raise StoreError(
                        f"{self.folder / logits_key(shard, view)}: the scores of {self.store.videos.ids[rows_[place]]} are "
                        f"damaged; run: faster verify {self.store.path} --repair"
                    )
            out[here] = stored[within[here], clips_[here]]
        return out

    def close(self) -> None:
        """Let go of the shard files; the next read opens them again."""
        with self._lock:
            self._files.clear()

    def _jobs(
        self, rows: NDArray[np.int64], views: NDArray[np.int64], clips: NDArray[np.int64]
    ) -> Iterator[list[Job]]:
        """The clips in the files' order, in lists that need no more files at once than may be open."""
        shards, within = np.divmod(rows, self.store.shard_videos)
        files = shards * self.views + views
        order = np.lexsort((clips, within, files))
        in_order = files[order]
        ends = [*(np.flatnonzero(in_order[1:] != in_order[:-1]) + 1).tolist(), len(order)]
        most = _open_files_max()
        jobs: list[Job] = []
        for count, (start, end) in enumerate(pairwise([0, *ends]) if len(order) else (), 1):
            piece = order[start:end]
            file = self._file(*divmod(int(in_order[start]), self.views))
            at = within[piece], clips[piece]
            jobs += zip(repeat(file), file.offsets[at].tolist(), file.sizes[at].tolist(), piece.tolist())
            if count % most == 0:
                yield jobs
                jobs = []
        yield jobs

    def _read(
        self,
        jobs: list[Job],
        memory: memoryview,
        starts: list[int],
        expected: list[int] | None,
        request: Request,
    ) -> None:
        size = self.spec.clip_bytes
        compressed = self.spec.codec != "none"
        scratch = memoryview(bytearray(max((job[2] for job in jobs), default=0) if compressed else 0))
        for file, offset, stored_size, place in jobs:
            clip = memory[place * size : (place + 1) * size]
            stored = scratch[:stored_size] if compressed else clip
            if not stored_size:
                raise StoreError(
                    f"{file.path}: has no {self._name(place, request)}, though its receipt is there"
                )
            file.read_into(stored, offset)
            if expected is not None and checksum(stored, starts[place]) != expected[place]:
                raise StoreError(
                    f"{file.path}: {self._name(place, request)} is damaged; run: faster verify {self.store.path} --repair"
                )
            if compressed:
                decompress(stored, clip)

    def _name(self, place: int, request: Request) -> str:
        row, view, clip = (int(values[place]) for values in request)
        return f"clip {clip} of {self.store.videos.ids[row]}" + (f", view {view}" if view else "")

    def _read_scales(
        self, rows: NDArray[np.int64], views: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        videos, scale_of = np.unique(rows * self.views + views, return_inverse=True)
        scales = np.empty((len(videos), self.map_shape[3]), dtype="<f4")
        memory, size = scales.reshape(-1).view(np.uint8).data, scales[:1].nbytes
        for i, video in enumerate(videos.tolist()):
            shard, within = divmod(video // self.views, self.store.shard_videos)
            self._file(shard, video % self.views).read_scale(memory[i * size : (i + 1) * size], within)
        return scales, scale_of

    def _request(
        self, rows: ArrayLike, views: ArrayLike, clips: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        asked = [np.atleast_1d(np.asarray(a)) for a in (rows, views, clips)]
        if any(a.size and a.dtype.kind not in "iu" for a in asked):
            raise ValueError(f"rows, views and clips are whole numbers, not {[str(a.dtype) for a in asked]}")
        r, v, c = (a.astype(np.int64) for a in asked)
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

    def _file(self, shard: int, view: int) -> ShardFile:
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
            del self._files[
                next(iter(self._files))
            ]  # closed with its last reference: a read may be under way
        self._files[shard, view] = file
        return file

    def _open_together(self, rows: NDArray[np.int64], views: NDArray[np.int64], threads: int) -> None:
        """Open the shards that are wanted at once: on object storage each takes a way there and back."""
        keys = dict.fromkeys(zip((rows // self.store.shard_videos).tolist(), views.tolist(), strict=True))
        missing = [key for key in keys if key not in self._files][: _open_files_max()]
        with ThreadPoolExecutor(threads) as pool:
            for key, file in zip(missing, pool.map(lambda key: self._open(*key), missing), strict=True):
                with self._lock:
                    self._keep(*key, file)


@cache
def _open_files_max() -> int:
    """Shards of one model that may be open: a small share of what the system lets this process open."""
    return max(16, min(512, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))


def _ends(path: str) -> list[str]:
    """A path, and the path without its first folder, and so on."""
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _read_file(path: Path, size_bytes: int) -> bytes:
    try:
        data = read_regular(path, size_max=size_bytes)
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror}, though its receipt is there; see: faster verify"
        ) from error
    if len(data) != size_bytes:
        raise StoreError(f"{path}: {len(data)} bytes, expected {size_bytes}")
    return data
