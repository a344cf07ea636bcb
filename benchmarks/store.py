"""How fast the store reads and writes, as ratios to what the machine does itself and to other ways, in one run.

python benchmarks/store.py            all of it: about 10 GB of disk and page cache
python benchmarks/store.py --quick    a tenth of the data

The workload: 128 videos × 32 clips × 2 models of 1×7×7×2048 maps after a ReLU (`store_maps.py` says how they are made),
batches of 32 random videos with 8 random clips each at pattern 1:7, page cache warm. Prints tables, and one JSON line.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import zarr
from faster import store as stores
from faster.store.format.encoding import decompress
from pairs import Ratio, ratio, time_turns
from store_maps import (
    CLIP_FRAMES,
    MAP_SHAPE,
    MODELS,
    begin_store,
    make_spec,
    make_store,
    post_relu_maps,
    write_shard,
)
from store_rivals import (
    Batch,
    Buffers,
    Reader,
    hdf5_reader,
    lmdb_reader,
    mapped_copy_reader,
    preadv_reader,
    tensorstore_reader,
    write_hdf5,
    write_lmdb,
    zarr_reader,
)
from store_scale import measure_scale
from tqdm import tqdm

BATCH_VIDEOS, BATCH_CLIPS, EXPENSIVE = 32, 8, 1
BATCHES = 31  # different ones, so that none is still in the processor's caches when its turn comes again
GIGABYTE = 1e9

# What takes turns with what: (contender, reference, the ratio to reach), under one heading each.
COMPARED: dict[str, list[tuple[str, str, float | None]]] = {
    "one thread": [
        ("float16", "preadv", 0.90),
        ("float16, checked", "preadv", 0.7),
        ("uint8", "float16", 1.7),
    ],
    "two threads": [("float16, 2 threads", "preadv, 2 threads", 0.90)],
    "memory mapped": [
        ("float16, mapped", "mapped copy", 0.9),
        ("float16, mapped and checked", "mapped copy", None),
        ("float16, mapped", "lmdb", None),
    ],
    "other libraries": [
        ("float16", "tensorstore", 1.5),
        ("float16", "zarr-python", 4.0),
        ("float16", "h5py", 1.2),
        ("float16", "h5py, direct chunks", 1.2),
        ("float16", "lmdb", None),
    ],
    "other libraries, two threads": [("float16, 2 threads", "tensorstore, 2 threads", 1.5)],
    "compressed": [
        ("float16 zstd", "codec alone", 0.9),
        ("float16 zstd", "tensorstore zstd", 1.0),
        ("uint8 zstd", "float16 zstd", None),
    ],
    "compressed, two threads": [
        ("float16 zstd, 2 threads", "codec alone, 2 threads", None),
        ("float16 zstd, 2 threads", "tensorstore zstd, 2 threads", None),
        ("float16 zstd, 2 threads", "float16 zstd", None),
    ],
}
TWO = ", 2 threads"  # what is named so reads two batches at once
TWO_NAMES = {name for pairs in COMPARED.values() for pair in pairs for name in pair[:2] if name.endswith(TWO)}


def draw_batches(count: int, videos: int, clips: int) -> list[Batch]:
    """Random videos and clips; the first clip of eight is the expensive model's."""
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(count):
        rows = rng.choice(videos, BATCH_VIDEOS, replace=videos < BATCH_VIDEOS)
        chosen = np.stack([np.sort(rng.choice(clips, BATCH_CLIPS, replace=False)) for _ in rows])
        batch = {}
        for model, part in zip(MODELS, (chosen[:, :EXPENSIVE], chosen[:, EXPENSIVE:]), strict=True):
            batch[model] = (np.repeat(rows, part.shape[1]).astype(np.int64), part.reshape(-1))
        batches.append(batch)
    return batches


def ours(store: stores.Store, *, check: bool = False) -> Reader:
    """The product's reader."""
    features = {model: store.features(model, CLIP_FRAMES) for model in MODELS}

    def read(batch: Batch, buffers: Buffers) -> None:
        for model, (rows, clips) in batch.items():
            features[model].read_stored(rows, 0, clips, out=buffers[model], check=check)

    return read


