"""Other ways to read the same clips: each takes a batch's places and fills one array a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorstore
import zarr
from faster import store as stores
from numpy.typing import NDArray

Batch = dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]  # model → rows, clips
Buffers = dict[str, NDArray[Any]]
Reader = Callable[[Batch, Buffers], None]


def preadv_reader(
    store: stores.Store, clip_frames: int, batches: list[Batch]
) -> Callable[[int, Buffers], None]:
    """Raw `preadv` of the same bytes, everything else prepared: the reference."""
    prepared = []
    for batch in batches:
        jobs = []
        for model, (rows, clips) in batch.items():
            features = store.features(model, clip_frames)
            size = features.spec.clip_bytes
            _ = features.read_stored(rows, 0, clips)
            for place, (row, clip) in enumerate(zip(rows.tolist(), clips.tolist(), strict=True)):
                file = features.shard_files.file(row // store.shard_videos, 0)
                offset = int(file.offsets[row % store.shard_videos * features.clips + clip])
                jobs.append((model, str(file.path), offset, place * size, size))
        prepared.append(sorted(jobs, key=lambda job: job[:3]))
    paths = {path for jobs in prepared for _, path, *_ in jobs}
    descriptors = {path: os.open(path, os.O_RDONLY) for path in paths}

    def read(turn: int, buffers: Buffers) -> None:
        memory = {model: values.reshape(-1).view(np.uint8).data for model, values in buffers.items()}
        for model, path, offset, place, size in prepared[turn % len(prepared)]:
            os.preadv(descriptors[path], [memory[model][place : place + size]], offset)

    return read


def mapped_copy_reader(
    store: stores.Store, clip_frames: int, batches: list[Batch]
) -> Callable[[int, Buffers], None]:
    """Copies from a memory map of the same bytes, everything else prepared."""
    maps: dict[Path, NDArray[np.uint8]] = {}
    prepared = []
    for batch in batches:
        jobs = []
        for model, (rows, clips) in batch.items():
            features = store.features(model, clip_frames)
            _ = features.read_stored(rows, 0, clips)
            for place, (row, clip) in enumerate(zip(rows.tolist(), clips.tolist(), strict=True)):
                file = features.shard_files.file(row // store.shard_videos, 0)
                source = maps.setdefault(file.path, np.memmap(file.path, dtype=np.uint8, mode="r"))
                offset = int(file.offsets[row % store.shard_videos * features.clips + clip])
                jobs.append((model, source, offset, place))
        prepared.append(sorted(jobs, key=lambda job: (job[0], job[2])))

    def read(turn: int, buffers: Buffers) -> None:
        flat = {model: values.reshape(len(values), -1).view(np.uint8) for model, values in buffers.items()}
        for model, source, offset, place in prepared[turn % len(prepared)]:
            target = flat[model][place]
            target[:] = source[offset : offset + len(target)]

    return read


def zarr_reader(folders: dict[str, Path]) -> Reader:
    """zarr-python's own sharded read, a clip at a time (fancy indexing takes gigabytes and is slower)."""
    arrays: dict[str, Any] = {
        model: zarr.open_array(folder / "maps", mode="r") for model, folder in folders.items()
    }

    def read(batch: Batch, buffers: Buffers) -> None:
        for model, (rows, clips) in batch.items():
            for place, (row, clip) in enumerate(zip(rows.tolist(), clips.tolist(), strict=True)):
                buffers[model][place] = arrays[model][row, 0, clip]

    return read


def tensorstore_reader(folders: dict[str, Path], *, threads: int) -> Reader:
    """tensorstore, all of a batch's reads in flight at once, with as many threads."""
    context = tensorstore.Context(
        {"file_io_concurrency": {"limit": threads}, "data_copy_concurrency": {"limit": threads}}
    )
    arrays = {
        model: tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / "maps")}},
            open=True,
            context=context,
        ).result()
        for model, folder in folders.items()
    }

    def read(batch: Batch, buffers: Buffers) -> None:
        waiting = []
        with tensorstore.Batch() as together:
            for model, (rows, clips) in batch.items():
                for place, (row, clip) in enumerate(zip(rows.tolist(), clips.tolist(), strict=True)):
                    waiting.append((buffers[model][place], arrays[model][row, 0, clip].read(batch=together)))
        for target, future in waiting:
            target[...] = future.result()

    return read


def write_hdf5(store: stores.Store, clip_frames: int, path: Path) -> None:
    """The same maps in HDF5, uncompressed, a chunk a clip."""
    with h5py.File(path, "w") as file:
        for model, _ in store.models:
            features = store.features(model, clip_frames)
            shape = (store.videos.rows, features.clips, *features.map_shape)
            data = file.create_dataset(model, shape=shape, dtype="f2", chunks=(1, 1, *features.map_shape))
            for row in range(store.videos.rows):
                data[row] = features.read_maps(row, 0, np.arange(features.clips))


def hdf5_reader(path: Path, *, direct_chunks: bool) -> Reader:
    """h5py: `read_direct` into the batch, or whole chunks past HDF5's own pipeline."""
    file = h5py.File(path, "r")

    def read(batch: Batch, buffers: Buffers) -> None:
        for model, (rows, clips) in batch.items():
            data = file[model]
            for place, (row, clip) in enumerate(zip(rows.tolist(), clips.tolist(), strict=True)):
                if direct_chunks:
                    data.id.read_direct_chunk(
                        (row, clip, 0, 0, 0, 0), out=buffers[model][place].view(np.uint8).reshape(-1)
                    )
                else:
                    data.read_direct(buffers[model], np.s_[row, clip], np.s_[place])

    return read


def write_lmdb(store: stores.Store, clip_frames: int, path: Path) -> None:
    """The same maps in LMDB, a key a clip."""
    import lmdb

    with lmdb.open(str(path), map_size=1 << 36, sync=False) as environment:
        for model, _ in store.models:
            features = store.features(model, clip_frames)
            for row in range(store.videos.rows):
                with environment.begin(write=True) as transaction:
                    for clip, values in enumerate(features.read_maps(row, 0, np.arange(features.clips))):
                        transaction.put(f"{model}/{row}/{clip}".encode(), values.data)


def lmdb_reader(path: Path) -> Reader:
    """LMDB: a copy from its memory map."""
    import lmdb

    environment = lmdb.open(str(path), readonly=True, lock=False)

    def read(batch: Batch, buffers: Buffers) -> None:
        with environment.begin(buffers=True) as transaction:
            for model, (rows, clips) in batch.items():
                flat = buffers[model].reshape(len(rows), -1)
                for place, (row, clip) in enumerate(zip(rows.tolist(), clips.tolist(), strict=True)):
                    data = transaction.get(f"{model}/{row}/{clip}".encode())
                    flat[place] = np.frombuffer(data, dtype=np.float16)

    return read
