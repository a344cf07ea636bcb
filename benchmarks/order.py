"""Where only the order decides: the demo's videos at full difficulty, and how far each aggregator gets beyond averaging.

python benchmarks/order.py --out FOLDER

At difficulty 1 the kinds of event differ in their motion alone, under noise and among shapes that distract. A class is an
ordered pair of kinds, so averaging can reach exactly half of the videos in expectation (docs/demo.md), whatever the
backbones are. The label of a pair teaches a backbone nothing here (docs/log.md), so stage one is given the halves of the
training videos, cut without encoding them again, with the one kind that each shows; the aggregators get the pairs.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from statistics import fmean, stdev

import av
import click
from faster.aggregate.sweep.grid import Grid
from faster.aggregate.sweep.run import SweepConfig, run_sweep
from faster.aggregate.train import TrainConfig
from faster.demo.events import EventSet, average_ceiling, chance
from faster.demo.video_files import planned_videos, write_set
from faster.extract.run import ExtractConfig, extract
from faster.extract.train_backbone.train import TrainBackboneConfig, train_backbone
from tqdm import tqdm

EVENTS = EventSet(difficulty=1.0, videos_per_class=300, test_videos_per_class=60)
EXPENSIVE, CHEAP = "r2plus1d14-w8", "r2d14-w8"
SIZE = 56


def write_halves(videos: Path, halves: Path) -> None:
    """Each video's two halves as files of their own, in folders of the kind that they show."""
    for video in tqdm(planned_videos(EVENTS), desc="halves", unit="video"):
        part = video.path.parts[0]
        targets = [
            halves / part / kind / f"{video.path.stem}-{i}.mp4"
            for i, kind in enumerate(EVENTS.pairs[video.label])
        ]
        if not all(target.exists() for target in targets):
            for i, target in enumerate(targets):
                target.parent.mkdir(parents=True, exist_ok=True)
                _cut(videos / video.path, target, range(i * EVENTS.frames // 2, (i + 1) * EVENTS.frames // 2))


def _cut(source: Path, target: Path, frames: range) -> None:
    """Copy the packets of these frames; every frame is coded on its own."""
    unfinished = target.with_suffix(".part.mp4")
    with av.open(str(source)) as read, av.open(str(unfinished), "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        packets = [packet for packet in read.demux(video=0) if packet.size]
        kept = [packets[i] for i in frames]
        first = kept[0].pts or 0
        for packet in kept:
            packet.pts = packet.dts = (packet.pts or 0) - first
            packet.stream = stream
            write.mux(packet)
    unfinished.replace(target)


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Where everything goes.")
def main(out: Path) -> None:
    """Render, train, extract and sweep, or what of it is not done, and print the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_set(EVENTS, out / "videos", progress=True)
    write_halves(out / "videos", out / "halves")
    for model in (EXPENSIVE, CHEAP):
        trained = train_backbone(
            TrainBackboneConfig(
                model=model,
                source=str(out / "halves"),
                out=str(out / "weights"),
                size=SIZE,
                epochs=15,
                learning_rate=0.02,
                precision="bf16",
                validation_share=0.0,
                cache="uint8",
            )
        )
        click.echo(f"{model}: {100 * (trained.test_top1 or 0):.1f} % of the test halves' kinds")
    weights = tuple(str(out / "weights" / f"{model}.safetensors") for model in (EXPENSIVE, CHEAP))
    store = out / "order.zarr"
    extract(
        ExtractConfig(
            models=(EXPENSIVE, CHEAP),
            source=str(out / "videos"),
            store=str(store),
            weights=weights,
            clips=8,
            size=SIZE,
        )
    )
    grid = Grid(patterns=("all-C", "1:3", "1:1", "all-E"))
    run_sweep(SweepConfig(training=TrainConfig(store=store), grid=grid, out=out / "sweep"))
    lines = map(json.loads, (out / "sweep" / "cells.jsonl").read_text(encoding="utf-8").splitlines())
    found: dict[str, dict[str, list[float]]] = {}
    for line in lines:
        cells = found.setdefault(line["aggregator"], {}).setdefault(line["pattern"], [])
        cells.append(100 * line["metrics"]["top1"])
    patterns = grid.patterns or ()
    click.echo(f"| | {' | '.join(patterns)} |\n|{' --- |' * (1 + len(patterns))}")
    for name, by_pattern in found.items():
        shown = [
            f"{fmean(v):.1f} ± {stdev(v) / len(v) ** 0.5:.1f}" for v in map(by_pattern.__getitem__, patterns)
        ]
        click.echo(f"| {name} | {' | '.join(shown)} |")
    click.echo(f"chance {chance(EVENTS.events):.1%}, averaging at best {average_ceiling(EVENTS.events):.1%}")


if __name__ == "__main__":
    main()
