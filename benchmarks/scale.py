"""Extractions of 240,000 and 1,000,000 videos on paper: start-up, status, restart, metadata operations, overhead.

python benchmarks/scale.py                     about half an hour, 12 GB of disk
python benchmarks/scale.py --videos 24000      one size of your own
python benchmarks/scale.py --only shard        what a shard costs: metadata operations and overhead, no large store

The source is a folder of empty files; the store has receipts as long as real ones and maps of holes, in shards of 16
videos, for two networks so small that loading them does not count. Every start is a process of its own, imports
included. Prints tables, and one JSON line.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from faster import store as stores
from faster.extract.jobs.tasks import TaskShare
from faster.store.format.checksummed_json import encode_checksummed
from faster.store.format.receipts import ClipFacts, Receipt, StoredObject, VideoEntry, receipt_path
from faster.store.format.schema import ids_digest, maps_key
from scale_shard import measure_overhead, measure_syscalls, print_budget
from tqdm import tqdm

MODELS = ("r2plus1d14-w4", "r2d14-w4")
CLIPS, CLASSES, TASKS = 32, 400, 64
FAILED_SHARE = 0.02  # of the videos
LONG_AGO = 1_700_000_000  # when receipts were put: not just before the index is written

COMMON = """
import json, sys, time
began = time.perf_counter()
def peak_mb():  # not getrusage, which starts from the parent's peak
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
def finish(**more):
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_mb": peak_mb(), **more}))
"""

# `faster extract` until its first shard would begin, or all is found whole.
START = """
from faster.extract import run
imported, parts = time.perf_counter() - began, {}
def timed(name):
    inner = getattr(run, name)
    def outer(*values, **named):
        before = time.perf_counter()
        result = inner(*values, **named)
        parts[name.strip("_")] = time.perf_counter() - before
        return result
    setattr(run, name, outer)
for name in ("_source", "load_networks", "_declare", "plan"):
    timed(name)
class Begun(Exception): pass
def begun(specs, tasks):
    raise Begun(len(tasks))
run.count_decodes = begun
run.shard_videos_for = lambda *_: 16  # as for full-size maps
store, source, task, *models = sys.argv[1:]
config = run.ExtractConfig(source=source, models=tuple(models), store=store, task=task or None, allow_random=True)
try:
    run.extract(config, progress=False)
except Begun as found:
    finish(imports=imported, shards=found.args[0], **parts)
"""

STATUS = """
from faster.extract.jobs.status import Watch
watch = Watch(sys.argv[1])
found = watch.look()
first = time.perf_counter() - began
watch.look()
finish(first=first, whole=sum(m.whole for m in found.models), failed=sum(m.videos_failed for m in found.models))
"""

FINALISE = """
from faster import store as stores
store = stores.open(sys.argv[1])
stores.finalise(store)
finish()
"""


def run_child(script: str, *arguments: str) -> dict[str, float]:
    """Run a script in a process of its own; what it measured."""
    ended = subprocess.run(
        [sys.executable, "-c", COMMON + script, *arguments], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        sys.exit(ended.stderr)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def make_source(folder: Path, *, videos: int) -> None:
    """Empty files in class folders, with names as long as Kinetics'."""
    for label in range(CLASSES):
        (folder / f"class {label:03}").mkdir(parents=True)
    for i in tqdm(range(videos), desc="source", unit="video"):
        (folder / f"class {i % CLASSES:03}/{i:011d}_000010_000020.mp4").touch()


