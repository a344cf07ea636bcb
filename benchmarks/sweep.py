"""A sweep against its cells trained one after another: the same runs, the same bytes, in how much less time.

    python benchmarks/sweep.py                                    # a few minutes on two cores
    python benchmarks/sweep.py --device cuda:0 --videos 512 --turns 3

The store has random maps of the paper's shape (7×7×2048, L = 8), 8 clips a video, two models, and lies in the page
cache. Each line is a grid of its aggregators × 3 patterns × 3 seeds ("fast-gru": one pattern, one seed, for its time).
Sweep and single runs take turns; a ratio is the median over the turns, with the middle half. "same" says whether the
best weights of all cells agree bit for bit. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from faster.aggregate.sweep.cells import train_config
from faster.aggregate.sweep.grid import Grid, available_features, expand
from faster.aggregate.sweep.run import SweepConfig, run_sweep
from faster.aggregate.train import TrainConfig, train_agg
from faster.store import open as open_store
from pairs import ratio, time_turns

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

GRIDS = {
    "average": (("average",), ("1:1", "1:3", "1:7"), 3),
    "tsn": (("tsn",), ("1:1", "1:3", "1:7"), 3),
    "gru": (("gru",), ("1:1", "1:3", "1:7"), 3),
    "lstm": (("lstm",), ("1:1", "1:3", "1:7"), 3),
    "pooled": (("average", "tsn", "gru", "lstm", "temporal-conv"), ("1:1", "1:3", "1:7"), 3),
    "fast-gru": (("fast-gru",), ("1:7",), 1),
    "maps": (("fast-gru", "concat", "max-pool"), ("1:7",), 1),
}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--grids", default="average,gru,fast-gru", help=", ".join(GRIDS))
    options.add_argument("--videos", type=int, default=96, help="a quarter of them is tested on")
    options.add_argument("--channels", type=int, default=2048)
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--turns", type=int, default=3)
    options.add_argument("--device", default="cpu")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = _store(Path(folder), asked.videos, asked.channels)
        figures = {}
        for name in asked.grids.split(","):
            figures[name] = _compare(Path(folder) / name, path, name, asked)
            print(f"{name}: {figures[name]}", flush=True)
    device = torch.cuda.get_device_name() if asked.device.startswith("cuda") else "cpu"
    print(json.dumps({"benchmark": "sweep", "device": device, "threads": torch.get_num_threads(), **figures}))


def _compare(folder: Path, store: Path, name: str, asked: argparse.Namespace) -> dict[str, object]:
    aggregators, patterns, seeds = GRIDS[name]
    grid = Grid(aggregators=aggregators, patterns=patterns, seeds=seeds)
    training = TrainConfig(store=store, epochs=asked.epochs, device=asked.device)
    cells, _ = expand(grid, available_features(open_store(store)))

    def alone(turn: int) -> None:
        for cell in cells:
            config = train_config(training, cell, folder / f"alone{turn}")
            train_agg(config, progress=False)

    def together(turn: int) -> None:
        config = SweepConfig(training=training, grid=grid, out=folder / f"sweep{turn}")
        assert not run_sweep(config, progress=False).failed

    seconds = time_turns({"alone": alone, "sweep": together}, turns=asked.turns, warm_ups=1)
    speed = ratio(seconds, "sweep", "alone")
    same = all(
        (folder / "alone0/cells" / cell.name / file).read_bytes()
        == (folder / "sweep0/cells" / cell.name / file).read_bytes()
        for cell in cells
        for file in ("best.safetensors", "predictions.csv")
    )
    return {"cells": len(cells), "times as fast": asdict(speed), "same": same, "seconds": seconds}


def _store(folder: Path, videos: int, channels: int) -> Path:
    from stores import make_spec, make_store, make_videos

    make = functools.partial(make_spec, clips=8, map_shape=(1, 7, 7, channels), class_names=("x", "y", "z"))
    path = folder / "maps.zarr"
    make_store(path, [make("dear"), make("cheap")], make_videos(videos), signal=True, shard_videos=16)
    return path


if __name__ == "__main__":
    main()
