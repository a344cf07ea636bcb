"""What a shard costs beside decoding and the forward pass: metadata operations, by strace, and time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extract_runs import write_video
from faster import store as stores
from faster.extract.pipeline.events import ShardEvent, VideoEvent
from faster.extract.pipeline.job import ExtractJob, ShardTask
from faster.extract.pipeline.worker import ExtractWorker
from numpy.typing import NDArray
from store_maps import MAP_SHAPE, begin_store, make_spec

SHARD_VIDEOS, CLIPS = 16, 32
# The budget: a Lustre file system with one metadata server, by mdtest with 240 threads (Dell Storage for HPC with Intel
# Enterprise Edition for Lustre, figure 12: creates; removals do 100,000). Every change and fsync is counted as a create.
CHANGES_PER_SECOND, LOOKS_PER_SECOND = 15_000, 400_000
BUSY_TASKS = 64
# Seconds a clip of the two networks: as a GPU that does 6 TFLOP/s of them, and one that does 60.
COSTS = {"6 TFLOP/s": (10e-3, 1e-3), "60 TFLOP/s": (1e-3, 0.1e-3)}
CHANGES = {"mkdir", "link", "linkat", "unlink", "unlinkat", "rename", "creat"}

EXTRACT = """
import sys
from faster.extract import run
if __name__ == "__main__":
    run.shard_videos_for = lambda *_: {shard_videos}
    from faster.cli import main
    main(sys.argv[1:])
"""


def measure_syscalls(root: Path, *, few: int = 2, many: int = 6) -> dict[str, float]:
    """System calls with a path, and fsyncs, of one shard of one model: the difference between many shards and few."""
    if shutil.which("strace") is None:
        print("\nno strace on this machine: metadata operations are not counted")
        return {}
    script = root / "extract.py"
    script.write_text(EXTRACT.format(shard_videos=SHARD_VIDEOS))
    original = root / "original.mp4"
    write_video(original, frames=16, width=64, height=48, seed=0)
    counts = {shards: _count_calls(root, script, original, shards) for shards in (few, many)}
    found = {name: (counts[many][name] - counts[few][name]) / (many - few) for name in sorted(counts[many])}
    print("\n## Metadata operations of one shard of one model, 16 videos (strace)")
    for name, calls in found.items():
        print(f"{name}: {calls:.1f}")
    print(f"all: {sum(found.values()):.1f}")
    return found


def _count_calls(root: Path, script: Path, original: Path, shards: int) -> Counter[str]:
    source, store, out = root / f"videos {shards}", root / f"{shards}.zarr", root / f"strace {shards}"
    source.mkdir()
    for i in range(shards * SHARD_VIDEOS):
        os.link(original, source / f"{i:04}.mp4")
    command = ["strace", "-f", "-y", "-qq", "-s", "4096", "-e", "trace=%file,fsync,fdatasync", "-o", str(out)]
    command += [
        sys.executable,
        str(script),
        "extract",
        str(source),
        "--format",
        "files",
        "--store",
        str(store),
    ]
    command += ["--model", "r2d14-w4", "--allow-random", "--clips", "2", "--size", "32", "--devices", "cpu"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    counts: Counter[str] = Counter()
    for line in out.read_text(errors="replace").splitlines():
        match = re.match(r"\d+ +(\w+)\(", line)
        if match and (str(store) in line or str(source) in line):
            counts[_kind(match[1], line, str(store) in line)] += 1
    return counts


def _kind(call: str, line: str, in_store: bool) -> str:
    if not in_store:
        return "looks at videos"
    if call in ("fsync", "fdatasync"):
        return "store: fsync"
    if call in CHANGES or "O_CREAT" in line:
        return "store: changes" if " = -1 " not in line else "store: changes that found it done"
    return "store: looks"


class FakeBackbone:
    """Takes its time, exactly, and gives maps of the real size."""

    device = torch.device("cpu")

    def __init__(self, seconds_per_clip: float) -> None:
        self.seconds_per_clip, self.spent = seconds_per_clip, 0.0
        rng = np.random.default_rng(0)
        self._maps = np.maximum(rng.standard_normal((CLIPS, *MAP_SHAPE)), 0).astype(np.float16)

    def __call__(self, clips: torch.Tensor, *, first_clip: int = 0) -> tuple[NDArray[np.float16], None]:
        """As `FrozenBackbone`; the core is free meanwhile, as with a GPU."""
        until = time.perf_counter() + len(clips) * self.seconds_per_clip
        self.spent += len(clips) * self.seconds_per_clip
        maps = self._maps[: len(clips)].copy()
        time.sleep(max(0.0, until - time.perf_counter()))
        return maps, None

    def pass_clips(self, clip_frames: int, size: int) -> int:
        """As `FrozenBackbone`."""
        return 8

    def require_clips_apart(self, clip_frames: int, size: int) -> None:
        """As `FrozenBackbone`."""


def measure_overhead(root: Path, *, few: int = 1, many: int = 5) -> dict[str, Any]:
    """A shard's time outside of waiting for decoders and of the networks, of which the cost is known."""
    videos = root / "real"
    for i in range(4):
        write_video(videos / f"{i}.mp4", frames=300, width=340, height=256, seed=i)
    results = {}
    print("\n## Overhead of a shard: 16 videos of ten seconds, 32 clips, two models, files of 103 MB")
    print(
        "| networks at | a shard | forward | waiting for decoders | the rest | share of the rest |\n|---|---|---|---|---|---|"
    )
    for name, costs in COSTS.items():
        runs = {
            shards: _run(root / f"{name} {shards}".replace("/", " "), videos, shards, costs)
            for shards in (few, many)
        }
        wall, forward, waited = ((b - a) / (many - few) for a, b in zip(runs[few], runs[many], strict=True))
        rest = wall - forward - waited
        found = {
            "shard_seconds": wall,
            "forward_seconds": forward,
            "decode_wait_seconds": waited,
            "rest_share": rest / wall,
        }
        print(
            f"| {name} | {wall:.2f} s | {forward:.2f} s | {waited:.2f} s | {rest * 1e3:.0f} ms | {rest / wall:.2%} |",
            flush=True,
        )
        results[name] = found
    return results


