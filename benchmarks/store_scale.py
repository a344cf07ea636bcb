"""A store of Kinetics' size, of sparse files: how long until the first batch, and how much memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from faster.store.format.encoding import checksum
from faster.store.format.schema import maps_key
from faster.store.format.shard_file import ABSENT, index_bytes
from faster.store.read.coverage import empty_coverage, save_coverage
from store_maps import MODELS, begin_store, make_spec
from tqdm import tqdm

SHARD_VIDEOS, CLIPS = 16, 32

# A process of its own: what counts is a whole start, imports included.
FIRST_BATCH = """
import json, os, sys, time
began = time.perf_counter()
def peak_mb():  # not getrusage, which starts from the parent's peak
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
import numpy as np
from faster import store as stores
store = stores.open(sys.argv[1])
rng = np.random.default_rng(0)
models = [store.features("r2plus1d50", 8), store.features("r2d26", 8)]
def batch():
    train = np.flatnonzero(store.videos.split("kinetics") == 1)
    rows = rng.choice(train, 32, replace=False)
    for features, clips in zip(models, (1, 7)):
        features.read_stored(np.repeat(rows, clips), 0, rng.integers(0, 32, 32 * clips), check=True)
batch()
seconds = time.perf_counter() - began
first = peak_mb()
for _ in range(30):
    batch()
print(json.dumps({
    "seconds": seconds,
    "first_batch_mb": first,
    "after_30_batches_mb": peak_mb(),
    "open_files": len(os.listdir("/proc/self/fd")),
}))
"""


def make_sparse_store(path: Path, *, videos: int) -> None:
    """Whole by its receipts' names and index arrays; the clips are holes in sparse files, and read as zeros."""
    specs = [make_spec(model, clips=CLIPS) for model in MODELS]
    manifest = begin_store(path, specs, videos=videos, shard_videos=SHARD_VIDEOS)
    shards = -(-videos // SHARD_VIDEOS)
    size = specs[0].clip_stride_bytes
    for spec in specs:
        offsets = np.arange(SHARD_VIDEOS * CLIPS, dtype=np.uint64).reshape(SHARD_VIDEOS, CLIPS) * np.uint64(
            size
        )
        index = np.stack([offsets, np.full_like(offsets, spec.clip_bytes)], axis=-1)
        (path / spec.folder / "receipts").mkdir()
        for shard in tqdm(range(shards), desc=spec.model, unit="shard"):
            here = index.copy()
            here[videos - shard * SHARD_VIDEOS :] = ABSENT
            file = path / spec.folder / maps_key(shard, 0)
            file.parent.mkdir(parents=True)
            with file.open("wb") as data:
                data.seek(SHARD_VIDEOS * CLIPS * size)
                data.write(index_bytes(here))
            (
                path / spec.folder / f"receipts/{shard:06d}.v0.json"
            ).touch()  # by the index arrays no reader opens it
        coverage = empty_coverage(spec, manifest.rows)
        coverage.columns["status"][:] = 1
        coverage.columns["crc32c"][:] = checksum(bytes(spec.clip_bytes))
        save_coverage(path / spec.folder, coverage, manifest)


def measure_scale(root: Path, *, videos: int) -> dict[str, Any]:
    """Seconds and memory of a first batch from a store of 1,000 videos and of many."""
    results = {}
    for count in (1000, videos):
        path = root / f"{count}.zarr"
        make_sparse_store(path, videos=count)
        runs = []
        for _ in range(5):
            output = subprocess.run(
                [sys.executable, "-c", FIRST_BATCH, str(path)], check=True, capture_output=True, text=True
            ).stdout
            runs.append(json.loads(output))
        middle = sorted(runs, key=lambda run: run["seconds"])[2]
        results[count] = middle
        print(
            f"first batch from {count:,} videos, {-(-count // SHARD_VIDEOS):,} shards a model: {middle['seconds']:.2f} s, "
            f"{middle['first_batch_mb']:.0f} MB; after 30 batches {middle['after_30_batches_mb']:.0f} MB, "
            f"{middle['open_files']} files open"
        )
    return {f"first batch from {count} videos": result for count, result in results.items()}
