"""What a dask worker adds to a shard, with a network of known cost: the same shards serially, and on one worker.

    python benchmarks/dask_overhead.py                       # four minutes, and 2 GB below --folder
    python benchmarks/dask_overhead.py --shard-seconds 30

A shard is 15 videos of 32 clips with maps of the paper's shape, 100 MB. The network waits until a pass has taken its
time, and computes nothing. A figure is the time from one shard's receipt to the next, over what its passes take, less
one: medians, and the middle half; "executor" is dask's median over the serial one's, less one. The start of the workers, once a run, is said apart. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor, nn

SHARD_VIDEOS, CLIPS, BATCH = 15, 32, 8
CLIP_SECONDS = "FASTER_BENCHMARK_CLIP_SECONDS"


class Waiting(nn.Module):
    """Maps of 7×7×2048, after as long as the environment says."""

    channels = 2048

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def features(self, x: Tensor) -> Tensor:
        began = time.perf_counter()
        maps = self.scale.expand(len(x), 1, 7, 7, self.channels).clone()
        if not x.is_meta:
            time.sleep(max(0.0, len(x) * float(os.environ[CLIP_SECONDS]) - (time.perf_counter() - began)))
        return maps


def build(num_classes: int | None = None) -> nn.Module:
    """For `--model dask_overhead:build`."""
    return Waiting()


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Of the shards of a run, over what the network takes: the first quarter, the median and the last quarter."""

    median: float
    low: float
    high: float
    seconds_a_shard: float
    seconds_to_first: float


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--shards", type=int, default=8)
    options.add_argument("--shard-seconds", type=float, default=10.0)
    options.add_argument("--folder", type=Path, help="where videos and stores go; a temporary one by default")
    asked = options.parse_args()
    os.environ[CLIP_SECONDS] = str(asked.shard_seconds / (SHARD_VIDEOS * CLIPS))
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        videos = _videos(Path(folder) / "videos", asked.shards * SHARD_VIDEOS)
        for name, cluster in (("serial", None), ("dask", "local")):
            figures[name] = asdict(_run(videos, Path(folder) / f"{name}.zarr", cluster, asked.shard_seconds))
            print(f"{name}: {figures[name]}", flush=True)
    figures["executor"] = (1 + figures["dask"]["median"]) / (1 + figures["serial"]["median"]) - 1
    print(
        json.dumps(
            {
                "benchmark": "dask_overhead",
                "shards": asked.shards,
                "shard_seconds": asked.shard_seconds,
                **figures,
            }
        )
    )


def _run(videos: Path, store: Path, cluster: str | None, shard_seconds: float) -> Overhead:
    from faster.extract.pipeline.events import Event, ShardEvent, StartEvent
    from faster.extract.run import ExtractConfig, extract

    times: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, StartEvent | ShardEvent):
            times.append(time.perf_counter())

    config = ExtractConfig(
        source=str(videos),
        store=str(store),
        models=("dask_overhead:build",),
        allow_random=True,
        size=32,
        clips=CLIPS,
        clip_frames=8,
        batch_clips=BATCH,
        devices=("cpu",),
        precision="float32",
        cluster=cluster,
    )
    extract(config, progress=False, on_event=note)
    shutil.rmtree(store)
    took = [after - before for before, after in pairwise(times[1:])]
    low, median, high = (value / shard_seconds - 1 for value in quantiles(took, n=4))
    return Overhead(
        median=median,
        low=low,
        high=high,
        seconds_a_shard=sum(took) / len(took),
        seconds_to_first=times[1] - times[0] - shard_seconds,
    )


def _videos(root: Path, count: int) -> Path:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
    from sets import write_bright_video

    one = root / "train/a/0.mp4"
    write_bright_video(one, level=100, frames=256, seed=0)
    for i in range(1, count):
        os.link(one, one.with_name(f"{i}.mp4"))
    return root


if __name__ == "__main__":
    main()