def fill(path: Path, *, shares: dict[int, float], died: bool = False) -> None:
    """Give shards receipts and maps: of each task the share of its shards that it has done, chosen at random.

    Args:
        path: the store. shares: task → from 0 to 1.
        died: leave a temporary file of the next shard of each task, as a kill does.
    """
    store = stores.open(path)
    size = store.shard_videos
    shards = -(-store.videos.rows // size)
    rng = np.random.default_rng(0)
    failed = rng.random(store.videos.rows) < FAILED_SHARE
    for key in store.models:
        features = store.features(*key)
        template = _template(features, size)
        lacking = {shard for shard, _ in features.pending()}
        for task, share in tqdm(shares.items(), desc=key[0], unit="task"):
            mine = [s for s in range(shards) if s in lacking and TaskShare(index=task, count=TASKS).holds(s)]
            done = round(share * len(mine))
            for shard in mine[:done]:
                file = features.folder / maps_key(shard, 0)
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("wb") as data:
                    data.truncate(size * CLIPS * features.spec.clip_stride_bytes)
                _write_receipt(features, shard, template, failed)
            if died and done < len(mine):
                left = features.folder / maps_key(mine[done], 0)
                left.parent.mkdir(parents=True, exist_ok=True)
                (left.parent / ".0.1-dead.tmp").touch()


def _template(features: stores.Features, size: int) -> dict[str, Any]:
    """A receipt of a full shard, as its file's JSON."""
    starts = tuple(range(0, CLIPS * 8, 8))
    facts = ClipFacts(
        frames=300,
        fps=29.97,
        starts=starts,
        times_seconds=tuple(start / 29.97 for start in starts),
        padded=(0,) * CLIPS,
    )
    entries = [
        VideoEntry(row=i, facts=facts, crc32c=tuple(range(4_000_000_000, 4_000_000_000 + CLIPS)))
        for i in range(size)
    ]
    stored = StoredObject(key=maps_key(0, 0), size_bytes=1, sha256="0" * 64)
    receipt = Receipt(
        shard=0,
        view=0,
        fingerprint=features.spec.fingerprint,
        ids_digest="",
        objects=(stored,),
        videos=tuple(entries),
    )
    template = dict(json.loads(receipt.to_bytes()))
    del template["digest"], template["format"]
    return template


def _write_receipt(
    features: stores.Features, shard: int, template: dict[str, Any], failed: np.ndarray
) -> None:
    first = shard * features.store.shard_videos
    ids = features.store.videos.ids[first : first + features.store.shard_videos]
    entries = []
    for i, entry in enumerate(template["videos"][: len(ids)]):
        if failed[first + i]:
            entry = {**entry, "facts": None, "crc32c": [], "reason": "no frame could be decoded"}
        entries.append({**entry, "row": first + i})
    value = {**template, "shard": shard, "ids_digest": ids_digest(ids), "videos": entries}
    target = receipt_path(features.folder, shard, 0)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(encode_checksummed(value))
    os.utime(target, (LONG_AGO + shard, LONG_AGO + shard))


def measure_size(root: Path, *, videos: int) -> dict[str, Any]:
    """Everything that depends on how many videos there are."""
    source, path = root / "source", root / "s.zarr"
    make_source(source, videos=videos)
    results: dict[str, Any] = {}

    def measure(name: str, script: str, *arguments: str) -> None:
        found = results[name] = run_child(script, *arguments)
        parts = ", ".join(f"{key} {value:.2f}" for key, value in found.items() if key not in _SHOWN)
        print(
            f"| {videos:,} | {name} | {found['seconds']:.1f} s | {found['peak_mb']:.0f} MB | {parts} |",
            flush=True,
        )

    print("\n| videos | | time | memory | of it, seconds |\n|---|---|---|---|---|")
    whole, task = (str(path), str(source), "", *MODELS), (str(path), str(source), f"3/{TASKS}", *MODELS)
    measure("first start", START, *whole)
    rng = np.random.default_rng(1)
    fill(path, shares={i: float(rng.random()) for i in range(TASKS)}, died=True)
    measure("status, all tasks died half-way", STATUS, str(path))
    measure("a task starts again", START, *task)
    measure("one process for all starts again", START, *whole)
    fill(path, shares=dict.fromkeys(range(TASKS), 1.0))
    measure("status, all whole, not consolidated", STATUS, str(path))
    measure("consolidating", FINALISE, str(path))
    measure("status, consolidated", STATUS, str(path))
    measure("consolidating again", FINALISE, str(path))
    receipts = list(path.glob("features/*/L8/receipts/*.json"))
    results["shards"] = len(receipts)
    results["receipt_bytes"] = receipts[0].stat().st_size
    return results


_SHOWN = ("seconds", "peak_mb")


@click.command()
@click.option("--videos", multiple=True, type=int, default=(240_000, 1_000_000), show_default=True)
@click.option("--only", type=click.Choice(["shard", "size"]), help="One part only.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where it is made; a temporary folder.")
def main(videos: tuple[int, ...], only: str | None, folder: Path | None) -> None:
    """Measure; see the top of this file."""
    figures: dict[str, Any] = {"cores": os.cpu_count()}
    began = time.perf_counter()
    for count in videos if only != "shard" else ():
        root = Path(tempfile.mkdtemp(prefix="scale-benchmark-", dir=folder))
        try:
            figures[f"{count} videos"] = measure_size(root, videos=count)
        finally:
            shutil.rmtree(root)
    if only != "size":
        root = Path(tempfile.mkdtemp(prefix="scale-benchmark-", dir=folder))
        try:
            calls = figures["syscalls"] = measure_syscalls(root)
            figures["overhead"] = measure_overhead(root)
            figures["budget"] = print_budget(calls, figures["overhead"])
        finally:
            shutil.rmtree(root)
    print(json.dumps({**figures, "benchmark_seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