def _run(path: Path, videos: Path, shards: int, costs: tuple[float, float]) -> tuple[float, float, float]:
    """Seconds of a run of so many shards: in all, of the networks, and of waiting for decoders after the first video."""
    specs = [
        replace(make_spec(model, clips=CLIPS), transform={"size": 224}) for model in ("r2plus1d50", "r2d26")
    ]
    manifest = begin_store(path, specs, videos=shards * SHARD_VIDEOS, shard_videos=SHARD_VIDEOS)
    for i in range(shards * SHARD_VIDEOS):
        link = path.parent / "linked" / manifest.paths[i]
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            os.link(videos / f"{i % 4}.mp4", link)
    job = ExtractJob(
        store=str(path),
        root=str(path.parent / "linked"),
        models=tuple((spec.model, spec.clip_frames) for spec in specs),
        fingerprints=tuple(spec.fingerprint for spec in specs),
        segments=manifest.segments,
        weights=(None, None),
        allow_random=True,
        precisions=("float32", "float32"),
        batch_clips=8,
        compiled=False,
        decoders=1,
        devices=("cpu",),
    )
    tasks = [
        ShardTask(
            shard=shard,
            rows=tuple(range(shard * SHARD_VIDEOS, (shard + 1) * SHARD_VIDEOS)),
            outputs=((0, 0), (1, 0)),
            shard_videos=SHARD_VIDEOS,
        )
        for shard in range(shards)
    ]
    networks = [FakeBackbone(cost) for cost in costs]
    waited = 0.0

    def report(event: VideoEvent | ShardEvent) -> None:
        nonlocal waited
        if isinstance(event, VideoEvent):
            if event.reason:
                sys.exit(event.reason)
            waited += event.times.decode_wait_seconds

    began = time.perf_counter()
    ExtractWorker(job, stores.open(path), networks).run(tasks, report)  # type: ignore[arg-type]  # stand-ins
    seconds = time.perf_counter() - began
    shutil.rmtree(path)
    return seconds, sum(network.spent for network in networks), waited


def print_budget(calls: dict[str, float], overhead: dict[str, dict[str, float]]) -> dict[str, float]:
    """The share of the metadata budget that `BUSY_TASKS` tasks take together, two models each, by speed."""
    shares = {}
    for name, found in overhead.items() if calls else ():
        shards_per_second = BUSY_TASKS / found["shard_seconds"]
        looks = shards_per_second * (
            calls["looks at videos"] + 2 * calls["store: looks"]
        )  # videos once for both models
        changes = (
            shards_per_second
            * 2
            * sum(calls[key] for key in calls if key.startswith(("store: changes", "store: fsync")))
        )
        shares[name] = changes / CHANGES_PER_SECOND + looks / LOOKS_PER_SECOND
        print(
            f"{BUSY_TASKS} tasks with networks at {name}: {changes:,.0f} changes and {looks:,.0f} looks a second, "
            f"{shares[name]:.2%} of the budget"
        )
    return shares