def codec_alone(store: stores.Store, batches: list[Batch]) -> Callable[[int, Buffers], None]:
    """Decompression of the same clips from memory, everything else prepared."""
    prepared = []
    for batch in batches:
        jobs = []
        for model, (rows, clips) in batch.items():
            features = store.features(model, CLIP_FRAMES)
            _ = features.read_stored(rows, 0, clips)
            for place, (row, clip) in enumerate(zip(rows.tolist(), clips.tolist(), strict=True)):
                file, at = (
                    features.shard_files.file(row // store.shard_videos, 0),
                    row % store.shard_videos * features.clips + clip,
                )
                data = memoryview(bytearray(int(file.sizes[at])))
                file.read_into(data, int(file.offsets[at]))
                jobs.append((model, data, place))
        prepared.append(jobs)

    def read(turn: int, buffers: Buffers) -> None:
        for model, data, place in prepared[turn % len(prepared)]:
            decompress(data, buffers[model][place].reshape(-1).view(np.uint8).data)

    return read


def measure_reads(root: Path, *, videos: int, clips: int, turns: int) -> dict[str, Any]:
    """Every way to read the same batches, in turns."""
    shard_videos, made = 16, {}
    kinds = [("float16", "none"), ("uint8", "none"), ("float16", "zstd"), ("uint8", "zstd")]
    for dtype, codec in tqdm(kinds, desc="stores", unit="store"):
        path = root / f"{dtype}-{codec}.zarr"
        made[dtype, codec] = make_store(
            path, videos=videos, clips=clips, shard_videos=shard_videos, dtype=dtype, codec=codec
        )
    plain, small, packed = made["float16", "none"], made["uint8", "none"], made["float16", "zstd"]
    write_hdf5(plain, CLIP_FRAMES, root / "maps.h5")
    write_lmdb(plain, CLIP_FRAMES, root / "maps.lmdb")
    batches = draw_batches(BATCHES, videos, clips)
    counts = {MODELS[0]: BATCH_VIDEOS * EXPENSIVE, MODELS[1]: BATCH_VIDEOS * (BATCH_CLIPS - EXPENSIVE)}
    pin = torch.cuda.is_available()
    tensors = {
        dtype: {m: torch.empty((n, *MAP_SHAPE), dtype=dtype, pin_memory=pin) for m, n in counts.items()}
        for dtype in (torch.float16, torch.uint8)
    }
    half, bytes_ = ({m: t.numpy() for m, t in tensors[d].items()} for d in (torch.float16, torch.uint8))
    folders = {
        kind: {m: store.features(m, CLIP_FRAMES).folder for m in MODELS} for kind, store in made.items()
    }
    mapped = stores.open(plain.path, mapped=True)
    readers: dict[str, tuple[Reader, Buffers]] = {
        "float16": (ours(plain), half),
        "float16, checked": (ours(plain, check=True), half),
        "float16, mapped": (ours(mapped), half),
        "float16, mapped and checked": (ours(mapped, check=True), half),
        "uint8": (ours(small), bytes_),
        "float16 zstd": (ours(packed), half),
        "uint8 zstd": (ours(made["uint8", "zstd"]), bytes_),
        "tensorstore": (tensorstore_reader(folders["float16", "none"], threads=1), half),
        "tensorstore, 2 threads": (tensorstore_reader(folders["float16", "none"], threads=2), half),
        "tensorstore zstd": (tensorstore_reader(folders["float16", "zstd"], threads=1), half),
        "tensorstore zstd, 2 threads": (tensorstore_reader(folders["float16", "zstd"], threads=2), half),
        "zarr-python": (zarr_reader(folders["float16", "none"]), half),
        "h5py": (hdf5_reader(root / "maps.h5", direct_chunks=False), half),
        "h5py, direct chunks": (hdf5_reader(root / "maps.h5", direct_chunks=True), half),
        "lmdb": (lmdb_reader(root / "maps.lmdb"), half),
    }
    raw = {
        "preadv": (preadv_reader(plain, CLIP_FRAMES, batches), half),
        "mapped copy": (mapped_copy_reader(plain, CLIP_FRAMES, batches), half),
        "codec alone": (codec_alone(packed, batches), half),
    }
    _require_equal(batches[0], readers, raw, made)

    def by_number(read: Reader) -> Callable[[int, Buffers], None]:
        return lambda number, buffers: read(batches[number % BATCHES], buffers)

    numbered = {name: (by_number(read), buffers) for name, (read, buffers) in readers.items()} | raw
    calls: dict[str, Callable[[int], object]] = {
        name: lambda number, r=read, b=buffers: r(number, b) for name, (read, buffers) in numbered.items()
    }
    other = {m: torch.empty_like(t, pin_memory=pin).numpy() for m, t in tensors[torch.float16].items()}
    pool = ThreadPoolExecutor(2)

    def at_once(name: str) -> Callable[[int], object]:
        """Two batches, each by a thread of its own, as the loader reads ahead."""
        alone = name.removesuffix(TWO)
        read = numbered[name if name in numbered else alone][0]
        return lambda number: list(pool.map(read, (2 * number, 2 * number + 1), (half, other)))

    calls |= {name: at_once(name) for name in TWO_NAMES}
    size = sum(counts.values()) * int(np.prod(MAP_SHAPE)) * 2
    print(f"\none batch: {sum(counts.values())} clips, {size / 1e6:.1f} MB as float16; {turns} turns")
    results: dict[str, tuple[Ratio, float | None]] = {}
    speeds: dict[str, float] = {}
    for title, pairs in COMPARED.items():
        # What is compared takes turns; what is not stays out, for it would only cool the caches.
        names = dict.fromkeys(name for pair in pairs for name in pair[:2])
        seconds = time_turns({name: calls[name] for name in names}, turns=turns, warm_ups=BATCHES)
        for a, b, reach in pairs:
            work = 2.0 if a.endswith(TWO) and not b.endswith(TWO) else 1.0
            results[f"{a} / {b}"] = ratio(seconds, a, b, work=work), reach
        print(f"\n{title}")
        for name, each in seconds.items():
            read = size * (2 if name.endswith(TWO) else 1)
            speeds[f"{title}: {name}"] = read / float(np.median(each)) / GIGABYTE
            print(f"  {name:32}{read / np.median(each) / GIGABYTE:7.2f} GB/s of float16")
        _print_ratios({name: results[name] for name in (f"{a} / {b}" for a, b, _ in pairs)})
    zeros = float(np.mean([(post_relu_maps(row, m, 2) == 0).mean() for row in range(8) for m in MODELS]))
    sizes = {f"{dtype} {codec}": _stored_bytes(store) for (dtype, codec), store in made.items()}
    print(f"share of zeros {zeros:.2f}; size against plain float16:", end=" ")
    print(", ".join(f"{name} ×{sizes['float16 none'] / n:.2f} smaller" for name, n in sizes.items()))
    return {
        **{name: value.median for name, (value, _) in results.items()},
        "share of zeros": zeros,
        "sizes": sizes,
        "GB/s": speeds,
    }


def measure_writes(root: Path, *, clips: int, turns: int) -> dict[str, Any]:
    """One shard of 16 videos, durable when the call returns: ours, raw `write` and `fsync`, zarr-python and fsync."""
    shard_videos = 16
    spec = make_spec(MODELS[0], clips=clips)
    maps = [post_relu_maps(row, MODELS[0], clips) for row in range(shard_videos)]
    path = root / "written.zarr"
    specs = [spec, make_spec(MODELS[1], clips=clips)]
    manifest = begin_store(path, specs, videos=shard_videos * (turns + 2), shard_videos=shard_videos)
    shape = (shard_videos * (turns + 2), 1, clips, *MAP_SHAPE)
    by_zarr = zarr.create_array(
        str(root / "zarr-python.zarr"),
        shape=shape,
        dtype="float16",
        shards=(shard_videos, 1, clips, *MAP_SHAPE),
        chunks=(1, 1, 1, *MAP_SHAPE),
        compressors=None,
        filters=None,
    )
    stacked = np.stack(maps)[:, None]

    own_shards, zarr_shards = count(), count()

    def raw(number: int) -> None:
        with (root / f"raw{number}").open("wb", buffering=0) as file:
            for values in maps:
                file.write(values.data.cast("B"))
            os.fsync(file.fileno())

    def own(number: int) -> None:
        write_shard(path, spec, manifest, next(own_shards), shard_videos, maps)

    def zarr_python(number: int) -> None:
        shard = next(zarr_shards)
        by_zarr[shard * shard_videos : (shard + 1) * shard_videos] = stacked
        with (root / f"zarr-python.zarr/c/{shard}/0/0/0/0/0/0").open("rb") as file:
            os.fsync(file.fileno())

    seconds = time_turns({"raw": raw, "ours": own, "zarr-python": zarr_python}, turns=turns)
    size = sum(values.nbytes for values in maps)
    print(f"\none shard written and fsynced: {size / 1e6:.0f} MB; {turns} turns")
    for name, each in seconds.items():
        print(f"{name:32}{size / np.median(each) / GIGABYTE:7.2f} GB/s")
    results = {
        "write / raw write and fsync": (ratio(seconds, "ours", "raw"), 0.9),
        "write / zarr-python and fsync": (ratio(seconds, "ours", "zarr-python"), 1.8),
    }
    _print_ratios(results)
    return {name: r.median for name, (r, _) in results.items()}


def _print_ratios(results: dict[str, tuple[Ratio, float | None]]) -> None:
    for name, (value, reach) in results.items():
        verdict = "" if reach is None else f"  reach {reach:.2f}: {'yes' if value.median >= reach else 'NO'}"
        print(f"  {name:56}{value}{verdict}")


def _require_equal(
    batch: Batch, readers: dict[str, Any], raw: dict[str, Any], made: dict[Any, stores.Store]
) -> None:
    """Every way must give the same values, or its time means nothing."""
    expected = {
        m: made["float16", "none"].features(m, CLIP_FRAMES).read_maps(rows, 0, clips)
        for m, (rows, clips) in batch.items()
    }
    for name, (read, buffers) in {**readers, **raw}.items():
        for values in buffers.values():
            values.fill(0)
        read(0 if name in raw else batch, buffers)
        for model, values in buffers.items():
            if values.dtype == np.float16 and not np.array_equal(values, expected[model]):
                sys.exit(f"{name} reads other values of {model}")
            if values.dtype == np.uint8 and not values.any():
                sys.exit(f"{name} reads nothing of {model}")


def _stored_bytes(store: stores.Store) -> int:
    files = [
        f for m in MODELS for f in store.features(m, CLIP_FRAMES).folder.rglob("*/c/**/*") if f.is_file()
    ]
    return sum(f.stat().st_size for f in files if "index" not in f.parts)


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of the data: does it run?")
@click.option("--turns", default=15, show_default=True, help="Timed turns; the medians are over these.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Where the stores are made; a temporary folder by default.",
)
@click.option("--only", type=click.Choice(["reads", "writes", "scale"]), help="One part only.")
def main(quick: bool, turns: int, folder: Path | None, only: str | None) -> None:
    """Measure the store; see the top of this file."""
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="store-benchmark-", dir=folder))
    videos, clips = (32, 8) if quick else (128, 32)
    figures: dict[str, Any] = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "turns": turns,
    }
    try:
        if only in (None, "reads"):
            figures |= measure_reads(root, videos=videos, clips=clips, turns=turns)
        if only in (None, "writes"):
            figures |= measure_writes(root, clips=clips, turns=turns)
        if only in (None, "scale"):
            figures |= measure_scale(root, videos=24_000 if quick else 240_000)
    finally:
        shutil.rmtree(root)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
